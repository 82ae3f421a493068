"""The jobs of agents and aggregator before anything runs: what they check, and how they say what is wrong."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from value_runs import reward_run

from consilience.table_schema import read_table
from consilience.tables import QUESTIONS
from consilience.values.questions import questions_of
from jobs import train_agents, train_aggregator
from jobs.cli import main

ROOT = Path(__file__).parents[2]
QUESTION = {
    "question_id": "a", "text": "May I?", "split": "train", "reference": "No.", "authority": 0, "care": 1,
    "fairness": 0, "loyalty": 0, "sanctity": 0, "profile_source": "human",
}  # fmt: skip


def save(folder: Path, *rows: dict[str, object]) -> Path:
    path = folder / "questions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def run_of(folder: Path, job: str) -> Path:
    folder.mkdir()
    config = {"folds": 5, "split_seed": 0}
    (folder / "manifest.json").write_text(json.dumps({"job": job, "config": config}))
    return folder


def agents(tmp_path: Path, *more: str, rows: tuple[dict[str, object], ...] = ()) -> list[str]:
    rows = rows or (QUESTION, {**QUESTION, "question_id": "b", "split": "test"})
    (tmp_path / "base").mkdir(exist_ok=True)
    config = {
        "questions": str(save(tmp_path, *rows)),
        "rewards": str(tmp_path / "values"),
        "base": {"source": str(tmp_path / "base")},
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    return ["--config", str(tmp_path / "config.yaml"), "--dry-run", *more]


def test_a_dry_run_says_what_would_be_trained(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reward_run(tmp_path / "values")
    assert main(train_agents.JOB, agents(tmp_path)) == 0
    said = capsys.readouterr().out
    assert "train agents for authority, care, fairness, loyalty, sanctity" in said
    assert "100 updates of 64 answers each: 6400 answers of up to 64 tokens per agent" in said
    assert "compare with the base on 1 test questions; no independent judge is given" in said


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--set", "values=[care, liberty]"], "key 'values': unknown value 'liberty'; expected some of authority,"),
        (["--set", "values=[care, care]"], "a value is named twice"),
        (["--set", "ppo.reward_on=prompt_and_response"], "reward_on: a value's reward scores the answer alone"),
        (["--rewards", "nowhere"], "nowhere: not a run folder"),
        (["--set", "base.source=nowhere"], "model source 'nowhere': no such folder"),
        (
            ["--rewards", "{0}/weak"],
            "classifier is refused as a reward: too weak; force_rewards uses it anyway",
        ),
        (["--judge", "{0}/weak"], "classifier is refused as a reward: too weak; force_rewards uses it anyway"),
        (["--set", "workers.workers=3"], "batch_size 64 cannot be shared by 3 workers; expected a multiple"),
        (["--set", "vllm={{trust_remote_code: true}}"], "trust_remote_code: a model's own code is never run"),
        (["--set", "vllm={{enable_lora: false}}"], "key 'vllm': enable_lora: settled by base and lora"),
        (["--set", "ppo.epocs=3"], "unknown key 'ppo.epocs'; known keys here:"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], message: str
) -> None:
    reward_run(tmp_path / "values")
    reward_run(tmp_path / "weak", care="refused")
    assert main(train_agents.JOB, agents(tmp_path, *(part.format(tmp_path) for part in more))) == 2
    said = capsys.readouterr().err
    assert message in said
    assert said.count("\n") == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"care": 1.5}, "row 2, column 'care': expected a number from 0 to 1, found 1.5"),
        ({"text": ""}, "row 2, column 'text': expected a value"),
        ({"profile_source": "guessed"}, "column 'profile_source': expected one of human, predicted"),
        ({"split": "train"}, "no question of split 'test'; expected some"),
    ],
)
def test_bad_questions_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: dict[str, object], message: str
) -> None:
    reward_run(tmp_path / "values")
    rows = (QUESTION, {**QUESTION, "question_id": "b", "split": "test", **change})
    assert main(train_agents.JOB, agents(tmp_path, rows=rows)) == 2
    assert message in capsys.readouterr().err


def test_a_missing_column_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reward_run(tmp_path / "values")
    row = {name: value for name, value in QUESTION.items() if name != "loyalty"}
    assert main(train_agents.JOB, agents(tmp_path, rows=(row,))) == 2
    assert "missing column 'loyalty' of table 'questions'" in capsys.readouterr().err


def test_the_judge_must_be_another_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    reward_run(tmp_path / "values")
    assert main(train_agents.JOB, agents(tmp_path, "--judge", str(tmp_path / "values"))) == 2
    assert "the run that gives the rewards; expected another" in capsys.readouterr().err
    run_of(tmp_path / "other", "annotate")
    assert main(train_agents.JOB, agents(tmp_path, "--judge", str(tmp_path / "other"))) == 2
    assert "a run of job 'annotate'; expected a run of train_values" in capsys.readouterr().err


def test_the_aggregator_needs_agents_and_references(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = run_of(tmp_path / "agents", "train_agents")
    data = save(tmp_path, QUESTION, {**QUESTION, "question_id": "b", "split": "validation", "reference": None})
    line = ["--data", str(data), "--agents", str(folder), "--dry-run"]
    assert main(train_aggregator.JOB, line) == 2
    assert "expected a finished run of train_agents" in capsys.readouterr().err
    facts = {"base": {"source": str(tmp_path)}, "base_digest": "", "adapters": {"care": ""}, "about": {}}
    (folder / "adapters.json").write_text(json.dumps(facts))
    assert main(train_aggregator.JOB, line) == 2
    assert "no question of split 'validation' with a reference" in capsys.readouterr().err
    save(tmp_path, QUESTION, {**QUESTION, "question_id": "b", "split": "validation"})
    assert main(train_aggregator.JOB, line) == 0
    assert "2 questions x 1 agents to answer: care" in capsys.readouterr().out
    assert main(train_aggregator.JOB, [*line, "--set", "workers.workers=3"]) == 2
    assert "batch_size 32: not a multiple of microbatch_size x workers, 12" in capsys.readouterr().err
    assert main(train_aggregator.JOB, [*line, "--set", "context=full"]) == 2
    assert "agents: none for authority, fairness, loyalty, sanctity" in capsys.readouterr().err
    assert main(train_aggregator.JOB, [*line, "--set", "context=some"]) == 2
    assert "key 'context'" in capsys.readouterr().err


def test_help_and_dry_run_need_no_model() -> None:
    jobs = ", ".join(f"jobs.{name}" for name in ("train_values", "train_agents", "train_aggregator"))
    heavy = "{'torch', 'transformers', 'trl', 'peft', 'ray', 'sklearn', 'scipy'}"
    check = f"import sys, {jobs}; found = {heavy} & set(sys.modules); sys.exit(str(found) if found else 0)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, capture_output=True, text=True).stderr == ""


def test_the_projects_own_questions_fit() -> None:
    questions = questions_of(read_table(ROOT / "configs/demo_questions.jsonl", QUESTIONS))
    assert len(questions) == 60
    assert {question.split for question in questions} == {"train", "validation", "test"}
    assert all(question.reference for question in questions)
    assert any(not question.profile.present for question in questions)
    assert any(not question.profile.binary for question in questions)
