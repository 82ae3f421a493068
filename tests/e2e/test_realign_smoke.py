"""The smoke config of realignment, end to end on a real model."""

import json
from pathlib import Path

import pytest

from consilience.realign.artefact import Artefact
from jobs.cli import main
from jobs.pipeline import JOB

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]


def test_the_worst_pair_is_realigned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    assert main(JOB, ["--config", "configs/smoke/realign.yaml", "--out", str(tmp_path / "run")]) == 0
    summary = json.loads((tmp_path / "run/summary.json").read_text())
    assert summary["pairs"] == 1
    assert summary["verdict"] in ("kept", "rolled back")
    assert 0 < summary["artefact_bytes"] < 50_000
    (path,) = (tmp_path / "run/realigned/artefacts").glob("*.safetensors")
    about = Artefact.load(path).about
    assert about.base_source.endswith("SmolLM2-135M-Instruct.Q4_1.gguf")
    assert about.certificate["verdict"] == summary["verdict"]
    (pair,) = json.loads((tmp_path / "run/realigned/realign.json").read_text())["pairs"]
    for audit in pair["audits"].values():
        assert audit["without_word"]["logits_identical"] == 1.0
    assert "Realignment" in (tmp_path / "run/report.html").read_text(encoding="utf-8")
