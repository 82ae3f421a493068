"""How near a synthetic table is to a real one: shapes of columns, pairs of columns, categories, and whole rows."""

from dataclasses import dataclass
from itertools import combinations, pairwise

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import ks_2samp
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline

from consilience.tabular.features import MISSING, Floats, Ints, codes, encoder, is_class, is_number, plain
from consilience.tabular.schema import ColumnSchema, TableSchema

_BINS = 10
_FOLDS = 5
_MAX_BARS = 12


@dataclass(frozen=True, slots=True)
class ColumnShape:
    """One column in both tables.

    Attributes:
        score: 0 to 1, 1 the same; NaN where no table has a value.
        labels: of the bars: ends of ten equal parts of the real range, or the twelve most frequent categories.
        real, synthetic: share of the present values in each bar; of numbers, what is beyond the range is in no bar.
        missing_real, missing_synthetic: share of missing values, which neither the score nor the bars know.
    """

    name: str
    kind: str
    score: float
    labels: list[str]
    real: list[float]
    synthetic: list[float]
    missing_real: float
    missing_synthetic: float


def column_shapes(real: pd.DataFrame, synthetic: pd.DataFrame, schema: TableSchema) -> list[ColumnShape]:
    """Of numbers 1 - the Kolmogorov-Smirnov statistic, of all else 1 - total variation.

    KSComplement and TVComplement of SDMetrics, missing values left out; where one table has values and the other none
    the score is 0.
    """
    first, second = plain(real, schema), plain(synthetic, schema)
    return [_shape(column, first[column.name], second[column.name]) for column in schema.columns]


def pair_trends(real: pd.DataFrame, synthetic: pd.DataFrame, schema: TableSchema) -> float:
    """Mean likeness over all pairs of columns, 0 to 1, 1 the same; NaN with no pair.

    SDMetrics' column pair trends: of two numbers 1 - |difference of Pearson's r| / 2, over rows that have both; of any
    other pair 1 - total variation of the two-way table, missing being a category and numbers in ten equal parts of
    their real range. A pair without a correlation in the real table is left out; one without in the synthetic table
    alone has correlation 0 there.
    """
    tables = plain(real, schema), plain(synthetic, schema)
    cells = {column.name: _cells(column, *(table[column.name] for table in tables)) for column in schema.columns}
    numbers = [column.name for column in schema.columns if is_number(column)]
    place = {name: at for at, name in enumerate(numbers)}
    r, r_made = (table[numbers].corr().to_numpy() for table in tables)
    found: list[float] = []
    for one, other in combinations(schema.names, 2):
        if one in place and other in place:
            pair = place[one], place[other]
            found.append(1 - abs(float(r[pair]) - float(np.nan_to_num(r_made[pair]))) / 2)
        else:
            found.append(1 - _total_variation(*_joint(cells[one], cells[other], len(real))))
    return _mean(found)


def category_coverage(real: pd.DataFrame, synthetic: pd.DataFrame, schema: TableSchema) -> float:
    """Share of the real categories that the synthetic table has, mean over columns; NaN without such columns."""
    first, second = plain(real, schema), plain(synthetic, schema)
    return _mean(
        [
            len(seen & set(second[column.name])) / len(seen)
            for column in schema.columns
            if not is_number(column) and (seen := set(first[column.name]) - {MISSING})
        ]
    )


def class_share_shift(real: pd.DataFrame, synthetic: pd.DataFrame, schema: TableSchema) -> float:
    """Greatest change of a class's share of the rows, 0 to 1; NaN where the target is none of classes."""
    if schema.target is None or not is_class(schema[schema.target]):
        return np.nan
    shares = [plain(table, schema)[schema.target].value_counts(normalize=True) for table in (real, synthetic)]
    return float(shares[0].sub(shares[1], fill_value=0.0).abs().max())


