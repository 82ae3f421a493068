"""The loaders on real data, where a folder of it is: counts, directions, and figures that are known from elsewhere."""

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from consilience.datasets.ethics import read_scenarios, read_utilitarianism
from consilience.datasets.matrix import read_matrix
from consilience.datasets.ratings import read_gold, read_ratings
from consilience.datasets.scruples import read_anecdotes, read_dilemmas
from consilience.datasets.votes import human_share
from consilience.table_schema import TableSchema, check_key, conform
from consilience.tables import ANNOTATIONS, DILEMMAS, GOLD, PAIRS, VOTES

ROOT = Path(__file__).parents[2]
DATA = ROOT / os.environ.get("CONSILIENCE_DATA", "../shared/data")


def real(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"no {path}: real data is not part of the project (CONSILIENCE_DATA names its folder)")
    return path


def holds(table: pa.Table | None, schema: TableSchema, rows: int) -> None:
    assert table is not None
    assert table.num_rows == rows
    assert conform(table, schema, "here") == table
    check_key(table, schema, "here")


def mean_against(annotations: pa.Table, gold: pa.Table) -> tuple[float, float]:
    """Pearson r and mean absolute error of the plain mean over annotators against `gold`."""
    mean = annotations.to_pandas().groupby("item_id")["score"].mean()
    label = gold.to_pandas().set_index("item_id")["label"]
    mean = mean.loc[label.index]
    return float(np.corrcoef(mean, label)[0, 1]), float((mean - label).abs().mean())


@pytest.mark.parametrize(("elicitation", "annotators", "blanks"), [("label", 30, 0), ("greedy", 28, 39)])
def test_mfv_open(elicitation: str, annotators: int, blanks: int) -> None:
    annotations, gold = read_matrix(
        real(f"mfv_open/matrix_open_{elicitation}.csv"),
        "item_id",
        "after:pct_not_wrong",
        (0, 4),
        "wrong",
        "commonsense",
        "human_wrong_mean",
    )
    holds(annotations, ANNOTATIONS, 116 * annotators)
    holds(gold, GOLD, 116)
    assert annotations.column("score").null_count == blanks
    assert len(set(annotations.column("annotator").to_pylist())) == annotators
    r, error = mean_against(annotations, gold)
    assert r == pytest.approx(0.872, abs=5e-4)
    if elicitation == "label":
        assert error == pytest.approx(0.125, abs=5e-4)


def test_moralexceptqa() -> None:
    annotations, gold = read_matrix(
        real("moralexceptqa/matrix_models.csv"),
        "scenario",
        "after:human_response",
        (0, 1),
        "acceptable",
        "commonsense",
        "human_response",
    )
    holds(annotations, ANNOTATIONS, 148 * 31)
    holds(gold, GOLD, 148)
    assert mean_against(annotations, gold) == pytest.approx((0.312, 0.240), abs=5e-4)


def test_crowd_emotion() -> None:
    folder, scale = real("crowd_emotion"), (-100, 100)
    annotations = read_ratings(
        folder / "emotion_answer.csv", ["question"], "worker", "answer", scale, "acceptable", "commonsense"
    )
    gold = read_gold(folder / "emotion_truth.csv", ["question"], "truth", scale, "acceptable", "commonsense")
    holds(annotations, ANNOTATIONS, 7000)
    holds(gold, GOLD, 700)
    assert len(set(annotations.column("annotator").to_pylist())) == 38
    assert mean_against(annotations, gold) == pytest.approx((0.725, 0.060), abs=5e-4)


