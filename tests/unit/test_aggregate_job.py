"""The aggregate job in this process: what it says of the pool, updates, noise, groups, closeness to people."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from consensus_simulation import PUBLISHED, draw

from consilience.consensus.model import ConsensusModel
from consilience.consensus.noise import noise_floor
from consilience.runs import read_manifest
from consilience.table_schema import TableSchema, read_table, write_table
from consilience.tables import (
    AGREEMENT,
    ANNOTATIONS,
    CALIBRATION,
    CONTESTED,
    DRIFT,
    FAMILIES,
    GROUPS,
    NOISE,
    RELIABILITY,
    VOTES,
)
from jobs import pipeline
from jobs.aggregate import JOB
from jobs.cli import main

ROOT = Path(__file__).parents[2]


def scores(items: int, seed: int = 0, first: int = 0, copies: int = 0) -> pd.DataFrame:
    """Five annotators of the published kind, and near-copies of the fourth."""
    matrix = draw(items, seed, np.vstack([PUBLISHED, PUBLISHED[:1]]))[1]
    copied = np.clip(matrix[3] + 0.02 * np.random.default_rng(seed).standard_normal((copies, items)), 0, 1)
    frames = [
        pd.DataFrame(
            {
                "item_id": [f"i{first + i:04d}" for i in range(items)],
                "theory": "justice",
                "annotator": f"a{annotator}",
                "score": row,
            }
        )
        for annotator, row in enumerate([*matrix, *copied])
    ]
    return pd.concat(frames, ignore_index=True)


def save(frame: pd.DataFrame, path: Path, schema: TableSchema = ANNOTATIONS) -> str:
    write_table(pa.Table.from_pandas(frame, preserve_index=False), path, schema)
    return str(path)


def aggregate(out: Path, annotations: str, **settings: Any) -> dict[str, Any]:
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    assert main(JOB, ["--annotations", annotations, "--out", str(out), *options]) == 0
    return json.loads((out / "summary.json").read_text())


def table(out: Path, schema: TableSchema) -> pd.DataFrame:
    return read_table(out / f"{schema.name}.parquet", schema).to_pandas()


def test_intervals_agreement_and_near_copies(tmp_path: Path) -> None:
    summary = aggregate(tmp_path / "run", save(scores(400, copies=1), tmp_path / "a.parquet"))
    reliability = table(tmp_path / "run", RELIABILITY)
    assert (reliability["ci_low"] <= reliability["informativeness"]).all()
    assert (reliability["ci_high"] >= reliability["informativeness"]).all()
    assert summary["krippendorff_alpha_low"] < summary["krippendorff_alpha"] < summary["krippendorff_alpha_high"]
    kin = table(tmp_path / "run", FAMILIES).set_index("annotator")["family"]
    assert kin.dropna().index.tolist() == ["a3", "a5"]
    errors = table(tmp_path / "run", AGREEMENT).set_index(["annotator", "other"])["error_correlation"]
    assert errors["a3", "a5"] > 0.9
    assert summary["families"] == 1
    assert any(note.startswith("near-copies: a3, a5") for note in read_manifest(tmp_path / "run")["notes"])


def test_named_groups_and_where_they_differ(tmp_path: Path) -> None:
    frame = scores(200)
    random = np.random.default_rng(7)
    own = np.clip(frame["score"] + random.normal(0, 0.1, len(frame)), 0, 1)
    second = frame.assign(annotator="b" + frame["annotator"], score=own)
    for part, level in ((frame, 0.1), (second, 0.9)):
        apart = part["item_id"] < "i0020"
        part.loc[apart, "score"] = np.clip(random.normal(level, 0.05, apart.sum()), 0, 1)
    groups = {name: name[0] for name in {*frame["annotator"], *second["annotator"]}}
    summary = aggregate(tmp_path / "run", save(pd.concat([frame, second]), tmp_path / "a.parquet"), groups=groups)
    assert set(table(tmp_path / "run", GROUPS)["group"]) == {"a", "b"}
    surest = table(tmp_path / "run", CONTESTED).head(10)
    assert (surest["item_id"] < "i0020").all()
    assert summary["groups"] == 2
    assert 10 <= summary["contested"] <= 25


def test_noise_is_measured_and_bounds_sigma(tmp_path: Path) -> None:
    frame = scores(300)
    repeats = frame[frame["item_id"] < "i0100"].copy()
    repeats["score"] = np.clip(repeats["score"] + np.random.default_rng(1).normal(0, 0.4, len(repeats)), 0, 1)
    again = save(repeats, tmp_path / "again.parquet")
    summary = aggregate(tmp_path / "run", save(frame, tmp_path / "a.parquet"), repeats=again)
    noise = table(tmp_path / "run", NOISE)
    assert summary["noise_sd"] == pytest.approx(noise_floor(noise), abs=1e-4)
    fitted = table(tmp_path / "run", RELIABILITY).set_index("annotator")
    floors = noise.set_index("annotator")["noise_sd"]
    assert (fitted["sigma1"] >= floors - 1e-9).all()
    assert (fitted["sigma0"] >= floors - 1e-9).all()
    without = aggregate(tmp_path / "other", str(tmp_path / "a.parquet"))
    assert without["noise_sd"] is None


def test_people_are_compared_with_every_method(tmp_path: Path) -> None:
    frame = scores(150)
    share = frame.groupby("item_id")["score"].mean().clip(0.01, 0.99)
    votes = pd.DataFrame(
        [
            (item, "justice", option, round(100 * value))
            for item, yes in share.items()
            for option, value in (("acceptable", yes), ("unacceptable", 1 - yes))
        ],
        columns=["item_id", "theory", "option", "count"],
    )
    ballots = save(votes, tmp_path / "votes.parquet", VOTES)
    summary = aggregate(tmp_path / "run", save(frame, tmp_path / "a.parquet"), votes=ballots)
    assert summary["r_mean"] > 0.99
    for method in ("median", "majority", "weighted_mean", "best_single", "dawid_skene", "em", "calibrated"):
        assert {f"{measure}_{method}" for measure in ("r", "mae", "ce")} <= summary.keys()
    assert set(table(tmp_path / "run", CALIBRATION)["method"]) == {"mean", "em", "calibrated"}


def test_an_update_equals_the_refit_and_tells_who_has_drifted(tmp_path: Path) -> None:
    old, new = scores(600, 1), scores(300, 2, first=600)
    aggregate(tmp_path / "old", save(old, tmp_path / "old.parquet"))
    saved = str(tmp_path / "old" / "consensus_model.json")
    summary = aggregate(tmp_path / "new", save(new, tmp_path / "new.parquet"), update=saved)
    assert summary["drifted"] == 0
    aggregate(tmp_path / "all", save(pd.concat([old, new]), tmp_path / "all.parquet"))
    updated, refit = (
        ConsensusModel.load(tmp_path / name / "consensus_model.json").parameters for name in ("new", "all")
    )
    np.testing.assert_allclose(updated.mu, refit.mu, atol=0.002)
    np.testing.assert_allclose(updated.sigma, refit.sigma, atol=0.002)

    new.loc[new["annotator"] == "a1", "score"] = 1.0 - new.loc[new["annotator"] == "a1", "score"]
    summary = aggregate(tmp_path / "drifted", save(new, tmp_path / "drifted.parquet"), update=saved)
    assert summary["drifted"] == 1
    drift = table(tmp_path / "drifted", DRIFT)
    assert drift.loc[drift["alarm"], "annotator"].tolist() == ["a1"]
    assert any("a1" in note and note.startswith("drift") for note in read_manifest(tmp_path / "drifted")["notes"])


def test_an_update_by_other_annotators_than_the_saved_ones(tmp_path: Path) -> None:
    """One has been realigned under a new name since, and others are silent: the new model still knows them all."""
    old = scores(300, 1)
    before = save(old, tmp_path / "old.parquet")
    aggregate(tmp_path / "old", before)
    gone, silent = old["annotator"] == "a0", old["annotator"] == "a1"
    now = pd.concat([old[~gone & ~silent], old[gone].assign(annotator="a0@realigned")])
    saved = str(tmp_path / "old" / "consensus_model.json")
    aggregate(tmp_path / "new", save(now, tmp_path / "new.parquet"), update=saved, before=before)
    model = ConsensusModel.load(tmp_path / "new" / "consensus_model.json")
    assert {"a0", "a1", "a0@realigned"} <= set(model.annotators)
    assert model.calibrated is not None
    assert model.calibrated.annotators == model.annotators
    assert set(table(tmp_path / "new", DRIFT)["annotator"]) <= set(model.annotators)


def test_an_update_of_the_folder_it_reads_from_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Once done, the same command would count the same rows again."""
    old, new = save(scores(60, 1), tmp_path / "old.parquet"), save(scores(30, 2, first=60), tmp_path / "new.parquet")
    aggregate(tmp_path / "run", old)
    saved = tmp_path / "run" / "consensus_model.json"
    before = saved.read_bytes()
    assert main(JOB, ["--annotations", new, "--set", f"update={saved}", "--out", str(tmp_path / "run")]) == 2
    assert "lies in --out" in capsys.readouterr().err
    assert saved.read_bytes() == before


