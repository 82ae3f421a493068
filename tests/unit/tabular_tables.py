"""A table of every kind of column whose relations are known, and quick judges of tables."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import GradientBoostingClassifier, RandomForestClassifier


def mixed(n: int, seed: int = 0) -> pd.DataFrame:
    """Class and boolean follow the age, income the age; income, city and date are missing here and there."""
    random = np.random.default_rng(seed)
    age = random.integers(18, 80, n)
    old = age > 45
    frame = pd.DataFrame(
        {
            "age": age,
            "income": np.round(1_000 + 50 * age + random.normal(0, 80, n), 1),
            "city": np.where(random.random(n) < 0.9, np.where(old, "Rome", "Oslo"), 'Überlingen, "B" is'),
            "member": old,
            "since": pd.Timestamp("2020-01-01") + pd.to_timedelta(random.integers(0, 900, n), unit="D"),
            "visits": pd.array(random.poisson(3, n), dtype="Int64"),
            "label": np.where(random.random(n) < 0.9, old, ~old).astype(int),
        }
    )
    for column, share in (("income", 0.1), ("city", 0.1), ("since", 0.2), ("visits", 0.1)):
        frame.loc[random.random(n) < share, column] = None
    return frame


def judge_by_few_trees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ensembles of five trees instead of a hundred, which take most of the time that judging does."""
    for module, ensemble in (
        ("fidelity", GradientBoostingClassifier),
        ("utility", GradientBoostingClassifier),
        ("utility", RandomForestClassifier),
    ):
        monkeypatch.setattr(f"consilience.tabular.{module}.{ensemble.__name__}", partial(ensemble, n_estimators=5))
