"""The report of a run with more tasks than it reads."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from report_runs import Page, make_run

from consilience.report import contents
from consilience.report.page import write_report


def test_of_a_large_consensus_evenly_spaced_row_groups_are_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_run(tmp_path / "run")
    path = folder / "consensus.parquet"
    table = pq.read_table(path)
    pq.write_table(table, path, row_group_size=10)
    assert contents.read_contents(folder).tasks == table.num_rows > 60
    monkeypatch.setattr(contents, "_MOST_TASKS", 30)
    found = contents.read_contents(folder)
    assert found.consensus is not None
    assert len(found.consensus) == 30
    assert found.tasks == table.num_rows
    places = [table["item_id"].to_pylist().index(item) for item in found.consensus["item_id"]]
    assert min(places) < 10
    assert max(places) > table.num_rows - 20
    write_report(folder)
    text = " ".join(Page((folder / "report.html").read_text()).text.split())
    assert f"30 pairs of item and theory are read of {table.num_rows}, evenly spaced" in text