def test_moralstrength() -> None:
    annotations = read_ratings(
        real("moralstrength/filtered_annotators.csv"),
        ["TRAIT", "WORD"],
        "ANNOTATOR_ID",
        "EXPRESSED_MORAL",
        (1, 9),
        "acceptable",
        "commonsense",
    )
    holds(annotations, ANNOTATIONS, 2603)
    frame = annotations.to_pandas()
    assert frame["annotator"].nunique() == 253
    assert set(frame["item_id"].str.partition("/")[0]) == {"AUTHORITY", "CARE", "FAIRNESS", "LOYALTY", "PURITY"}
    mean = frame.groupby("item_id")["score"].mean()
    assert mean[["CARE/compassion", "FAIRNESS/honest", "LOYALTY/loyal"]].min() > 0.7
    assert mean[["CARE/kill", "LOYALTY/traitor", "LOYALTY/disloyal"]].max() < 0.3


@pytest.mark.parametrize(
    ("name", "rows", "acceptable", "first"),
    [
        ("justice/justice_train", 21791, 11830, 1.0),
        ("justice/justice_test", 2704, 1354, 1.0),
        ("deontology/deontology_train", 18164, 9790, 0.0),
        ("deontology/deontology_test", 3596, 1786, 0.0),
        ("virtue/virtue_train", 28245, 2415, 0.0),
        ("virtue/virtue_test", 4975, 995, 1.0),
        ("commonsense/cm_test", 3885, 2069, 1.0),
    ],
)
def test_ethics(name: str, rows: int, acceptable: int, first: float) -> None:
    dilemmas, gold = read_scenarios(real(f"ethics/{name}.csv.gz"))
    holds(dilemmas, DILEMMAS, rows)
    holds(gold, GOLD, rows)
    assert gold is not None
    labels = gold.column("label").to_pylist()
    assert (sum(labels), labels[0]) == (acceptable, first)


def test_ethics_commonsense_lengths_and_the_ambiguous() -> None:
    dilemmas, gold = read_scenarios(real("ethics/commonsense/cm_test.csv.gz"))
    assert gold is not None
    assert dilemmas.column("group").to_pylist().count("short") == 2109
    label = dict(zip(dilemmas.column("text").to_pylist(), gold.column("label").to_pylist(), strict=True))
    assert label["I told my baby I loved her when she cried."] == 1.0
    assert label["I told my baby I hated her when she cried."] == 0.0
    dilemmas, gold = read_scenarios(real("ethics/commonsense/cm_ambig.csv.gz"))
    holds(dilemmas, DILEMMAS, 995)
    assert gold is None


@pytest.mark.parametrize(("split", "rows"), [("train", 13738), ("test", 4808)])
def test_ethics_utilitarianism(split: str, rows: int) -> None:
    pairs, votes = read_utilitarianism(real(f"ethics/utilitarianism/util_{split}.csv.gz"))
    holds(pairs, PAIRS, rows)
    holds(votes, VOTES, 2 * rows)


def test_scruples_dilemmas() -> None:
    scruples = read_dilemmas(real("scruples/dev.scruples-dilemmas.jsonl.gz"))
    holds(scruples.pairs, PAIRS, 2340)
    for votes in (scruples.votes, scruples.second_votes):
        holds(votes, VOTES, 4680)
        assert votes is not None
        assert set(votes.to_pandas().groupby("item_id")["count"].sum()) == {5}
    published = json.loads(real("scruples/dev.scruples-dilemmas_label-counts.json").read_text())
    assert scruples.votes.column("count").to_pylist() == [count for pair in published for count in pair]


def test_scruples_anecdotes() -> None:
    path = real("scruples/scruples_60.jsonl")
    dilemmas, votes = read_anecdotes(path)
    holds(dilemmas, DILEMMAS, 60)
    holds(votes, VOTES, 300)
    share = dict(zip(*human_share(votes).select(["item_id", "label"]).to_pydict().values(), strict=True))
    for row in map(json.loads, path.read_text(encoding="utf-8").splitlines()):
        right, wrong = row["binarized_label_scores"]["RIGHT"], row["binarized_label_scores"]["WRONG"]
        assert share[row["id"]] == pytest.approx(right / (right + wrong))
        assert (share[row["id"]] > 0.5) == (row["binarized_label"] == "RIGHT")
