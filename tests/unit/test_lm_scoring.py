"""Reading tiny models: shared prefixes change nothing, whatever the architecture; what cannot be read is missing."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lm_models import save_tiny_model
from transformers import (
    BertConfig,
    BertModel,
    CohereConfig,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    Qwen3Config,
)

from consilience.errors import UserError
from consilience.lm.generator import generate
from consilience.lm.language_model import LanguageModel, load_model
from consilience.lm.packed_attention import Packed, Prompt, packed_attention
from consilience.lm.scorer import FAILED, OK, Scores
from consilience.lm.transformers_scorer import TransformersScorer
from consilience.theories import THEORIES

DILEMMAS = [
    "I kept the change.",
    "My neighbour asked me to lie to her landlord about a leak, and I told him the truth because he asked me directly.",
    "I borrowed my brother's car, scratched it, and had it repaired before he could see it. " * 3,
    "\u7236\u306b\u5618\u3092\u3064\u3044\u305f \U0001f494 na\u00efve caf\u00e9\r\n\u202eend",
    "No.",
]
LOCAL = {"layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
MODELS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "one key head": (LlamaConfig, {"num_key_value_heads": 1}),
    "as many key heads": (LlamaConfig, {"num_key_value_heads": 4}),
    "untied": (LlamaConfig, {"tie_word_embeddings": False}),
    "gemma3, short window": (Gemma3TextConfig, {"sliding_window": 24, "query_pre_attn_scalar": 8, **LOCAL}),
    "gemma3, longer window": (Gemma3TextConfig, {"sliding_window": 300, **LOCAL}),
    "mistral, window": (MistralConfig, {"sliding_window": 150}),
    "mistral, no window": (MistralConfig, {"sliding_window": None}),
    "qwen3": (Qwen3Config, {}),
    "cohere": (CohereConfig, {"logit_scale": 0.25}),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., LanguageModel]:
    """A tiny model of a name in `MODELS`, saved and loaded as a source."""
    folder = tmp_path_factory.mktemp("models")

    def load(name: str = "llama", dtype: str = "float32") -> LanguageModel:
        place = folder / name.replace(" ", "_")
        if not place.exists():
            kind, settings = MODELS[name]
            save_tiny_model(place, kind, **settings)
        return load_model(str(place), None, dtype)  # type: ignore[arg-type]

    return load


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSILIENCE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def scored(scorer: TransformersScorer, model: LanguageModel, packs: bool, tokens: int = 2048) -> Scores:
    """Scores of `DILEMMAS`, with prefixes shared or prompt by prompt."""
    usual = model.packs, model.tokens_per_batch
    model.packs, model.tokens_per_batch = packs, tokens
    try:
        return scorer.score(DILEMMAS, THEORIES)
    finally:
        model.packs, model.tokens_per_batch = usual


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("elicitation", ["yes_no", "scale_0_10"])
def test_shared_prefixes_change_nothing(model: Callable[..., LanguageModel], name: str, elicitation: Any) -> None:
    tiny = model(name)
    assert tiny.packs
    scorer = TransformersScorer(tiny, "a hospital nurse", elicitation)
    alone = scored(scorer, tiny, packs=False, tokens=1)
    assert (alone.status == OK).all()
    assert alone.score.std(axis=0).min() > 1e-3
    for packs, tokens in [(True, 2048), (True, 1), (True, 500), (False, 2048)]:
        shared = scored(scorer, tiny, packs, tokens)
        np.testing.assert_allclose(shared.score, alone.score, atol=1e-5)
        np.testing.assert_allclose(shared.answer_mass, alone.answer_mass, atol=1e-5)


def test_order_and_selection_change_nothing(model: Callable[..., LanguageModel]) -> None:
    scorer = TransformersScorer(model())
    whole = scorer.score(DILEMMAS, THEORIES).score
    np.testing.assert_allclose(scorer.score(DILEMMAS[::-1], THEORIES[::-1]).score, whole[::-1, ::-1], atol=1e-6)
    np.testing.assert_allclose(scorer.score(DILEMMAS[2:3], THEORIES[1:3]).score, whole[2:3, 1:3], atol=1e-6)


def test_scores_are_the_models_own_probabilities(model: Callable[..., LanguageModel]) -> None:
    tiny = model()
    words = {"yes": 1, " yes": 1, "Yes": 1, " Yes": 1, "no": 0, " no": 0, "No": 0, " No": 0}
    scorer = TransformersScorer(tiny)
    text = tiny.tokeniser.decode(scorer._prompts.prefix(DILEMMAS[1]) + scorer._prompts.suffix(THEORIES[2]))
    with torch.inference_mode():
        logits = tiny.model(torch.tensor([tiny.tokeniser(text, add_special_tokens=False).input_ids])).logits[0, -1]
    probability = logits.double().softmax(-1)
    ids = {word: tiny.tokeniser(word, add_special_tokens=False).input_ids for word in words}
    yes = sum(probability[ids[word][0]].item() for word, is_yes in words.items() if is_yes and len(ids[word]) == 1)
    no = sum(probability[ids[word][0]].item() for word, is_yes in words.items() if not is_yes and len(ids[word]) == 1)
    scores = scorer.score(DILEMMAS[1:2], THEORIES[2:3])
    assert scores.score.item() == pytest.approx(yes / (yes + no), abs=1e-5)
    assert scores.answer_mass.item() == pytest.approx(yes + no, abs=1e-5)


def test_ten_is_told_from_one(model: Callable[..., LanguageModel]) -> None:
    tiny = model()
    scorer = TransformersScorer(tiny, elicitation="scale_0_10")
    prompt = scorer._prompts.prefix(DILEMMAS[0]) + scorer._prompts.suffix(THEORIES[0])
    digits = [tiny.tokeniser(str(digit), add_special_tokens=False).input_ids[0] for digit in range(10)]
    with torch.inference_mode():
        first = tiny.model(torch.tensor([prompt])).logits[0, -1].double().softmax(-1)
        second = tiny.model(torch.tensor([[*prompt, digits[1]]])).logits[0, -1].double().softmax(-1)
    shares = [first[digit].item() for digit in digits]
    ten = shares[1] * second[digits[0]].item()
    expected = (sum(n / 10 * share for n, share in enumerate(shares)) + 0.9 * ten) / sum(shares)
    scores = scorer.score(DILEMMAS[:1], THEORIES[:1])
    assert scores.score.item() == pytest.approx(expected, abs=1e-5)
    assert scores.answer_mass.item() == pytest.approx(sum(shares), abs=1e-5)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [(Gemma2Config, {"attn_logit_softcapping": 5.0}), (MambaConfig, {"state_size": 4, "num_hidden_layers": 2})],
)
def test_other_architectures_are_read_prompt_by_prompt(tmp_path: Path, kind: Any, settings: dict[str, Any]) -> None:
    tiny = load_model(save_tiny_model(tmp_path, kind, **settings), None, "float32")
    assert not tiny.packs
    scorer = TransformersScorer(tiny)
    np.testing.assert_allclose(scored(scorer, tiny, False).score, scored(scorer, tiny, False, 1).score, atol=1e-5)


def test_a_model_that_forgets_positions_is_not_packed(model: Callable[..., LanguageModel]) -> None:
    tiny = load_model.__wrapped__(model().model.name_or_path, None, "float32")
    whole = tiny.model.model.rotary_emb.forward
    tiny.model.model.rotary_emb.forward = lambda x, position_ids: whole(x, torch.arange(x.shape[1])[None])
    assert not LanguageModel(tiny.model, tiny.tokeniser).packs


def test_bfloat16_answers_are_as_fine_as_float32_ones(model: Callable[..., LanguageModel]) -> None:
    tiny = model("llama", "bfloat16")
    assert tiny.model.dtype == torch.bfloat16
    scorer = TransformersScorer(tiny)
    error = np.abs(scored(scorer, tiny, True).score - scored(TransformersScorer(model()), model(), True).score).mean()
    assert 0 < error < 0.05


def test_logits_that_are_more_than_a_product_are_taken_from_the_model(model: Callable[..., LanguageModel]) -> None:
    scaled, usual = model("cohere", "bfloat16"), model("llama", "bfloat16")
    assert (scaled._head_is_linear, usual._head_is_linear) == (False, True)


def test_blank_and_over_long_dilemmas_are_missing(model: Callable[..., LanguageModel]) -> None:
    scorer = TransformersScorer(model())
    scores = scorer.score(["", DILEMMAS[0], "why " * 2000, " \n\t", DILEMMAS[1]], THEORIES)
    assert scores.status.tolist() == [[status] * 5 for status in (FAILED, OK, FAILED, FAILED, OK)]
    assert (np.isnan(scores.score) == (scores.status == FAILED)).all()
    assert (np.isnan(scores.answer_mass) == (scores.status == FAILED)).all()
    np.testing.assert_allclose(scores.score[[1, 4]], scorer.score(DILEMMAS[:2], THEORIES).score, atol=1e-6)


def test_a_dilemma_that_just_fits_is_read(model: Callable[..., LanguageModel]) -> None:
    tiny = model()
    scorer = TransformersScorer(tiny)
    room = 1024 - len(scorer._prompts.prefix("")) - max(len(scorer._prompts.suffix(theory)) for theory in THEORIES)
    status = scorer.score(["7" * room, "7" * (room + 1)], THEORIES).status
    assert (status[0] == OK).all()
    assert (status[1] == FAILED).all()


def test_nothing_to_judge(model: Callable[..., LanguageModel]) -> None:
    scorer = TransformersScorer(model())
    assert scorer.score([], THEORIES).score.shape == (0, 5)
    assert scorer.score(DILEMMAS, []).status.shape == (5, 0)
    assert scorer.score(["", ""], THEORIES).score.shape == (2, 5)


def test_weights_gone_wrong_give_missing_scores(model: Callable[..., LanguageModel]) -> None:
    broken = load_model.__wrapped__(model().model.name_or_path, None, "float32")
    broken.model.model.norm.weight.fill_(torch.nan)
    scores = TransformersScorer(broken).score(DILEMMAS, THEORIES)
    assert (scores.status == FAILED).all()
    assert np.isnan(scores.score).all()


def test_personas_and_elicitations_share_a_model(model: Callable[..., LanguageModel]) -> None:
    tiny = model()
    assert load_model(tiny.model.name_or_path, None, "float32") is tiny
    seen = [
        TransformersScorer(tiny, persona, elicitation).score(DILEMMAS, THEORIES).score  # type: ignore[arg-type]
        for persona in (None, "a hospital nurse", "a retired judge")
        for elicitation in ("yes_no", "scale_0_10")
    ]
    assert all(np.abs(a - b).max() > 1e-3 for i, a in enumerate(seen) for b in seen[:i])


def test_reading_leaves_the_model_as_it_was(model: Callable[..., LanguageModel]) -> None:
    tiny = model()
    before = {name: weight.clone() for name, weight in tiny.model.state_dict().items()}
    hooks = list(tiny.model.get_output_embeddings()._forward_pre_hooks)
    scored(TransformersScorer(tiny), tiny, True)
    assert tiny.model.config._attn_implementation == "sdpa"
    assert list(tiny.model.get_output_embeddings()._forward_pre_hooks) == hooks
    assert all(torch.equal(weight, before[name]) for name, weight in tiny.model.state_dict().items())


def test_gradients_flow_through_packed_suffixes(model: Callable[..., LanguageModel]) -> None:
    tiny = model("gemma3, short window")
    prompts = [Prompt(range(3, 40), [range(40, 50), range(50, 53)]), Prompt(range(60, 70), [range(40, 50)] * 2)]
    packed = Packed(prompts, tiny.model.device)
    embedded = tiny.model.get_input_embeddings()(packed.input_ids).clone().requires_grad_()
    with packed_attention(tiny.model):
        states = tiny.model.base_model(inputs_embeds=embedded, position_ids=packed.position_ids, packed=packed)
    states.last_hidden_state[0, packed.last(1)[0]].sum().backward()
    touched = embedded.grad[0].abs().sum(-1) > 0
    assert touched[:47].all()
    assert not touched[47:].any()


def test_an_encoder_is_no_language_model(tmp_path: Path) -> None:
    BertModel(BertConfig(vocab_size=60, hidden_size=16, num_hidden_layers=1, num_attention_heads=2)).save_pretrained(
        tmp_path
    )
    with pytest.raises(UserError, match="not a causal language model"):
        load_model(str(tmp_path))


def test_replies_do_not_depend_on_the_company(model: Callable[..., LanguageModel]) -> None:
    tiny = model()
    together = generate(tiny, DILEMMAS, system="Be brief.", max_new_tokens=6)
    alone = [generate(tiny, [text], system="Be brief.", max_new_tokens=6)[0] for text in DILEMMAS]
    assert together == alone
    assert generate(tiny, DILEMMAS, max_new_tokens=6) != together
    assert generate(tiny, []) == []


def test_sampling_follows_its_seed_and_leaves_the_global_one(model: Callable[..., LanguageModel]) -> None:
    state = torch.random.get_rng_state()
    first, again, other = (
        generate(model(), DILEMMAS, max_new_tokens=8, temperature=1.0, top_p=0.9, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again != other
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_reply_ends_where_the_model_ends_it(model: Callable[..., LanguageModel]) -> None:
    tiny = load_model.__wrapped__(model("untied").model.name_or_path, None, "float32")
    tiny.model.lm_head.weight.zero_()
    tiny.model.lm_head.weight[2] = 1e-6 * torch.sign(tiny.model.model.norm.weight)
    assert len(generate(tiny, DILEMMAS[:2], max_new_tokens=5)) == 2


def test_a_prompt_beyond_the_window_is_refused(model: Callable[..., LanguageModel]) -> None:
    with pytest.raises(UserError, match="the model reads 1024 at most"):
        generate(model(), ["7" * 900, "short"], max_new_tokens=200)
