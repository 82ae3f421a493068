"""What learners make of a table: known answers, odd tables, and the two bounds."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import roc_auc_score
from tabular_tables import mixed

from consilience.tabular.schema import TableSchema
from consilience.tabular.simple_generators import independent
from consilience.tabular.utility import MEAN, _roc_auc, headline, utility


def test_real_rows_teach_and_independent_columns_do_not() -> None:
    train, test = mixed(120), mixed(100, seed=1)
    schema = TableSchema.of(train, "label")
    real = utility(train, test, schema, 0)
    floor = utility(independent(train, schema, 120, 0), test, schema, 0)
    assert real is not None
    assert floor is not None
    assert real == utility(train, test, schema, 0)
    assert set(real[MEAN]) == {"accuracy", "roc_auc", "macro_f1"}
    learners = [figures["roc_auc"] for name, figures in real.items() if name != MEAN]
    assert len(learners) == 4
    assert headline(real) == pytest.approx(np.mean(learners))
    assert headline(real) > 0.8
    assert abs(headline(floor) - 0.5) < 0.2


def test_numbers_are_predicted_by_r2() -> None:
    train, test = mixed(120), mixed(100, seed=1)
    found = utility(train, test, TableSchema.of(train, "income"), 0)
    assert found is not None
    assert set(found) == {"decision_tree", "random_forest", "ridge_regression", "gradient_boosting", MEAN}
    assert headline(found) == found[MEAN]["r2"]
    assert 0.8 < headline(found) < 1


def test_nothing_to_predict_or_to_predict_from() -> None:
    frame = mixed(30)
    assert utility(frame, frame, TableSchema.of(frame), 0) is None
    alone = frame[["label"]]
    assert utility(alone, alone, TableSchema.of(alone, "label"), 0) is None
    without = frame.assign(city=None)
    assert utility(without, frame, TableSchema.of(frame, "city"), 0) is None


def test_classes_and_categories_on_one_side_alone() -> None:
    train = pd.DataFrame({"x": ["a", "b", None] * 10, "empty": [None] * 30, "y": ["no", "yes", "yes"] * 10})
    test = pd.DataFrame({"x": ["a", "b", "new"] * 5, "empty": [None] * 15, "y": ["no", "yes", "other"] * 5})
    schema = TableSchema.of(train, "y")
    found = utility(train, test, schema, 0)
    assert found is not None
    assert found["decision_tree"]["accuracy"] == pytest.approx(2 / 3)
    one = utility(train.assign(y="yes"), test, schema, 0)
    assert one is not None
    assert one[MEAN]["roc_auc"] == 0.5
    assert one[MEAN]["accuracy"] == pytest.approx(1 / 3)
    same = utility(train, test.assign(y="yes"), schema, 0)
    assert same is not None
    assert np.isnan(same[MEAN]["roc_auc"])


def test_roc_auc_is_scikit_learns() -> None:
    random = np.random.default_rng(0)
    p, truth = random.dirichlet(np.ones(3), 60), random.integers(0, 3, 60)
    assert _roc_auc(p, truth) == pytest.approx(roc_auc_score(truth, p, multi_class="ovr"))
    two, truth = random.dirichlet(np.ones(2), 60), random.integers(0, 2, 60)
    assert _roc_auc(two, truth) == pytest.approx(roc_auc_score(truth, two[:, 1]))
