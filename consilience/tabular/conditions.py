"""Values that every sampled row is to have."""

from collections.abc import Mapping
from typing import Any

from consilience.errors import UserError
from consilience.tabular.schema import TableSchema, Value


def read_conditions(schema: TableSchema, conditions: Mapping[str, Any]) -> dict[int, Value]:
    """Column's number to the cell, from column to a value as a table would hold it or as text.

    Raises:
        UserError: no such column, or a value that is none of its kind, finer than its precision, or outside what was
            seen.
    """
    given: dict[int, Value] = {}
    for name, value in conditions.items():
        if name not in schema.names:
            raise UserError(f"condition '{name}': no such column; expected some of {', '.join(schema.names)}")
        column = schema[name]
        cell = column.cell(value)
        if not column.allows(cell):
            raise UserError(f"condition '{name}': {value!r}; expected {column.expected}")
        given[schema.names.index(name)] = cell
    return given
