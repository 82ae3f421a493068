"""The settings that all report templates share."""

from pathlib import Path

import jinja2

from consilience.report.text import DASH, is_missing, number, percent


def environment() -> jinja2.Environment:
    """Templates of this folder: escaped, strict about names; filters `num` and `pct`, test `missing`, global `dash`."""
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters.update(num=number, pct=percent)
    found.tests["missing"] = is_missing
    found.globals["dash"] = DASH
    return found
