"""ROUGE, repetition and BERTScore: known answers, and their definitions."""

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn.functional import cosine_similarity
from transformers import AutoModel, AutoTokenizer
from value_models import save_tiny_encoder, without_own_tokens

from consilience.errors import UserError
from consilience.values.bertscore import load_scorer, match
from consilience.values.evaluation_settings import ScoreEncoder
from consilience.values.text_overlap import common_subsequence, repetition, rouge, words


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("testing", "testing one two", (1 / 2, 0, 1 / 2, 1 / 2)),
        ("Testing, TWO!", "testing one two", (4 / 5, 0, 4 / 5, 4 / 5)),
        ("the cat was found under the bed", "the cat was under the bed", (12 / 13, 8 / 11, 12 / 13, 12 / 13)),
        ("a a a", "a", (1 / 2, 0, 1 / 2, 1 / 2)),
        ("c b a", "a b c", (1, 0, 1 / 3, 1 / 3)),
        ("", "a b", (0, 0, 0, 0)),
        ("...", "", (0, 0, 0, 0)),
        ("Été à Zürich", "été à zürich", (1, 1, 1, 1)),
    ],
)
def test_rouge_has_known_answers(text: str, reference: str, expected: tuple[float, ...]) -> None:
    assert rouge(text, reference) == pytest.approx(expected)


def test_rouge_lsum_unites_sentences() -> None:
    """Lin 2004, section 3.2: the union of the subsequences is w1 w2 w3 w5, so 4 of 5 words and 4 of 10."""
    found = rouge("w1 w2 w6 w7 w8. w1 w3 w8 w9 w5.", "w1 w2 w3 w4 w5")
    assert found[3] == pytest.approx(2 * 4 / (5 + 10))
    swapped = rouge("d e f. a b c.", "a b c\nd e f")
    assert swapped[2:] == pytest.approx((1 / 2, 1))


@given(st.text("ab .", max_size=30), st.text("ab .", max_size=30))
def test_rouge_is_symmetric_and_bounded(text: str, reference: str) -> None:
    ours, theirs = rouge(text, reference), rouge(reference, text)
    assert ours[:3] == pytest.approx(theirs[:3])
    assert all(0 <= figure <= 1 for figure in ours)
    assert ours[2] <= ours[0] + 1e-12, "what stands in order is shared"
    if words(text):
        assert rouge(text, text)[0] == rouge(text, text)[2] == rouge(text, text)[3] == 1


@given(st.lists(st.sampled_from("abc"), max_size=8), st.lists(st.sampled_from("abc"), max_size=8))
def test_a_common_subsequence_is_one(first: list[str], second: list[str]) -> None:
    places = common_subsequence(first, second)
    assert places == sorted(set(places))
    rest = iter(second)
    assert all(first[place] in rest for place in places)


def test_repetition_is_of_trigrams() -> None:
    assert repetition(words("no no")) is None
    assert repetition(words("I do. I do. I do.")) == pytest.approx(1 - 2 / 4)
    assert repetition(words("one two three four")) == 0


# BERTScore


def test_greedy_matching_has_known_answers() -> None:
    east, north, between = torch.tensor([1.0, 0]), torch.tensor([0, 1.0]), torch.tensor([0.6, 0.8])
    text, reference = torch.stack([east, north]), torch.stack([between])
    precision, recall = (0.6 + 0.8) / 2, 0.8
    assert match(text, reference) == pytest.approx((precision, recall, 2 * precision * recall / (precision + recall)))
    assert match(reference, text) == pytest.approx((recall, precision, match(text, reference)[2]))
    assert match(text, text) == pytest.approx((1, 1, 1))
    assert match(text, torch.empty(0, 2)) == (0, 0, 0)
    assert match(torch.stack([east]), torch.stack([-east])) == (-1, -1, 0)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> ScoreEncoder:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSILIENCE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return ScoreEncoder(source=save_tiny_encoder(tmp_path_factory.mktemp("encoder")), max_tokens=32, layer=2)


def test_scores_are_those_of_the_definition(encoder: ScoreEncoder) -> None:
    text, reference = "I robbed my brother on day 1", "I helped my brother by the river"
    model = AutoModel.from_pretrained(encoder.source).eval()
    tokeniser = AutoTokenizer.from_pretrained(encoder.source)
    with torch.inference_mode():
        ours, theirs = (
            model(**tokeniser(each, return_tensors="pt"), output_hidden_states=True).hidden_states[2][0, 1:-1]
            for each in (text, reference)
        )
    cosines = cosine_similarity(ours[:, None], theirs[None], dim=-1)
    precision, recall = cosines.max(1).values.mean().item(), cosines.max(0).values.mean().item()
    texts = [text, reference, "", text, "I " * 200]
    found = load_scorer(encoder)(texts, [reference, reference, reference, "", reference])
    expected = (precision, recall, 2 * precision * recall / (precision + recall))
    assert found[0] == pytest.approx(expected, abs=1e-5), "padding beside longer texts changes nothing"
    assert found[1] == pytest.approx([1, 1, 1])
    assert not found[2].any()
    assert not found[3].any()
    assert load_scorer(encoder)([], []).shape == (0, 3)


def test_a_blank_text_scores_nothing_where_the_tokeniser_adds_no_tokens(tmp_path: Path) -> None:
    source = without_own_tokens(save_tiny_encoder(tmp_path))
    score = load_scorer(ScoreEncoder(source=source, max_tokens=32, layer=2))
    found = score(["", "I helped my brother", ""], ["", "I helped my brother", "my brother"])
    assert found[1] == pytest.approx([1, 1, 1])
    assert not found[[0, 2]].any()


def test_an_encoder_has_the_layer_that_is_asked_for(encoder: ScoreEncoder) -> None:
    with pytest.raises(UserError, match="layer 3; expected 1 to 2"):
        load_scorer(encoder.model_copy(update={"layer": 3}))
    with pytest.raises(UserError, match="cannot read max_tokens = 65"):
        load_scorer(encoder.model_copy(update={"max_tokens": 65}))
    assert encoder.shown.endswith(", layer 2")