def test_another_config_leaves_nothing_of_the_one_before(tmp_path: Path) -> None:
    out = tmp_path / "läufe ⚖" / "run"
    frame = scores(60)
    votes = pd.DataFrame({"item_id": ["i0000", "i0001"], "theory": "justice", "option": "acceptable", "count": [3, 1]})
    named = {name: "x" if name in ("a0", "a1") else "y" for name in sorted(set(frame["annotator"]))}
    annotations = save(frame, tmp_path / "bewertungen ü.parquet")
    aggregate(out, annotations, groups=named, repeats=annotations, votes=save(votes, tmp_path / "votes.parquet", VOTES))
    occasional = (CALIBRATION, CONTESTED, GROUPS, NOISE)
    assert all((out / f"{schema.name}.parquet").exists() for schema in occasional)
    aggregate(out, annotations)
    assert not [schema.name for schema in occasional if (out / f"{schema.name}.parquet").exists()]
    two = save(frame[frame["annotator"].isin(["a0", "a1"])], tmp_path / "two.parquet")
    with pytest.warns(UserWarning, match="two annotators"):
        aggregate(out, two)
    assert not (out / "consensus_model.json").exists()
    assert not (out / "influence.parquet").exists()


def test_a_new_annotator_joins_known_items(tmp_path: Path) -> None:
    everyone = scores(400, 3)
    before = everyone[everyone["annotator"] != "a2"]
    known = save(before, tmp_path / "before.parquet")
    aggregate(tmp_path / "old", known)
    saved = str(tmp_path / "old" / "consensus_model.json")
    full = save(everyone, tmp_path / "all.parquet")
    aggregate(tmp_path / "new", full, update=saved, before=known)
    aggregate(tmp_path / "refit", full)
    updated, refit = (
        ConsensusModel.load(tmp_path / name / "consensus_model.json").reliability().set_index("annotator")
        for name in ("new", "refit")
    )
    pd.testing.assert_frame_equal(
        updated.loc[refit.index, ["mean1", "mean0"]], refit[["mean1", "mean0"]], rtol=0, atol=0.003
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"update": "absent.json"}, "absent.json: no such file"),
        ({"before": "absent.parquet"}, "before: belongs to update"),
        ({"groups": {"a0": "x", "none": "y"}}, "groups: no annotator 'none'; expected some of a0, a1"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], settings: dict[str, Any], message: str
) -> None:
    annotations = save(scores(30), tmp_path / "a.parquet")
    options = [part for key, value in settings.items() for part in ("--set", f"{key}={json.dumps(value)}")]
    assert main(JOB, ["--annotations", annotations, "--out", str(tmp_path / "run"), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("shard_above", [0, 10_000_000])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (None, "a.parquet: malformed: "),
        *(
            ({name: None}, f"a.parquet: missing column '{name}' of table 'annotations'")
            for name in ("score", "theory", "item_id")
        ),
        ({"theory": "deontolgy"}, "column 'theory': expected "),
        ({"item_id": 7}, ""),
    ],
)
def test_a_table_that_is_none_is_one_line_whatever_its_size(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any] | None,
    message: str,
    shard_above: int,
) -> None:
    monkeypatch.setattr("actors.em_pool.connect", lambda: None)  # no shard is started for such a table
    path = tmp_path / "a.parquet"
    frame = scores(30)
    for column, value in (change or {}).items():
        frame = frame.drop(columns=column) if value is None else frame.assign(**{column: value})
    frame.to_parquet(path)
    if change is None:
        path.write_bytes(b"no table")
    options = ["--set", f"shard_above={shard_above}", "--set", f"repeats={path}", "--out", str(tmp_path / "run")]
    assert main(JOB, ["--annotations", str(path), *options]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("key", ["gold", "votes", "repeats"])
def test_the_pipeline_looks_for_its_inputs_before_anything_is_judged(
    key: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert main(pipeline.JOB, ["--config", "configs/smoke/pipeline.yaml", "--set", f"{key}=absent", "--dry-run"]) == 2
    assert capsys.readouterr().err == "error: absent: no such file\n"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            "realignment.pairs=[smollm2/kindness]",
            "pairs: 'smollm2/kindness': expected annotator/theory of the run",
        ),
        ("realignment.pairs=[nobody/justice]", "pairs: 'nobody/justice': expected annotator/theory of the run"),
        ("realignment.pairs=[random01/justice]", "pairs: 'random01/justice' is of kind synthetic"),
        ("groups={nobody: a}", "groups: no annotator 'nobody'; expected some of smollm2, "),
    ],
)
def test_the_pipeline_knows_whom_it_is_told_of(
    settings: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    options = ["--set", "realign=true", "--set", settings, "--dry-run"]
    assert main(pipeline.JOB, ["--config", "configs/smoke/pipeline.yaml", *options]) == 2
    assert message in capsys.readouterr().err


def test_smoke_config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(JOB, ["--config", "configs/smoke/aggregate.yaml", "--out", str(tmp_path / "run")]) == 0
    page = (tmp_path / "run" / "report.html").read_text()
    for section in ("agreement", "groups", "against_people"):
        assert f'id="{section}"' in page
