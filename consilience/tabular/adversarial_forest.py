"""Adversarial random forests (Watson, Blesch, Kapar, Wright 2023, arXiv 2205.09435)."""

import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri
from sklearn.ensemble import RandomForestClassifier

from consilience.tabular.donors import Groups, take, with_numbers
from consilience.tabular.features import Floats, Ints, matrix
from consilience.tabular.schema import TableSchema

_TREES = 30
_LEAF = 5
_ROUNDS = 10


class _Leaves:
    """The leaves of a forest, each a group of the table's rows; leaf and node numbers run through all trees."""

    def __init__(self, forest: RandomForestClassifier, values: Floats) -> None:
        trees = [tree.tree_ for tree in forest.estimators_]
        self._first_node = np.cumsum([0, *(tree.node_count for tree in trees)])
        self.of_rows = forest.apply(values) + self._first_node[:-1]
        self.values = values
        self._trees = trees
        self._groups = Groups(self.of_rows.ravel())

    def draw(self, n: int, random: np.random.Generator) -> tuple[Ints, Ints]:
        """(n,) leaves by their share of the rows, and (n, columns) rows of the leaf, each column's on its own."""
        rows, trees = random.integers(len(self.values), size=n), random.integers(self.of_rows.shape[1], size=n)
        leaves = self.of_rows[rows, trees]
        donors = [self._groups.draw(leaves, random) // self.of_rows.shape[1] for _ in range(self.values.shape[1])]
        return leaves, np.column_stack(donors)

    def bounds(self) -> tuple[Floats, Floats]:
        """(nodes, columns) the least and the greatest value that the splits above a node leave to each column."""
        low = np.full((self._first_node[-1], self.values.shape[1]), -np.inf)
        high = -low
        for (first, end), tree in zip(pairwise(self._first_node), self._trees, strict=True):
            below, above = low[first:end], high[first:end]
            for node in np.flatnonzero(tree.children_left >= 0):
                left, right = tree.children_left[node], tree.children_right[node]
                below[left] = below[right] = below[node]
                above[left] = above[right] = above[node]
                column, threshold = tree.feature[node], tree.threshold[node]  # infinite between missing and present
                above[left, column] = min(above[node, column], threshold)
                below[right, column] = max(below[node, column], threshold)
        return low, high

    def moments(self, column: int) -> tuple[Floats, Floats]:
        """(nodes,) mean and standard deviation of a column's present values in a leaf; of one value 0."""
        present = ~np.isnan(self.values[:, column])
        leaves = self.of_rows[present].ravel()
        values = np.repeat(self.values[present, column], self.of_rows.shape[1])
        n = np.maximum(np.bincount(leaves, minlength=self._first_node[-1]), 1)
        mean = np.bincount(leaves, values, minlength=len(n)) / n
        squares = np.bincount(leaves, (values - mean[leaves]) ** 2, minlength=len(n))
        return mean, np.sqrt(squares / np.maximum(n - 1, 1))


def adversarial_forest(frame: pd.DataFrame, schema: TableSchema, n: int, seed: int) -> pd.DataFrame:
    """Rows from the leaves of a forest that tells the table from its own rows, until it no longer can.

    Inside a leaf columns are independent: a number is from a normal distribution of the leaf's mean and standard
    deviation, truncated to what the splits and the column's range leave; all else, and whether a number is missing, is
    that of a row in the leaf. 30 trees with five rows or more in a leaf, at most ten rounds, as the authors' package.
    """
    random, values = np.random.default_rng(seed), matrix(frame, schema)
    leaves = _Leaves(_adversarial(values, random), values)
    chosen, donors = leaves.draw(n, random)
    drawn = np.take_along_axis(values, donors, axis=0)
    numbers = np.array([column.kind in ("integer", "float") and not column.empty for column in schema.columns])
    bounds = [bound[chosen] for bound in leaves.bounds()]
    for at in np.flatnonzero(numbers):
        mean, sd = (moment[chosen] for moment in leaves.moments(at))
        least, greatest = np.nanmin(values[:, at]), np.nanmax(values[:, at])
        low, high = (np.clip(bound[:, at], least, greatest) for bound in bounds)
        scale = np.where(sd > 0, sd, 1.0)
        first, last = ndtr((low - mean) / scale), ndtr((high - mean) / scale)
        number = mean + scale * ndtri(first + random.random(n) * (last - first))
        number = np.where(sd > 0, np.clip(number, low, high), mean)
        drawn[:, at] = np.where(np.isnan(drawn[:, at]), np.nan, number)
    return with_numbers(take(frame, schema, donors), schema, drawn, numbers)


def _adversarial(values: Floats, random: np.random.Generator) -> RandomForestClassifier:
    """The last forest before one that does no better than chance, or better than the one before it."""
    forest = _discriminator(values, random.permuted(values, axis=0), random)
    for _ in range(_ROUNDS):
        _, donors = _Leaves(forest, values).draw(len(values), random)
        judge = _discriminator(values, np.take_along_axis(values, donors, axis=0), random)
        if not 0.5 < judge.oob_score_ <= forest.oob_score_:
            break
        forest = judge
    return forest


def _discriminator(real: Floats, made: Floats, random: np.random.Generator) -> RandomForestClassifier:
    """A forest on real against made rows; its out-of-bag score is its accuracy."""
    forest = RandomForestClassifier(
        _TREES, min_samples_leaf=_LEAF, oob_score=True, random_state=int(random.integers(2**31))
    )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Some inputs do not have OOB scores", UserWarning)
        return forest.fit(np.concatenate([real, made]), np.repeat([1, 0], [len(real), len(made)]))
