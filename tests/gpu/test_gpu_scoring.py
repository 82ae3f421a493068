"""Judging dilemmas on a GPU: what the CPU finds in float32, whatever is read side by side."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from devices import GPU, on_cpu
from lm_models import save_tiny_model
from test_lm_scoring import DILEMMAS, MODELS, scored

from consilience.lm.language_model import LanguageModel, load_model
from consilience.lm.packed_attention import Prompt
from consilience.lm.scorer import OK
from consilience.lm.transformers_scorer import TransformersScorer
from consilience.theories import THEORIES

pytestmark = pytest.mark.gpu

EXACT = 1e-3
"""Between scores in float32: a GPU adds in another order."""

MEAN, MOST = 0.02, 0.1
"""Between scores in bfloat16 and in float32, mean and largest."""

DEMO = Path(__file__).parents[2] / "configs/demo_dilemmas.jsonl"


def load(source: str, dtype: Any) -> LanguageModel:
    return load_model.__wrapped__(source, None, dtype)


def demo(count: int) -> list[str]:
    lines = DEMO.read_text(encoding="utf-8").splitlines()[:count]
    return [json.loads(line)["text"] for line in lines]


def differences(name: str, found: np.ndarray[Any, Any], expected: np.ndarray[Any, Any]) -> tuple[float, float]:
    """Mean and largest, which are printed too."""
    apart = np.abs(found - expected)
    print(f"\n{name}: scores differ by {apart.mean():.5f} in the mean, {apart.max():.5f} at most")
    return float(apart.mean()), float(apart.max())


@pytest.mark.parametrize("name", MODELS)
def test_float32_scores_are_the_cpus(name: str, tmp_path: Path) -> None:
    kind, settings = MODELS[name]
    source = save_tiny_model(tmp_path, kind, **settings)
    with on_cpu():
        cpu = load(source, "float32")
    gpu = load(source, "float32")
    assert (cpu.model.device.type, gpu.model.device.type) == ("cpu", GPU)
    assert gpu.packs
    assert gpu._head_is_linear == cpu._head_is_linear
    for elicitation in ("yes_no", "scale_0_10"):
        expected = scored(TransformersScorer(cpu, "a hospital nurse", elicitation), cpu, True)  # type: ignore[arg-type]
        scorer = TransformersScorer(gpu, "a hospital nurse", elicitation)  # type: ignore[arg-type]
        for packs, tokens in [(True, gpu.tokens_per_batch), (True, 1), (True, 500), (False, 2048)]:
            found = scored(scorer, gpu, packs, tokens)
            assert (found.status == OK).all()
            np.testing.assert_allclose(found.score, expected.score, atol=EXACT)
            np.testing.assert_allclose(found.answer_mass, expected.answer_mass, atol=EXACT)


def test_hidden_states_are_the_cpus(tmp_path: Path) -> None:
    kind, settings = MODELS["gemma3, short window"]
    source = save_tiny_model(tmp_path, kind, **settings)
    with on_cpu():
        cpu = load(source, "float32")
    gpu = load(source, "float32")
    prompts = [TransformersScorer(cpu)._prompts.prefix(text) for text in DILEMMAS]
    asked = [Prompt(prefix, [range(40, 50), range(50, 53)]) for prefix in prompts]
    expected, found = cpu.read_with_states(asked, [5, 6]), gpu.read_with_states(asked, [5, 6])
    np.testing.assert_allclose(found[0], expected[0], atol=EXACT)
    assert found[1].device.type == GPU
    torch.testing.assert_close(found[1].cpu(), expected[1], atol=1e-3, rtol=1e-3)


def test_smollm2_scores_are_the_cpus(smollm2: str) -> None:
    texts = demo(8)
    with on_cpu():
        cpu = load(smollm2, "float32")
    expected = TransformersScorer(cpu).score(texts, THEORIES)
    exact = TransformersScorer(load(smollm2, "float32")).score(texts, THEORIES)
    assert (expected.status == OK).all()
    assert differences("SmolLM2 in float32, GPU and CPU", exact.score, expected.score)[1] < EXACT
    fast = load(smollm2, "auto")
    assert fast.packs
    if torch.cuda.is_bf16_supported():
        assert fast.model.dtype == torch.bfloat16
    found = TransformersScorer(fast).score(texts, THEORIES)
    mean, most = differences("SmolLM2, GPU in bfloat16 and CPU in float32", found.score, expected.score)
    assert mean < MEAN
    assert most < MOST


def test_smollm2_in_bfloat16_hardly_sees_the_company(smollm2: str) -> None:
    texts, model = demo(12), load(smollm2, "auto")
    scorer = TransformersScorer(model)
    together = scorer.score(texts, THEORIES).score
    np.testing.assert_array_equal(scorer.score(texts, THEORIES).score, together, "twice the same is the same")
    model.tokens_per_batch = 1
    mean, most = differences("SmolLM2 in bfloat16, alone and together", scorer.score(texts, THEORIES).score, together)
    assert mean < MEAN
    assert most < MOST
