"""A table's columns as numbers and texts: the form in which learners and distances take them."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from consilience.tabular.schema import ColumnSchema, TableSchema

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MISSING = ""
_MAX_CATEGORIES = 100
_MAX_CLASSES = 10
_DAY = np.timedelta64(1, "D")


def is_number(column: ColumnSchema) -> bool:
    """Whether a column's values have an order and a distance: integers, floats and dates."""
    return column.kind in ("integer", "float", "date")


def is_class(column: ColumnSchema) -> bool:
    """Whether a target is one of classes: a category, a boolean, or a whole number from a range of at most ten."""
    if not is_number(column):
        return True
    whole = column.decimals == 0 and not column.empty
    return whole and float(column.high or 0) - float(column.low or 0) < _MAX_CLASSES


def plain(frame: pd.DataFrame, schema: TableSchema) -> pd.DataFrame:
    """The schema's columns; numbers as floats of the column's decimals, dates as days since 1970, all others as text.

    A missing number is NaN. A text begins with '=', so that none is `MISSING`, which stands for a missing one.
    """
    return pd.DataFrame({column.name: _plain(frame[column.name], column) for column in schema.columns})


def codes(*columns: pd.Series) -> list[Ints]:
    """Columns of text in whole numbers, 0 and up by alphabet, one code for all of them."""
    found, _ = pd.factorize(np.concatenate([column.to_numpy(dtype=object) for column in columns]), sort=True)
    return np.split(found.astype(np.int64), np.cumsum([len(column) for column in columns])[:-1])


def matrix(frame: pd.DataFrame, schema: TableSchema) -> Floats:
    """(n, columns): numbers as they are, missing NaN; texts in whole numbers, missing being one of them."""
    values = plain(frame, schema)
    found = [
        values[column.name].to_numpy() if is_number(column) else codes(values[column.name])[0]
        for column in schema.columns
    ]
    return np.column_stack(found).astype(np.float64)


def encoder(columns: Sequence[ColumnSchema]) -> ColumnTransformer:
    """Of a plain table: numbers scaled, missing ones their median and a mark; texts one-hot, unseen ones none.

    Texts beyond the hundred most frequent of a column share one column.
    """
    numbers = make_pipeline(
        SimpleImputer(strategy="median", add_indicator=True, keep_empty_features=True), StandardScaler()
    )
    texts = OneHotEncoder(handle_unknown="infrequent_if_exist", max_categories=_MAX_CATEGORIES, sparse_output=False)
    return ColumnTransformer(
        [
            ("numbers", numbers, [column.name for column in columns if is_number(column)]),
            ("texts", texts, [column.name for column in columns if not is_number(column)]),
        ]
    )


def _plain(values: pd.Series, column: ColumnSchema) -> pd.Series:
    if column.kind == "date":
        moments = pd.to_datetime(values).to_numpy(dtype="datetime64[us]")
        return pd.Series((moments - np.datetime64(0, "us")) / _DAY, values.index, dtype=np.float64)
    if is_number(column):
        assert column.decimals is not None
        found = values.to_numpy(dtype=np.float64, na_value=np.nan)
        return pd.Series(np.round(found, column.decimals) + 0.0, values.index)  # no -0.0
    texts = [MISSING if missing else f"={value}" for value, missing in zip(values, values.isna(), strict=True)]
    return pd.Series(texts, values.index, dtype=object)