def discriminator_auc(real: pd.DataFrame, synthetic: pd.DataFrame, schema: TableSchema, seed: int) -> float:
    """ROC-AUC of gradient boosting on real against synthetic rows, mean of five folds; 0.5: it cannot tell.

    As many rows of each as the shorter table has. Against the rows that the generator learned from, copies push the
    figure below 0.5: a row's copy is in the other class. NaN with fewer than two rows of each.
    """
    random, n = np.random.default_rng(seed), min(len(real), len(synthetic))
    if n < 2:
        return np.nan
    rows = pd.concat(
        [plain(table.iloc[random.permutation(len(table))[:n]], schema) for table in (real, synthetic)],
        ignore_index=True,
    )
    model = make_pipeline(encoder(schema.columns), GradientBoostingClassifier(random_state=seed))
    folds = StratifiedKFold(min(_FOLDS, n), shuffle=True, random_state=seed)
    return float(cross_val_score(model, rows, np.repeat([1, 0], n), scoring="roc_auc", cv=folds).mean())


def _shape(column: ColumnSchema, real: pd.Series, synthetic: pd.Series) -> ColumnShape:
    absent = [values.isna() if is_number(column) else values == MISSING for values in (real, synthetic)]
    present = [values[~gap] for values, gap in zip((real, synthetic), absent, strict=True)]
    bars = _bars_of_numbers if is_number(column) else _bars_of_texts
    sizes = [len(values) for values in present]
    if all(sizes):
        score, labels, shares = bars(column, *present)
    else:
        score, labels, shares = (0.0 if any(sizes) else np.nan), [], ([], [])
    missing = [float(gap.mean()) for gap in absent]
    return ColumnShape(column.name, column.kind, score, labels, *shares, *missing)


Bars = tuple[float, list[str], tuple[list[float], list[float]]]


def _bars_of_numbers(column: ColumnSchema, real: pd.Series, synthetic: pd.Series) -> Bars:
    edges = np.histogram_bin_edges(real, _BINS)
    shares = [np.histogram(values, edges)[0] / len(values) for values in (real, synthetic)]
    if column.kind == "date":
        ends = [str(day) for day in edges.astype(np.int64).astype("datetime64[D]")]
    else:
        ends = [f"{edge:.6g}" for edge in edges]
    labels = [f"{low} to {high}" for low, high in pairwise(ends)]
    with np.errstate(divide="ignore"):  # in the p-value of single rows, which nobody reads
        score = 1 - float(ks_2samp(real, synthetic, method="asymp").statistic)
    return score, labels, (shares[0].tolist(), shares[1].tolist())


def _bars_of_texts(column: ColumnSchema, real: pd.Series, synthetic: pd.Series) -> Bars:
    shares = [values.value_counts(normalize=True) for values in (real, synthetic)]
    both = pd.concat(shares, axis=1, keys=["real", "synthetic"]).fillna(0.0)
    shown = both.sort_values("real", ascending=False, kind="stable")[:_MAX_BARS]
    score = 1 - _total_variation(both["real"].to_numpy(), both["synthetic"].to_numpy())
    return score, [text[1:] for text in shown.index], (shown["real"].tolist(), shown["synthetic"].tolist())


def _cells(column: ColumnSchema, real: pd.Series, synthetic: pd.Series) -> Ints:
    """Whole numbers of both tables' values, one after the other: a code of texts, tenths of the range, 0 missing."""
    if not is_number(column):
        return np.concatenate(codes(real, synthetic))
    values = np.concatenate([real, synthetic])
    known = real[real.notna()]
    inner = np.histogram_bin_edges(known, _BINS)[1:-1] if len(known) else np.array([])
    return np.where(np.isnan(values), 0, 1 + np.digitize(values, inner))


def _joint(one: Ints, other: Ints, real: int) -> tuple[Floats, Floats]:
    """Shares of the pairs of values among the first `real` rows and among the others, in the same order."""
    pairs, found = pd.factorize(one * (other.max() + 1) + other)
    counts = [np.bincount(part, minlength=len(found)) for part in (pairs[:real], pairs[real:])]
    return counts[0] / max(counts[0].sum(), 1), counts[1] / max(counts[1].sum(), 1)


def _total_variation(one: Floats, other: Floats) -> float:
    return 0.5 * float(np.abs(one - other).sum())


def _mean(figures: list[float]) -> float:
    known: NDArray[np.float64] = np.array([figure for figure in figures if not np.isnan(figure)])
    return float(known.mean()) if len(known) else np.nan
