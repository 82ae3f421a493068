"""Schema, row text, grammars and the rows' own language: exact there and back, and nothing but what was seen."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_models import tiny_tokeniser

from consilience.errors import UserError
from consilience.tabular.codec import RowCodec
from consilience.tabular.grammar import ColumnGrammar
from consilience.tabular.language import BEGIN, END, RowConstraint, RowLanguage
from consilience.tabular.schema import TableSchema, Value

TOKENISER = tiny_tokeniser()


def tokenise(text: str) -> list[int]:
    found: list[int] = TOKENISER(text, add_special_tokens=False)["input_ids"]
    return found


def grammar(values: Any) -> ColumnGrammar:
    return ColumnGrammar(TableSchema.of(pd.DataFrame({"x": values})).columns[0], tokenise)


def words(found: ColumnGrammar, beginning: tuple[int, ...] = ()) -> Iterator[tuple[int, ...]]:
    options = found.options(beginning)
    assert len(options) != 1, "what is certain is not spelt"
    if not options:
        yield beginning
    for symbol in options:
        yield from words(found, (*beginning, symbol))


def said(found: ColumnGrammar) -> list[Value]:
    return [found.decode(word) for word in words(found)]


def everything() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "n": [1, -20, 3],
            "price": [0.1, 0.25, np.nan],
            "wild": [1e300, 2.5e300, 2e300],
            "single": np.array([0.1, 0.2, 0.3], dtype="float32"),
            "big": np.array([1, 2, 2**64 - 1], dtype="uint64"),
            "nullable": pd.array([1, None, 2], dtype="Int64"),
            "flag": [True, False, True],
            "maybe": pd.array([True, None, False], dtype="boolean"),
            "mixed": [True, None, False],
            'a is "b", c': ["missing", 'say "x", is', None],
            "level": pd.Categorical([1, 2, 1], categories=[2, 1, 3], ordered=True),
            "day": pd.to_datetime(["2024-02-29", "2023-12-31", None]),
            "moment": pd.to_datetime(["2024-02-29 10:00:01", "2023-12-31 00:00:00", None]).tz_localize("Europe/Rome"),
            "fine": pd.to_datetime(["2024-02-29 10:00:01.25", "2023-12-31 00:00:00.5", None], format="ISO8601"),
            "iso": ["2024-02-29", "2023-12-31", None],
            "gone": [np.nan] * 3,
            "none": [None] * 3,
        }
    )


def test_a_table_comes_back_with_its_types() -> None:
    frame = everything()
    schema = TableSchema.of(frame, "n")
    pd.testing.assert_frame_equal(schema.frame(schema.rows(frame)), frame)
    assert TableSchema.from_json(json.loads(json.dumps(schema.to_json()))) == schema
    assert schema.frame([]).dtypes.equals(frame.dtypes)


def test_kinds_and_precision() -> None:
    schema = TableSchema.of(everything())
    kinds = ["integer", "float", "float", "float", "integer", "integer", "boolean", "boolean", "boolean"]
    assert [column.kind for column in schema.columns] == [
        *kinds, "category", "category", "date", "date", "date", "date", "float", "category",
    ]  # fmt: skip
    assert [schema[name].decimals for name in ("price", "single", "n")] == [2, 1, 0]
    assert (schema["n"].low, schema["n"].high, schema["iso"].low) == (-20, 3, "2023-12-31")
    noise = TableSchema.of(pd.DataFrame({"x": [0.123456789123, 0.987654321987]}))["x"]
    assert (noise.decimals, noise.low) == (6, 0.123457), "no more than six digits of what cannot be told exactly"


@pytest.mark.parametrize(
    ("frame", "target", "message"),
    [
        (pd.DataFrame(), None, "no columns"),
        (pd.DataFrame({"x": []}), None, "no rows"),
        (pd.DataFrame([[1, 2]], columns=["x", "x"]), None, "two columns are named 'x'"),
        (pd.DataFrame({"x": [1]}), "y", "target 'y': no such column; expected one of x"),
        (pd.DataFrame({0: [1]}), None, "column 0 is named 0"),
        (pd.DataFrame({"x": [1.0, np.inf]}), None, "column 'x', row 1: infinite"),
        (pd.DataFrame({"x": [[1], [2]]}), None, "column 'x', row 0: a list"),
        (pd.DataFrame({"x": ["1", 1]}), None, "column 'x', row 1: 1 beside '1'"),
    ],
)
def test_what_is_no_table(frame: pd.DataFrame, target: str | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        TableSchema.of(frame, target)


CELLS = {
    "text": st.text(max_size=12) | st.sampled_from(["missing", " is ", "a, b is c", '"', "\\", "é\n", "", " x "]),
    "number": st.integers(-(10**18), 10**18),
    "decimal": st.integers(-(10**7), 10**7).map(lambda steps: steps / 1000),
    "date": st.dates().map(pd.Timestamp),
}


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_row_text_and_language_lose_nothing(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(sorted(CELLS)), min_size=1, max_size=4))
    names = data.draw(st.lists(CELLS["text"].filter(bool), min_size=len(kinds), max_size=len(kinds), unique=True))
    n = data.draw(st.integers(1, 4))
    frame = pd.DataFrame(
        {
            name: data.draw(
                st.lists(CELLS[kind] | (st.none() if kind == "text" else st.nothing()), min_size=n, max_size=n)
            )
            for name, kind in zip(names, kinds, strict=True)
        }
    )
    schema = TableSchema.of(frame)
    codec, language = RowCodec(schema), RowLanguage(schema, tokenise)
    for row in schema.rows(frame):
        order = data.draw(st.permutations(schema.names))
        cells = dict(zip(schema.names, row, strict=True))
        assert codec.read_row(codec.row_text(cells, order)) == cells
        spelt = {place: language.encode(place, row[place]) for place in range(len(names))}
        tokens = language.write(spelt, [schema.names.index(name) for name in order if _told(language, schema, name)])
        assert language.row(language.read([BEGIN, *tokens, END])) == row
        assert len(tokens) + 2 <= language.longest


def _told(language: RowLanguage, schema: TableSchema, name: str) -> bool:
    return schema.names.index(name) in language.columns


@pytest.mark.parametrize("text", ["x is 1, x is 2", "y is 1", "x is blue", 'x is "1', "", 'x is "a"b'])
def test_texts_that_are_no_row(text: str) -> None:
    with pytest.raises(UserError, match="row text"):
        RowCodec(TableSchema.of(pd.DataFrame({"x": [1, 2]}))).read_row(text)


def test_numbers_are_those_in_the_range() -> None:
    assert sorted(said(grammar([-12, 107]))) == list(range(-12, 108))
    assert sorted(said(grammar([-30, -12]))) == list(range(-30, -11))
    assert said(grammar([0.5, 1.5, 1.0])) == [steps / 10 for steps in range(5, 16)]
    assert None in said(grammar([1.0, np.nan, 2.0]))
    assert said(grammar([7, 7])) == [7]
    assert said(grammar(pd.array([7, None], dtype="Int64"))) == [None, 7]


def test_dates_are_days_of_the_calendar() -> None:
    found = said(grammar(pd.to_datetime(["2023-11-28", "2024-03-02"])))
    assert found == [day.strftime("%Y-%m-%d") for day in pd.date_range("2023-11-28", "2024-03-02")]
    seconds = said(grammar(pd.to_datetime(["2024-02-28 23:59:58", "2024-02-29 00:00:01"])))
    assert seconds == [str(moment) for moment in pd.date_range("2024-02-28 23:59:58", "2024-02-29 00:00:01", freq="s")]


def test_categories_are_those_that_were_seen() -> None:
    values = ["a", "a b", "ab", "", "missing", None, "ü", "a, b is c", "no", "nothing"]
    assert set(said(grammar(values))) == set(values)
    many = [f"category {number}" for number in range(500)]
    assert sorted(said(grammar(many))) == sorted(many)  # type: ignore[type-var]
    assert said(grammar([None, None])) == [None]
    assert said(grammar(["one", "one"])) == ["one"]
    assert set(said(grammar([True, False, None]))) == {True, False, None}
    assert set(map(type, said(grammar(pd.Categorical([1, 2]))))) == {int}


def test_categories_that_the_tokeniser_confuses() -> None:
    blind = ColumnGrammar(
        TableSchema.of(pd.DataFrame({"x": ["A", "a", "b"]})).columns[0], lambda t: tokenise(t.lower())
    )
    assert set(said(blind)) == {"A", "a", "b"}
    assert all(blind.decode(blind.encode(value)) == value for value in ("A", "a", "b"))


@pytest.mark.parametrize(
    ("values", "impossible"),
    [([1, 9], 10), ([1, 9], None), ([1, 9], "1"), (["a", "b"], "c"), ([True, False], 1), ([0.5, 2.0], 2.5)],
)
def test_values_that_a_column_cannot_have(values: list[Any], impossible: Any) -> None:
    with pytest.raises(UserError, match=r"column 'x': .*; expected"):
        grammar(values).encode(impossible)


def test_the_constraint_allows_whole_rows_only() -> None:
    frame = pd.DataFrame({"n": [1, 30, 7], "c": ["yes", "no", None], "same": [1, 1, 1]})
    schema = TableSchema.of(frame)
    language = RowLanguage(schema, tokenise)
    constraint = RowConstraint(language)
    prompt = torch.tensor([[END, BEGIN], [END, BEGIN]])  # padded on the left
    responses = torch.zeros(2, 0, dtype=torch.long)
    random = np.random.default_rng(0)
    for _ in range(language.longest):
        logits = constraint(prompt, responses, torch.full((2, language.size), 5.0))
        options = [(row > -torch.inf).nonzero()[:, 0].tolist() for row in logits]
        responses = torch.cat([responses, torch.tensor([[random.choice(each)] for each in options])], dim=1)
    assert (responses == END).any(1).all()
    for line in responses.tolist():
        row = language.row(language.read(line[: line.index(END)]))
        assert language.row({place: language.encode(place, row[place]) for place in range(3)}) == row
    first = constraint(prompt, torch.zeros(2, 0, dtype=torch.long), torch.randn(2, language.size))
    assert first[0][first[0] > -torch.inf].tolist() == [0.0, 0.0], "the next column is chance"


def test_the_target_comes_last() -> None:
    """As often as is asked for, the others in any order; the constraint names it after all others."""
    frame = pd.DataFrame({"y": [0, 1], "a": [1, 2], "b": [3, 5]})
    language = RowLanguage(TableSchema.of(frame, "y"), tokenise)
    assert language.target == 0
    for share, expected in ((0.0, 1 / 3), (0.5, 2 / 3), (1.0, 1.0)):
        orders = language.orders(language.columns, 6_000, np.random.default_rng(0), share)
        assert (np.sort(orders, axis=1) == [0, 1, 2]).all()
        assert (orders[:, -1] == 0).mean() == pytest.approx(expected, abs=0.02)
        assert (orders[orders[:, -1] == 0, 0] == 1).mean() == pytest.approx(0.5, abs=0.03)
    assert (language.orders([2], 3, np.random.default_rng(0), 1.0) == 2).all()
    constraint, logits = RowConstraint(language), torch.zeros(1, language.size)
    prompt = torch.tensor([[BEGIN]])
    named = {language.name(column): column for column in language.columns}
    first = constraint(prompt, torch.zeros(1, 0, dtype=torch.long), logits)[0]
    assert {named[token] for token in (first > -torch.inf).nonzero()[:, 0].tolist()} == {1, 2}
    told = torch.tensor([language.write({1: language.encode(1, 2), 2: language.encode(2, 5)}, [2, 1])])
    last = constraint(prompt, told, logits)[0]
    assert [named[token] for token in (last > -torch.inf).nonzero()[:, 0].tolist()] == [0]
    assert RowLanguage(TableSchema.of(frame.assign(y=1), "y"), tokenise).target is None
