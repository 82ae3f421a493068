"""What all report pages share: the templates' settings, and the facts of a run that each of them shows."""

from pathlib import Path
from typing import Any

import jinja2
import yaml

from consilience.files import write_text
from consilience.report.text import DASH, is_missing, number, percent
from consilience.runs import read_manifest, read_summary


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


def write_page(folder: Path, template: str, **facts: Any) -> Path:
    """Render `template` as `folder`/report.html; returns its path.

    Args:
        folder: of a run.
        template: is given the run's `manifest`, `summary`, `config` (YAML) and the name of its `folder`.
        facts: what it is given besides.

    Raises:
        UserError: `folder` is not a run folder, or the page cannot be written.
    """
    manifest = read_manifest(folder)
    page = (
        environment()
        .get_template(template)
        .render(
            manifest=manifest,
            summary=read_summary(folder),
            config=yaml.safe_dump(manifest["config"], sort_keys=False, allow_unicode=True, width=100),
            folder=folder.resolve().name,
            **facts,
        )
    )
    path = folder / "report.html"
    write_text(path, page)
    return path
