"""Typed configuration: YAML, overridden by `--set key.path=value`, refused by name where it is wrong."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from consilience.errors import UserError, one_line


class Config(BaseModel):
    """Base of every config block: unknown keys are errors, values are frozen once read."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


C = TypeVar("C", bound=Config)


def load_config(kind: type[C], path: Path | None, overrides: Sequence[str] = ()) -> C:
    """Read `path`, apply `key.path=value` overrides (values are YAML) and validate as `kind`.

    Raises:
        UserError: no such file, not YAML, an unknown or missing key, a value of the wrong type or range.
    """
    raw: Any = {} if path is None else _read_yaml(path)
    for override in overrides:
        _apply(raw, override)
    return parse_config(kind, raw, str(path or "command line"))


def parse_config(kind: type[C], raw: object, where: str) -> C:
    """Validate `raw` as `kind`; `where` names its origin in an error."""
    try:
        return kind.model_validate(raw)
    except ValidationError as error:
        raise UserError(f"{where}: {_explain(error, kind, raw)}") from None


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such config file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML: {one_line(error)}") from None
    if raw is None:
        return {}
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected keys and values, found a {type(raw).__name__}")
    return raw


def _apply(raw: dict[str, Any], override: str) -> None:
    key, found, text = override.partition("=")
    if not found or not key:
        raise UserError(f"--set {override}: expected key.path=value")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"--set {override}: '{text}' is not a YAML value") from None
    *parents, last = key.split(".")
    node: Any = raw
    for part in parents:
        node = _child(node, part, override)
    if isinstance(node, list):
        node[_index(node, last, override)] = value
    else:
        node[last] = value


def _child(node: Any, part: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_index(node, part, override)]
    child = node.setdefault(part, {})
    if not isinstance(child, dict | list):
        raise UserError(f"--set {override}: '{part}' holds a value, not keys")
    return child


def _index(node: list[Any], part: str, override: str) -> int:
    if not part.isdecimal() or int(part) >= len(node):
        raise UserError(f"--set {override}: '{part}' is not a position in a list of {len(node)}")
    return int(part)


_EXPECTED = {
    "bool": "true or false",
    "dict": "keys and values",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "model": "keys and values",
    "path": "a path",
    "string": "text",
    "tuple": "a list",
}


def _explain(error: ValidationError, kind: type[Config], raw: object) -> str:
    """The first problem as one line (a misspelt key before all): key, what is wrong, what was expected."""
    within = {found["loc"][:length] for found in error.errors() for length in range(len(found["loc"]))}
    problems = [found for found in error.errors() if found["loc"] not in within]  # a list is not short, its items fail
    problem = min(problems, key=lambda problem: problem["type"] != "extra_forbidden")
    key = _key(problem["loc"], raw, problem["type"] == "missing") or "config"
    keys = {_key(each["loc"], raw, each["type"] == "missing") for each in problems}  # a union fails in several ways
    more = f" (and {len(keys) - 1} more)" if len(keys) > 1 else ""
    context = problem.get("ctx", {})
    tag = f"{key}.{context['discriminator'].strip(chr(39))}" if "discriminator" in context else ""
    found = problem["input"]
    match problem["type"]:
        case "extra_forbidden":
            return f"unknown key '{key}'; known keys here: {', '.join(_known_keys(kind, problem['loc']))}{more}"
        case "missing":
            return f"missing key '{key}'{more}"
        case "union_tag_not_found":
            return f"missing key '{tag}'{more}"
        case "union_tag_invalid":
            return f"key '{tag}': expected one of {context['expected_tags']}, found {context['tag']!r}{more}"
        case "too_short":
            message = f"expected at least {context['min_length']}"
        case "too_long":
            message = f"expected at most {context['max_length']}"
        case type_ if type_.endswith(("_type", "_parsing")) and type_.split("_")[0] in _EXPECTED:
            message = f"expected {_EXPECTED[type_.split('_')[0]]}"
        case _:
            message = problem["msg"].removeprefix("Value error, ").replace("Input should be ", "expected ")
    shown = f", found {found!r}" if isinstance(found, str | int | float | bool | None) else ""
    return f"key '{key}': {message}{shown}{more}"


def _key(loc: Sequence[int | str], raw: object, missing: bool) -> str:
    """The key as it is written in a config: without the names of types that pydantic tries on the way."""
    parts: list[int | str] = []
    node: Any = raw
    for part in loc:
        if isinstance(node, list | tuple):
            inside = isinstance(part, int) and part < len(node)
        else:
            inside = isinstance(node, dict) and part in node
        if inside:
            node = node[part]
            parts.append(part)
    return ".".join(map(str, [*parts, *loc[-1:]] if missing else parts))


def _known_keys(kind: type[Config], loc: tuple[int | str, ...]) -> list[str]:
    """Keys of the config block that holds the unknown key at `loc`."""

    def blocks(annotation: Any) -> list[type[Config]]:
        if isinstance(annotation, type) and issubclass(annotation, Config):
            return [annotation]
        return [block for part in get_args(annotation) for block in blocks(part)]

    found: list[type[Config]] = [kind]
    for part in loc[:-1]:
        fields = [block.model_fields[part] for block in found if isinstance(part, str) and part in block.model_fields]
        if fields:
            found = [block for field in fields for block in blocks(field.annotation)]
        elif isinstance(part, str):  # the tag of a discriminated union
            tagged = [b for b in found if part in get_args(b.model_fields["kind"].annotation)]
            found = tagged or found
    return sorted({name for block in found for name in block.model_fields})
