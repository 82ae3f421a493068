"""Generators that every other has to beat; each learns a table and draws `n` rows with its types and missing values."""

from collections.abc import Callable

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from sklearn.neighbors import NearestNeighbors
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from consilience.tabular.adversarial_forest import adversarial_forest
from consilience.tabular.donors import Groups, take, with_numbers
from consilience.tabular.features import Floats, Ints, is_class, is_number, matrix
from consilience.tabular.schema import TableSchema

Generator = Callable[[pd.DataFrame, TableSchema, int, int], pd.DataFrame]

_REDRAWN = 2
_LEAF = 5
_NEIGHBOURS = 5


def bootstrap(frame: pd.DataFrame, schema: TableSchema, n: int, seed: int) -> pd.DataFrame:
    """Rows of the table, drawn with replacement: all copies, and the ceiling of what the table can teach."""
    rows = np.random.default_rng(seed).integers(len(frame), size=(n, 1))
    return take(frame, schema, np.tile(rows, len(schema.columns)))


def independent(frame: pd.DataFrame, schema: TableSchema, n: int, seed: int) -> pd.DataFrame:
    """Every column drawn on its own: each has its shape, none bears on another; the floor."""
    return take(frame, schema, np.random.default_rng(seed).integers(len(frame), size=(n, len(schema.columns))))


def resample(frame: pd.DataFrame, schema: TableSchema, n: int, seed: int) -> pd.DataFrame:
    """Rows of the table with two columns each drawn anew, whatever the rest of the row says.

    The repair of P-TA's released code (arXiv 2406.11391), whose language model completes a value from its column's name
    alone, out of context; here the values that stand in the column take the model's place.
    """
    random, columns = np.random.default_rng(seed), len(schema.columns)
    donors = np.tile(np.resize(random.permutation(len(frame)), n)[:, None], columns)
    redrawn = random.permuted(np.tile(np.arange(columns), (n, 1)), axis=1)[:, :_REDRAWN]
    np.put_along_axis(donors, redrawn, random.integers(len(frame), size=redrawn.shape), axis=1)
    return take(frame, schema, donors)


def cart(frame: pd.DataFrame, schema: TableSchema, n: int, seed: int) -> pd.DataFrame:
    """Column after column from a tree on the columns before it: the value of a row in the same leaf.

    The method of synthpop (Nowok, Raab, Dibben 2016, doi 10.18637/jss.v074.i11), without smoothing: leaves of five rows
    or more, the first column drawn on its own. A missing number counts as one far below all others.
    """
    random, values = np.random.default_rng(seed), matrix(frame, schema)
    donors = random.integers(len(frame), size=(n, values.shape[1]))
    for at, column in enumerate(schema.columns[1:], start=1):
        kind = DecisionTreeRegressor if is_number(column) else DecisionTreeClassifier
        tree = kind(min_samples_leaf=_LEAF, random_state=seed)
        tree.fit(values[:, :at], _missing_far_below(values[:, at]))
        drawn = np.take_along_axis(values[:, :at], donors[:, :at], axis=0)
        donors[:, at] = Groups(tree.apply(values[:, :at])).draw(tree.apply(drawn), random)
    return take(frame, schema, donors)


def smote(frame: pd.DataFrame, schema: TableSchema, n: int, seed: int) -> pd.DataFrame:
    """SMOTE-NC (Chawla et al. 2002, doi 10.1613/jair.953, section 6.1), over all rows.

    Every number lies between a row's and that of one of its five nearest neighbours, of its own class where the target
    is one of classes; every category is the neighbours' most frequent. The distance is Euclidean, categories that
    differ lying the median of the numbers' standard deviations apart. Beyond the paper: a date is the row's own and
    bears on no distance; a number is missing where the row's is, and the row's own where the neighbour's is missing.
    """
    random, values = np.random.default_rng(seed), matrix(frame, schema)
    numbers = np.array([column.kind in ("integer", "float") for column in schema.columns])
    texts = np.array([not is_number(column) for column in schema.columns])
    classes = np.zeros(len(frame))
    if schema.target is not None and is_class(schema[schema.target]):
        target = schema.names.index(schema.target)
        numbers[target] = texts[target] = False
        classes = np.nan_to_num(values[:, target], nan=np.inf)
    neighbours = np.empty((len(frame), _NEIGHBOURS), dtype=np.int64)
    for each in np.unique(classes):
        rows = np.flatnonzero(classes == each)
        neighbours[rows] = rows[_nearest(values[rows], numbers, texts)]
    base = random.integers(len(frame), size=n)
    donors = np.tile(base[:, None], len(numbers))
    for at in np.flatnonzero(texts):
        donors[:, at] = _most_frequent(neighbours[base], values[:, at])
    other = neighbours[base, random.integers(_NEIGHBOURS, size=n)]
    between = values[base] + random.random((n, 1)) * (values[other] - values[base])
    between = np.where(np.isnan(between), values[base], between)
    return with_numbers(take(frame, schema, donors), schema, between, numbers)


GENERATORS: dict[str, Generator] = {
    "bootstrap": bootstrap,
    "independent": independent,
    "resample": resample,
    "cart": cart,
    "arf": adversarial_forest,
    "smote": smote,
}


def _missing_far_below(values: Floats) -> Floats:
    """`values` with NaN as far below the least as that is below the greatest, or 1 where all are the same."""
    if np.isnan(values).all():
        return np.zeros_like(values)
    least, greatest = np.nanmin(values), np.nanmax(values)
    return np.where(np.isnan(values), least - ((greatest - least) or 1.0), values)


def _nearest(values: Floats, numbers: NDArray[np.bool_], texts: NDArray[np.bool_]) -> Ints:
    """(n, 5) each row's nearest others, repeated where there are fewer than five; of a single row itself."""
    count = min(_NEIGHBOURS, len(values) - 1)
    if not count:
        return np.zeros((1, _NEIGHBOURS), dtype=np.int64)
    known = values[:, numbers]
    known = np.where(np.isnan(known), _medians(known), known)
    apart = np.median(known.std(axis=0)) if known.shape[1] else 1.0
    points = [np.zeros((len(values), 1)), known]
    for column in values[:, texts].T:
        found, code = np.unique(column, return_inverse=True)
        points.append(np.eye(len(found))[code] * apart / np.sqrt(2))
    found = NearestNeighbors(n_neighbors=count).fit(np.column_stack(points)).kneighbors(return_distance=False)
    return found[:, np.arange(_NEIGHBOURS) % count]


def _medians(values: Floats) -> Floats:
    """Of each column's present values; 0 where there is none."""
    return np.array([np.median(known) if len(known := column[~np.isnan(column)]) else 0.0 for column in values.T])


def _most_frequent(neighbours: Ints, values: Floats) -> Ints:
    """(n,) the first of each row's neighbours that has the value most frequent among them."""
    near = values[neighbours]
    first = np.argmax(near == stats.mode(near, axis=1, keepdims=True).mode, axis=1)
    return np.take_along_axis(neighbours, first[:, None], axis=1)[:, 0]
