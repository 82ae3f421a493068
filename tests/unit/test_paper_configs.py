"""The papers' runs, in configs/paper: read by their jobs, and accepted where stand-ins lie in their data's place."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from shell_lines import ROOT, commands, job_of, read_job_command
from value_runs import reward_run

from consilience.theories import VALUE_NAMES
from jobs.cli import main

PAPER = sorted((ROOT / "configs/paper").glob("*.yaml"))
KEYS = ("OPENAI_API_KEY", "ANTHROPIC_API_KEY", "MOONSHOT_API_KEY")


def lines(path: Path) -> list[list[str]]:
    return commands(path)


def blocks(value: Any) -> Iterator[dict[str, Any]]:
    """All mappings in a config."""
    if isinstance(value, dict):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from blocks(part)


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_every_line_in_the_config_is_one_that_its_job_reads(path: Path) -> None:
    assert lines(path)
    for words in lines(path):
        read_job_command(words)
        assert words[words.index("--config") + 1] == f"configs/paper/{path.name}"


@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_every_model_is_pinned_and_has_a_gpu(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    for block in blocks(config):
        if "source" in block and not block["source"].startswith("models/"):
            assert re.fullmatch(r"[0-9a-f]{40}", block["revision"]), block
        if block.get("kind") == "transformers":
            assert block["num_gpus"] > 0
        if block.get("kind") == "openai":
            assert block["cost_cap_usd"] > 0
    for place in ("workers", "hosting"):
        assert config.get(place, {"num_gpus": 1})["num_gpus"] > 0


def adapters(folder: Path, names: tuple[str, ...], about: dict[str, Any]) -> None:
    folder.mkdir(parents=True)
    facts = {
        "base": {"source": "models/oasst-pythia-12b"},
        "base_digest": "0",
        "adapters": dict.fromkeys(names, "0"),
        "about": about,
    }
    (folder / "adapters.json").write_text(json.dumps(facts))


def pairs(count: int) -> str:
    rows = [
        {
            "id": f"pair-{place}",
            "actions": [{"id": f"{side}-{place}", "description": f"doing {side} {place}"} for side in ("this", "that")],
            "gold_annotations": [2, 3],
        }
        for place in range(count)
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture
def stand_ins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files that the configs name, as far as a dry run looks into them; and keys."""
    for file in ("data/aita/dilemmas.parquet", "aita.parquet", "data/social_chem_101/social-chem-101.v1.0.tsv"):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "models/oasst-pythia-12b").mkdir(parents=True)
    mic = "\n".join(f"May I?,care,Better not.,{split}" for split in ("train", "dev", "test"))
    (tmp_path / "data/mic").mkdir()
    (tmp_path / "data/mic/MIC.csv").write_text(f"Q,moral,worker_answer,split\n{mic}\n")
    (tmp_path / "data/scruples").mkdir()
    (tmp_path / "data/scruples/train.scruples-dilemmas.jsonl").write_text(pairs(200))
    rows = "".join(f"{place % 7},{'Good' if place % 2 else 'Bad'}\n" for place in range(60))
    (tmp_path / "data/heloc.csv").write_text(f"ExternalRiskEstimate,RiskPerformance\n{rows}")
    runs = tmp_path / "runs"
    reward_run(runs / "paper-values")
    reward_run(runs / "paper-values-judge")
    adapters(runs / "paper-agents", VALUE_NAMES, {})
    for name, context in (("paper-aggregator", "dynamic"), ("paper-aggregator-full", "full")):
        adapters(runs / name, ("aggregator",), {"context": context})
    for key in KEYS:
        monkeypatch.setenv(key, "none")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("stand_ins")
@pytest.mark.parametrize("path", PAPER, ids=lambda path: path.stem)
def test_a_dry_run_accepts_it(path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    words = lines(path)[0]
    if path.stem.startswith("ambiguity"):  # as if there were a GPU; and torch takes long to import
        gpu = SimpleNamespace(check_four_bit=lambda: None)
        monkeypatch.setitem(sys.modules, "consilience.lm.language_model", gpu)
    arguments = [str(ROOT / word) if word.startswith("configs/") else word for word in words[3:]]
    code = main(job_of(words[2].removeprefix("jobs.")), [*arguments, "--dry-run"])
    assert code == 0, capsys.readouterr().err


def test_all_four_papers_are_there() -> None:
    said = {path.stem: re.findall(r"arXiv (\d{4}\.\d{5})", path.read_text())[0] for path in PAPER}
    assert set(said.values()) == {"2506.14625", "2403.12805", "2406.11391", "2410.07826"}
    assert {f"collective_g{group}" for group in (1, 2, 3, 4)} <= set(said)
