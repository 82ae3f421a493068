"""The aggregate job: in one process and over shard actors, through kills, on bad input."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from consilience.table_schema import read_table, write_table
from consilience.tables import ANNOTATIONS, CONSENSUS, RELIABILITY
from jobs.aggregate import JOB
from jobs.cli import main

THEORIES = ("commonsense", "deontology", "justice")


def annotations(items: int = 200, annotators: int = 5, seed: int = 0) -> pd.DataFrame:
    """Scores of annotators who see a latent label through noise of their own; a tenth is missing."""
    random = np.random.default_rng(seed)
    label = random.random((items, len(THEORIES))) < 0.45
    frames = []
    for annotator in range(annotators):
        centre = np.where(label, 0.62, 0.38) + 0.05 * random.standard_normal(label.shape)
        score = np.clip(centre + (0.05 + 0.03 * annotator) * random.standard_normal(label.shape), 0, 1)
        score[random.random(label.shape) < 0.1] = np.nan
        frames.append(
            pd.DataFrame(
                {
                    "item_id": np.repeat([f"item-{i:04d}" for i in range(items)], len(THEORIES)),
                    "theory": np.tile(THEORIES, items),
                    "annotator": f"a{annotator}",
                    "score": score.ravel(),
                }
            )
        )
    return pd.concat(frames).sample(frac=1.0, random_state=seed)


def save(frame: pd.DataFrame, path: Path) -> Path:
    write_table(pa.Table.from_pandas(frame, preserve_index=False), path, ANNOTATIONS)
    return path


def consensus_of(folder: Path) -> pd.DataFrame:
    return (
        read_table(folder / "consensus.parquet", CONSENSUS)
        .to_pandas()
        .sort_values(["theory", "item_id"], ignore_index=True)
    )


@pytest.mark.parametrize("shards", [1, 2, 3])
def test_shards_find_what_one_process_finds(cluster: None, tmp_path: Path, shards: int) -> None:
    table = save(annotations(), tmp_path / "annotations.parquet")
    assert main(JOB, ["--annotations", str(table), "--out", str(tmp_path / "one")]) == 0
    many = ["--set", "shard_above=0", "--set", f"shards={shards}", "--out", str(tmp_path / "many")]
    assert main(JOB, ["--annotations", str(table), *many]) == 0
    for name, schema in (("consensus", CONSENSUS), ("reliability", RELIABILITY)):
        one, other = (
            read_table(tmp_path / folder / f"{name}.parquet", schema)
            .to_pandas()
            .sort_values(list(schema.key), ignore_index=True)
            for folder in ("one", "many")
        )
        pd.testing.assert_frame_equal(one, other, rtol=0, atol=1e-9)
    one, other = (json.loads((tmp_path / folder / "summary.json").read_text()) for folder in ("one", "many"))
    for key in ("items", "annotators", "flagged", "iterations", "converged"):
        assert one[key] == other[key]


def test_a_bad_score_in_a_shard_is_one_line(cluster: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = annotations(20)
    frame.iloc[7, 3] = 1.5
    pq.write_table(pa.Table.from_pandas(frame, preserve_index=False), tmp_path / "bad.parquet")
    arguments = [
        "--annotations",
        str(tmp_path / "bad.parquet"),
        "--set",
        "shard_above=0",
        "--out",
        str(tmp_path / "out"),
    ]
    assert main(JOB, arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "expected a score from 0 to 1" in error
    assert error.count("\n") == 1


def test_a_matrix_is_compared_with_people(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    truth = random.random(60)
    frame = pd.DataFrame({"id": [f"v{i}" for i in range(60)], "people": 4 * (1 - truth)})
    for annotator in range(6):
        frame[f"m{annotator}"] = np.clip(4 * (1 - truth) + 0.4 * random.standard_normal(60), 0, 4)
    frame.to_csv(tmp_path / "matrix.csv", index=False)
    arguments = [
        *("--annotations", str(tmp_path / "matrix.csv"), "--set", "item_column=id"),
        *("--set", "annotator_columns=after:people", "--set", "scale=[0, 4]", "--set", "higher_is=wrong"),
        *("--set", "human_column=people", "--out", str(tmp_path / "out")),
    ]
    assert main(JOB, arguments) == 0
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["r_mean"] > 0.98
    assert summary["mae_mean"] < 0.05
    assert summary["ce_em"] > summary["ce_mean"]


def test_the_same_command_again_fits_nothing_again(tmp_path: Path) -> None:
    table = save(annotations(), tmp_path / "annotations.parquet")
    arguments = ["--annotations", str(table), "--out", str(tmp_path / "out")]
    assert main(JOB, arguments) == 0
    before = (tmp_path / "out" / "consensus.parquet").stat().st_mtime_ns
    assert main(JOB, arguments) == 0
    assert (tmp_path / "out" / "consensus.parquet").stat().st_mtime_ns == before
    assert main(JOB, [*arguments, "--set", "em.kappa=3"]) == 0
    assert (tmp_path / "out" / "consensus.parquet").stat().st_mtime_ns != before


def test_too_few_annotators(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = save(annotations(annotators=1), tmp_path / "one.parquet")
    assert main(JOB, ["--annotations", str(one), "--out", str(tmp_path / "a")]) == 2
    assert "1 annotator with scores; expected two or more" in capsys.readouterr().err
    two = save(annotations(annotators=2), tmp_path / "two.parquet")
    with pytest.warns(UserWarning, match="two annotators: the consensus is their mean"):
        assert main(JOB, ["--annotations", str(two), "--out", str(tmp_path / "b")]) == 0
    table = consensus_of(tmp_path / "b")
    pd.testing.assert_series_equal(table["consensus"], table["mean"], check_names=False)
