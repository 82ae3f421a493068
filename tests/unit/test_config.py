"""Typed configuration: what is refused, and how it is said."""

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field

from consilience.config import Config, load_config, parse_config
from consilience.errors import UserError
from consilience.workers import WorkersConfig


class Inner(Config):
    rate: float = Field(0.5, ge=0, le=1)
    kind: Literal["soft", "hard"] = "soft"


class Outer(Config):
    data: Path
    inner: Inner = Inner()
    names: tuple[str, ...] = ("a", "b")


class Tea(Config):
    kind: Literal["tea"] = "tea"
    minutes: int = 3
    steep: tuple[int, int] = (3, 4)


class Coffee(Config):
    kind: Literal["coffee"] = "coffee"


class Order(Config):
    cups: tuple[Annotated[Tea | Coffee, Field(discriminator="kind")], ...] = Field(min_length=1)


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_overrides_reach_nested_keys_and_lists(tmp_path: Path) -> None:
    path = write(tmp_path, "data: x.csv\nnames: [a, b, c]\n")
    config = load_config(Outer, path, ["inner.rate=0.25", "names.1=z", "data=y.csv"])
    assert config == Outer(data=Path("y.csv"), inner=Inner(rate=0.25), names=("a", "z", "c"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("data: x\ninnner: {}\n", "unknown key 'innner'; known keys here: data, inner, names"),
        ("data: x\ninner: {rte: 1}\n", "unknown key 'inner.rte'; known keys here: kind, rate"),
        ("inner: {}\n", "missing key 'data'"),
        ("data: x\ninner: {rate: 2}\n", "key 'inner.rate': expected less than or equal to 1, found 2"),
        ("data: x\ninner: {kind: other}\n", "key 'inner.kind': expected 'soft' or 'hard', found 'other'"),
        ("- a\n", "expected keys and values, found a list"),
        ("a: [\n", "not valid YAML"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(UserError) as error:
        load_config(Outer, path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cups", "message"),
    [
        ("x", "key 'cups': expected a list, found 'x'"),
        ([], "key 'cups': expected at least 1"),
        ([{}], "missing key 'cups.0.kind'"),
        ([{"kind": "tea", "steep": [3]}], "missing key 'cups.0.steep.1'"),
        ([{"kind": "tea", "steep": [3, 4, 5]}], "key 'cups.0.steep': expected at most 2"),
        ([{"kind": "milk"}], "key 'cups.0.kind': expected one of 'tea', 'coffee', found 'milk'"),
        (
            [{"kind": "tea"}, {"kind": "tea", "minute": 4}],
            "unknown key 'cups.1.minute'; known keys here: kind, min",
        ),
        ([{"kind": "tea", "minutes": "long"}], "key 'cups.0.minutes': expected a whole number, found 'long'"),
    ],
)
def test_types_are_said_in_words_and_keys_as_they_are_written(cups: object, message: str) -> None:
    with pytest.raises(UserError) as error:
        parse_config(Order, {"cups": cups}, "order")
    assert str(error.value).startswith(f"order: {message}")
    assert "more" not in str(error.value)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner", "expected key.path=value"),
        ("inner.rate=[", "is not a YAML value"),
        ("data.x=1", "'data' holds a value, not keys"),
        ("names.7=x", "'7' is not a position in a list of 2"),
    ],
)
def test_a_wrong_override_is_one_line(tmp_path: Path, override: str, message: str) -> None:
    path = write(tmp_path, "data: x\nnames: [a, b]\n")
    with pytest.raises(UserError, match="--set") as error:
        load_config(Outer, path, [override])
    assert message in str(error.value)


def test_missing_and_undecodable_files(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.yaml: no such config file"):
        load_config(Outer, tmp_path / "absent.yaml")
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"data: caf\xe9\n")
    with pytest.raises(UserError, match=r"latin\.yaml: cannot be read"):
        load_config(Outer, latin)


def test_workers_do_not_share_a_gpu() -> None:
    with pytest.raises(UserError, match=r"workers that share a GPU cannot talk \(NCCL\); expected 1 or 0"):
        parse_config(WorkersConfig, {"workers": 2, "num_gpus": 0.5}, "workers")
    assert parse_config(WorkersConfig, {"num_gpus": 0.5}, "workers").num_gpus == 0.5
