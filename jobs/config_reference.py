"""Every key of every job's config as Markdown, from the types that read it: `python -m jobs.config_reference`."""

import importlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

import yaml
from pydantic.fields import FieldInfo

from consilience.config import Config
from jobs.cli import Job

_HEAD = """# Config keys

Written by `python -m jobs.config_reference > docs/config.md` from the types that read the configs; a test keeps it so.

A config is YAML with the keys of its job; unknown keys are errors. Keys in bold are required. A value that is a link
is a block, with the keys of the table behind it: `lora: {rank: 8, alpha: 16}` in a config, `--set lora.rank=8` on the
command line. The keys of the service are in [serving.md](serving.md).
"""
_BOUNDS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<", "minItems": "length ≥"}


def render() -> str:
    """The whole page: a section for each job, then one for each block that their keys name."""
    jobs = sorted(_jobs(), key=lambda job: job.name)
    blocks = dict.fromkeys(kind for job in jobs for kind in _within(job.config))
    names = Counter(kind.__name__ for kind in blocks)
    # Two blocks of one name are told apart by the package that they are from: `realign.SplitConfig`.
    titles = {
        kind: kind.__name__ if names[kind.__name__] == 1 else f"{kind.__module__.split('.')[-2]}.{kind.__name__}"
        for kind in blocks
    }
    sections = [_HEAD, "## Jobs\n"]
    sections += [_section(job.name, job.config, titles) for job in jobs]
    sections.append("## Blocks\n")
    by_title = sorted(titles.items(), key=lambda item: item[1])
    sections += [_section(title, kind, titles) for kind, title in by_title]
    return "\n".join(sections)


def _jobs() -> Iterator[Job[Any]]:
    for path in Path(__file__).parent.glob("*.py"):
        if re.search(r"^JOB = Job\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            yield importlib.import_module(f"jobs.{path.stem}").JOB


def _within(kind: type[Config]) -> Iterator[type[Config]]:
    """The blocks in a config, at any depth."""
    for field in kind.model_fields.values():
        for block in _blocks(field.annotation):
            yield block
            yield from _within(block)


def _blocks(annotation: Any) -> list[type[Config]]:
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return [annotation]
    return [block for part in get_args(annotation) for block in _blocks(part)]


def _section(title: str, kind: type[Config], titles: Mapping[type[Config], str]) -> str:
    """Heading, what the block is, and a table of its keys."""
    about = (kind.__doc__ or "").split("\n\n")[0].strip().replace("\n    ", " ")
    properties = kind.model_json_schema(ref_template="{model}")["properties"]
    rows = []
    for name, field in kind.model_fields.items():
        links = {block.__name__: titles[block] for block in _blocks(field.annotation)}
        shown = f"**{name}**" if field.is_required() else name
        meaning = (field.description or "").replace("|", "\\|")
        rows.append(f"| {shown} | {_type(properties[name], links)} | {_default(field)} | {meaning} |")
    table = "\n".join(["| key | value | default | meaning |", "|---|---|---|---|", *rows])
    return f"### {title}\n\n{about}\n\n{table}\n"


def _type(schema: dict[str, Any], links: Mapping[str, str]) -> str:
    """A JSON schema in words; `links` says under which titles the blocks that it names stand."""
    if "$ref" in schema:
        title = links[schema["$ref"]]
        return f"[{title}](#{title.lower().replace('.', '')})"
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    for key in ("anyOf", "oneOf", "allOf"):
        if key in schema:
            return " or ".join(_type(part, links) for part in schema[key])
    kind = schema.get("type", "anything")
    if kind == "array" and "prefixItems" in schema:
        return f"[{', '.join(_type(part, links) for part in schema['prefixItems'])}]"
    if kind == "array":
        kind = f"list of {_type(schema['items'], links)}"
    elif kind == "object":
        values = schema.get("additionalProperties", True)
        kind = f"keys to {_type(values, links)}" if isinstance(values, dict) else "keys and values"
    elif kind == "string" and schema.get("format") == "path":
        kind = "path"
    bounds = [f"{sign} {schema[key]:g}" for key, sign in _BOUNDS.items() if key in schema]
    return ", ".join([kind, *bounds])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    default = field.get_default(call_default_factory=True)
    if isinstance(default, Config):
        default = default.model_dump(mode="json", exclude_defaults=True)
        if not default:
            return "its own"
    if isinstance(default, tuple):
        default = list(default)
    shown = yaml.safe_dump(default, default_flow_style=True, width=10_000, allow_unicode=True)
    return f"`{shown.removesuffix(chr(10)).removesuffix(chr(10) + '...')}`"


if __name__ == "__main__":
    print(render(), end="")
