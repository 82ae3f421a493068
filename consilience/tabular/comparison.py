"""One synthetic table judged in full: utility, fidelity, privacy."""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from consilience.tabular.fidelity import (
    ColumnShape,
    category_coverage,
    class_share_shift,
    column_shapes,
    discriminator_auc,
    pair_trends,
)
from consilience.tabular.privacy import Privacy, privacy
from consilience.tabular.schema import TableSchema
from consilience.tabular.utility import MEAN, Utility, utility


@dataclass(frozen=True, slots=True)
class Assessment:
    """What a synthetic table is worth, and what it gives away. NaN where a figure is not defined.

    Attributes:
        rows: of the synthetic table.
        utility: of learners trained on synthetic rows; None where nothing is to be predicted. See `utility.utility`.
        utility_augmented: the same of learners trained on real and synthetic rows together.
        discriminator_train: AUC against the rows that the generator learned from; below 0.5 it repeats them.
        discriminator_held_out: AUC against real rows that it has not seen, the fairer judge; 0.5 cannot be told apart.
        shapes: of every column, against the training rows.
        pair_trends: mean likeness of pairs of columns, 0 to 1, 1 the same.
        category_coverage: share of the real categories that occur, 0 to 1.
        class_share_shift: greatest change of a class's share, 0 to 1, 0 none.
        privacy: see `privacy.Privacy`.
    """

    rows: int
    utility: Utility | None
    utility_augmented: Utility | None
    discriminator_train: float
    discriminator_held_out: float
    shapes: list[ColumnShape]
    pair_trends: float
    category_coverage: float
    class_share_shift: float
    privacy: Privacy

    @property
    def figures(self) -> dict[str, float]:
        """All figures of the whole table by name, flat; utility is the mean over learners."""
        scores = [shape.score for shape in self.shapes if not math.isnan(shape.score)]
        shifts = [abs(shape.missing_real - shape.missing_synthetic) for shape in self.shapes]
        return {
            **_means("utility", self.utility),
            **_means("augmented", self.utility_augmented),
            "discriminator_train": self.discriminator_train,
            "discriminator_held_out": self.discriminator_held_out,
            "column_shapes": float(np.mean(scores)) if scores else np.nan,
            "pair_trends": self.pair_trends,
            "missing_shift": max(shifts),
            "category_coverage": self.category_coverage,
            "class_share_shift": self.class_share_shift,
            **asdict(self.privacy),
        }

    def to_json(self) -> dict[str, Any]:
        """All of it as JSON's types, with `figures` and the privacy's `leaks`; null where a figure is not defined."""
        return _nulls({**asdict(self), "figures": self.figures, "leaks": self.privacy.leaks})


def assess(
    real_train: pd.DataFrame, real_test: pd.DataFrame, synthetic: pd.DataFrame, schema: TableSchema, seed: int
) -> Assessment:
    """Judge `synthetic`, made by a generator that learned from `real_train` and knows nothing of `real_test`.

    The three tables have the schema's columns. With `real_train` as `synthetic` it gives the upper bound of utility.
    """
    both = pd.concat([real_train, synthetic], ignore_index=True)
    return Assessment(
        rows=len(synthetic),
        utility=utility(synthetic, real_test, schema, seed),
        utility_augmented=utility(both, real_test, schema, seed),
        discriminator_train=discriminator_auc(real_train, synthetic, schema, seed),
        discriminator_held_out=discriminator_auc(real_test, synthetic, schema, seed),
        shapes=column_shapes(real_train, synthetic, schema),
        pair_trends=pair_trends(real_train, synthetic, schema),
        category_coverage=category_coverage(real_train, synthetic, schema),
        class_share_shift=class_share_shift(real_train, synthetic, schema),
        privacy=privacy(real_train, real_test, synthetic, schema),
    )


def _means(name: str, found: Utility | None) -> dict[str, float]:
    return {} if found is None else {f"{name}_{measure}": value for measure, value in found[MEAN].items()}


def _nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _nulls(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_nulls(each) for each in value]
    return None if isinstance(value, float) and math.isnan(value) else value
