"""A row as text, "column is value, column is value", and back without loss."""

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal

from consilience.errors import UserError
from consilience.tabular.schema import ColumnSchema, TableSchema, Value

_PLAIN = re.compile(r'[^\s",]([^",\n]*[^\s",])?')
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')
_IS, _COMMA = " is ", ", "
_TRUE, _FALSE = "true", "false"


class RowCodec:
    """Rows of one table as text.

    A name or a category that could be taken for something else (it holds a comma, a quote, " is ", space at its ends,
    a line's end, or reads as the word for a missing value) stands in double quotes, escaped as in JSON. A number is
    written in digits, `decimals` of them after the point; of a column whose numbers are huge, with an exponent.

    Attributes:
        missing: the word for a missing value, which is no category of the table.
    """

    def __init__(self, schema: TableSchema) -> None:
        self.schema = schema
        self.missing = "missing"
        self._texts = {
            column.name: {_quoted(str(value), self.missing): value for value in (column.levels or column.categories)}
            for column in schema.columns
        }
        self._names = {_quoted(column.name, "", (_IS,)): column for column in schema.columns}
        self._spelt = {column.name: text for text, column in self._names.items()}

    def row_text(self, cells: Mapping[str, Value], order: Sequence[str]) -> str:
        """The columns of `cells` that `order` names, in that order."""
        parts = (f"{self._spelt[name]}{_IS}{self.value_text(self.schema[name], cells[name])}" for name in order)
        return _COMMA.join(parts)

    def value_text(self, column: ColumnSchema, value: Value) -> str:
        """One cell."""
        if value is None:
            return self.missing
        if column.kind == "boolean":
            return _TRUE if value else _FALSE
        if column.kind == "category":
            return _quoted(str(value), self.missing)
        if column.kind == "date":
            return str(value)
        assert isinstance(value, int | float)
        assert column.decimals is not None
        steps = column.steps(value)
        return f"{Decimal(steps).scaleb(-column.decimals):f}" if column.decimals >= 0 else f"{steps}e{-column.decimals}"

    def read_row(self, text: str) -> dict[str, Value]:
        """The cells that `row_text` wrote, by column, in the order of the text.

        Raises:
            UserError: not such a text: an unknown column, one there twice, or a value that its column cannot have.
        """
        cells: dict[str, Value] = {}
        place = 0
        while place < len(text) or not cells:
            spelt, place = _take(text, place, _IS)
            column = self._names.get(spelt)
            if column is None or column.name in cells:
                raise UserError(f"row text: {spelt!r} at its column {len(cells)}; expected a column, and each once")
            spelt, place = _take(text, place, _COMMA)
            cells[column.name] = self.read_value(column, spelt)
        return cells

    def read_value(self, column: ColumnSchema, text: str) -> Value:
        """The cell that `value_text` wrote.

        Raises:
            UserError: the column cannot have it.
        """
        if text == self.missing:
            return None
        if column.kind == "boolean" and text in (_TRUE, _FALSE):
            return text == _TRUE
        if column.kind == "category" and text in self._texts[column.name]:
            return self._texts[column.name][text]
        if column.kind == "date" and re.fullmatch(r"\d{4}-\d\d-\d\d( \d\d:\d\d:\d\d(\.\d{9})?)?", text):
            return text
        if column.kind in ("integer", "float") and re.fullmatch(r"-?\d+(\.\d+)?(e\d+)?", text):
            assert column.decimals is not None
            return column.number(int(Decimal(text).scaleb(column.decimals)))
        raise UserError(f"row text: column '{column.name}' is {text!r}; expected a value of kind {column.kind}")


def _quoted(text: str, word: str, signs: Sequence[str] = ()) -> str:
    plain = _PLAIN.fullmatch(text) and text != word and not any(sign in text for sign in signs)
    return text if plain else json.dumps(text, ensure_ascii=False)


def _take(text: str, place: int, end: str) -> tuple[str, int]:
    """A quoted or plain piece of `text` from `place` on up to `end` or the text's end; where the next one begins."""
    quoted = _QUOTED.match(text, place)
    if quoted:
        stop = quoted.end()
        if stop < len(text) and not text.startswith(end, stop):
            raise UserError(f"row text: {text[stop : stop + 20]!r} after a quoted text; expected {end!r}")
    else:
        found = text.find(end, place)
        stop = len(text) if found < 0 else found
    return text[place:stop], stop + len(end)
