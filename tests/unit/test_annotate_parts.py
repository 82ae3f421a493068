"""What the annotate job reads back from disk: fingerprints, parts in few row groups, a sample of the dilemmas."""

import hashlib
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from actors.annotator import Fingerprints, part_folder
from consilience.runs import Run
from consilience.table_schema import read_table, write_table
from consilience.tables import ANNOTATIONS, DILEMMAS
from jobs import annotate
from jobs.annotate import AnnotateConfig


def prints(numbers: range) -> list[str]:
    return [hashlib.blake2b(str(number).encode(), digest_size=16).hexdigest() for number in numbers]


def write_part(path: Path, numbers: range, theory: str = "justice", annotator: str = "a") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = len(numbers)
    columns = {
        "item_id": [str(number) for number in numbers],
        "theory": [theory] * cells,
        "annotator": [annotator] * cells,
        "score": [0.5] * cells,
        "status": ["ok"] * cells,
        "answer_mass": [1.0] * cells,
        "fingerprint": prints(numbers),
    }
    pq.write_table(pa.table(columns, schema=ANNOTATIONS.arrow), path)


def test_fingerprints_on_disk_are_found_and_no_others(tmp_path: Path) -> None:
    assert not Fingerprints(tmp_path).hold(np.array(prints(range(3)))).any()
    write_part(tmp_path / "b.parquet", range(5))
    write_part(tmp_path / "a.parquet", range(10, 15))
    asked = np.array(prints(range(20))).reshape(4, 5)
    expected = [[True] * 5, [False] * 5, [True] * 5, [False] * 5]
    assert Fingerprints(tmp_path).hold(asked).tolist() == expected


def test_parts_are_read_in_order_of_name_and_joined(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(annotate, "_ROW_GROUP", 25)
    for part in range(6):
        write_part(tmp_path / f"{5 - part}.parquet", range(part * 10, part * 10 + 10))
    (tmp_path / ".5.parquet.1234.tmp").write_bytes(b"half a part")
    tables = list(annotate._read_parts(tmp_path))
    assert [table.num_rows for table in tables] == [30, 30]
    items = [int(item) for table in tables for item in table["item_id"].to_pylist()]
    assert items == [number for part in range(5, -1, -1) for number in range(part * 10, part * 10 + 10)]
    assert list(annotate._read_parts(tmp_path / "none")) == []


def write_dilemmas(path: Path) -> None:
    write_table(pa.table({"item_id": ["0", "1", "2"], "text": ["I lied.", "I left.", "I paid."]}), path, DILEMMAS)


def test_theories_of_an_earlier_config_are_left_out_and_hide_no_gap(tmp_path: Path) -> None:
    config = AnnotateConfig(
        dilemmas=tmp_path / "dilemmas.parquet",
        pool=({"annotator": "a", "kind": "synthetic", "behaviour": "constant"},),
        theories=("justice",),
    )
    write_dilemmas(config.dilemmas)
    write_part(part_folder(tmp_path, config.pool[0]) / "part.parquet", range(3), "virtue")
    counts = annotate._gather(config, config.dilemmas, tmp_path, tmp_path / "annotations.parquet", 3)
    assert counts == (3, 3)
    table = read_table(tmp_path / "annotations.parquet", ANNOTATIONS)
    assert set(table["theory"].to_pylist()) == {"justice"}
    assert table["score"].null_count == 3


def test_an_annotator_that_is_renamed_is_found_under_its_new_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def judge(config: AnnotateConfig, folder: Path, parts: Path, items: int, doing: str) -> Counter[str]:
        for annotator in config.pool:
            write_part(part_folder(parts, annotator) / "part.parquet", range(3), annotator=annotator.annotator)
        return Counter(scored=3)

    monkeypatch.setattr(annotate, "_judge_all", judge)
    write_dilemmas(tmp_path / "dilemmas.parquet")
    for name in ("old", "new"):
        block = {"annotator": name, "kind": "openai", "base_url": "http://127.0.0.1:9/v1", "model": "mock"}
        settings = {"pool": [block], "theories": ["justice"], "repeat_sample": 0}
        config = AnnotateConfig.model_validate({"dilemmas": tmp_path / "dilemmas.parquet", **settings})
        with Run.open(tmp_path / "run", "annotate", {}) as run:
            annotate.execute(config, run)
        table = read_table(tmp_path / "run" / "annotations.parquet", ANNOTATIONS)
        assert table["annotator"].unique().to_pylist() == [name]


@pytest.mark.parametrize("rows", [1, 7, 40, 100])
def test_a_sample_is_that_of_the_whole_table(tmp_path: Path, rows: int) -> None:
    table = pa.table({"item_id": [str(number) for number in range(40)], "text": [f"text {n}" for n in range(40)]})
    pq.write_table(table, tmp_path / "dilemmas.parquet", row_group_size=7)
    expected = table.take(np.random.default_rng(3).choice(40, min(rows, 40), replace=False))
    assert annotate._draw(tmp_path / "dilemmas.parquet", rows, 3).equals(expected)
