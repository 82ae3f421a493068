"""What a table teaches: learners trained on it, tested on real rows that no generator has seen."""

import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import (
    GradientBoostingClassifier,
    GradientBoostingRegressor,
    RandomForestClassifier,
    RandomForestRegressor,
)
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, f1_score, r2_score, roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from consilience.tabular.features import MISSING, Floats, Ints, codes, encoder, is_class, is_number, plain
from consilience.tabular.schema import TableSchema

MEAN = "mean"
Utility = dict[str, dict[str, float]]
"""By learner, and as `mean` of all, figures by measure."""


def utility(train: pd.DataFrame, test: pd.DataFrame, schema: TableSchema, seed: int) -> Utility | None:
    """Learners trained on `train` (synthetic rows, or real ones for the upper bound), tested on real rows.

    Decision tree, random forest, logistic or ridge regression and gradient boosting with scikit-learn's defaults;
    numbers are scaled and categories one-hot, both learned from `train` alone. A target of classes has `accuracy`,
    `roc_auc` (each class of the test rows against the rest, averaged; a class not in `train` has probability 0) and
    `macro_f1`, all 0 to 1; any other `r2`, at most 1, 0 where the test rows' mean does as well. Rows without a target
    are left out. None without a target, features or rows to train and to test with.
    """
    features = [column for column in schema.columns if column.name != schema.target]
    if schema.target is None or not features:
        return None
    target = schema[schema.target]
    train, test = (_labelled(plain(part, schema), schema.target, is_number(target)) for part in (train, test))
    if train.empty or test.empty:
        return None
    labels: tuple[NDArray[Any], NDArray[Any]]
    if is_class(target):
        first, second = codes(train[schema.target].astype(str), test[schema.target].astype(str))
        labels, learners, measure = (first, second), _classifiers(seed, len(np.unique(first))), _classification
    else:
        labels = train[schema.target].to_numpy(), test[schema.target].to_numpy()
        learners, measure = _regressors(seed), _regression
    found: Utility = {}
    for name, learner in learners.items():
        model = make_pipeline(encoder(features), learner)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            found[name] = measure(model.fit(train, labels[0]), test, labels[1])
    measures = next(iter(found.values()))
    found[MEAN] = {key: float(np.mean([figures[key] for figures in found.values()])) for key in measures}
    return found


def headline(found: Utility) -> float:
    """The mean figure by which tables are compared: ROC-AUC of classes, else R2."""
    return found[MEAN].get("roc_auc", found[MEAN].get("r2", np.nan))


def _labelled(rows: pd.DataFrame, target: str, number: bool) -> pd.DataFrame:
    return rows[rows[target].notna() if number else rows[target] != MISSING]


def _classifiers(seed: int, classes: int) -> dict[str, Any]:
    found: dict[str, Any] = {
        "decision_tree": DecisionTreeClassifier(random_state=seed),
        "random_forest": RandomForestClassifier(random_state=seed),
        "logistic_regression": LogisticRegression(max_iter=1_000, random_state=seed),
        "gradient_boosting": GradientBoostingClassifier(random_state=seed),
    }
    return found if classes > 1 else {name: DummyClassifier() for name in found}


def _regressors(seed: int) -> dict[str, Any]:
    return {
        "decision_tree": DecisionTreeRegressor(random_state=seed),
        "random_forest": RandomForestRegressor(random_state=seed),
        "ridge_regression": Ridge(),
        "gradient_boosting": GradientBoostingRegressor(random_state=seed),
    }


def _classification(model: Any, test: pd.DataFrame, truth: NDArray[Any]) -> dict[str, float]:
    said = model.predict(test)
    p = np.zeros((len(test), max(truth.max(), model.classes_.max()) + 1))
    p[:, model.classes_] = model.predict_proba(test)
    return {
        "accuracy": float(accuracy_score(truth, said)),
        "roc_auc": _roc_auc(p, truth),
        "macro_f1": float(f1_score(truth, said, average="macro", zero_division=0.0)),
    }


def _roc_auc(p: Floats, truth: Ints) -> float:
    found = np.unique(truth)
    if len(found) < 2:
        return np.nan
    return float(np.mean([roc_auc_score(truth == each, p[:, each]) for each in found]))


def _regression(model: Any, test: pd.DataFrame, truth: NDArray[Any]) -> dict[str, float]:
    return {"r2": float(r2_score(truth, model.predict(test))) if len(truth) > 1 else np.nan}
