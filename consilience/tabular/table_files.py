"""A table as a file of its user's, CSV or Parquet, and the share of its rows that only judges."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
from sklearn.model_selection import train_test_split

from consilience.errors import UserError, one_line
from consilience.files import atomic_path

_CSV, _PARQUET = (".csv", ".csv.gz"), (".parquet",)
_LEAST_ROWS = 10


def read_frame(path: Path, missing: Sequence[str] = ()) -> pd.DataFrame:
    """The table in a file; `missing` are texts of a CSV that mean a missing value, besides pandas' own.

    Raises:
        UserError: no such file, or it is neither CSV nor Parquet.
    """
    try:
        if path.name.endswith(_PARQUET):
            return pd.read_parquet(path)
        if path.name.endswith(_CSV):
            _check_names(path)
            return pd.read_csv(path, na_values=list(missing))
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, pa.ArrowException) as error:
        raise UserError(f"{path}: not a table: {one_line(error)}") from None
    raise UserError(f"{path}: expected a file named *.csv, *.csv.gz or *.parquet")


def write_frame(frame: pd.DataFrame, path: Path) -> None:
    """Write a table as Parquet or CSV, as its name says."""
    with atomic_path(path) as temporary:
        if path.name.endswith(_PARQUET):
            frame.to_parquet(temporary, index=False)
        else:
            frame.to_csv(temporary, index=False)


def file_like(path: Path, stem: str) -> str:
    """Name of a file in the format of `path`."""
    return stem + (".parquet" if path.name.endswith(_PARQUET) else ".csv")


def hold_out(frame: pd.DataFrame, target: str | None, share: float, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Rows to learn from and rows to judge by, the latter `share` of them, with each class of `target` in both alike.

    Tables of fewer than ten rows have none to spare.
    """
    size = max(1, round(len(frame) * share))
    if len(frame) < _LEAST_ROWS or size == len(frame):
        return frame, frame.iloc[:0]
    classes = None if target is None else frame[target].astype(str)
    if classes is not None and (classes.value_counts().min() < 2 or classes.nunique() > min(size, len(frame) - size)):
        classes = None
    parts = train_test_split(frame, test_size=size, random_state=seed, stratify=classes)
    learned, judged = (part.reset_index(drop=True) for part in parts)
    return learned, judged


def _check_names(path: Path) -> None:
    """pandas would rename the second of two columns of the same name."""
    names = pd.read_csv(path, header=None, nrows=1, dtype="str").iloc[0]
    if names.duplicated().any():
        raise UserError(f"{path}: two columns are named '{names[names.duplicated()].iloc[0]}'")
