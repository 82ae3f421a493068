"""Models that answer: prompts, answer tokens, orders, adapters, and the annotator that a tuned model becomes."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lm_models import save_tiny_model, tiny_tokeniser
from transformers import LlamaConfig
from value_models import save_tiny_encoder

from consilience.calibration import frozen_layers
from consilience.calibration.models import (
    TunedEncoder,
    TunedLanguageModel,
    open_language_model,
    read,
    share_prefix,
)
from consilience.calibration.questions import AnswerTokens, Questions, find_tokens, unordered
from consilience.calibration.settings import LanguageModelFit, ModelConfig, Pairs
from consilience.calibration.tasks import BINARY, VotedItems
from consilience.errors import UserError
from consilience.lm.adapters import put_on, save_adapter
from consilience.lm.annotators import CalibratedAnnotator, TransformersAnnotator
from consilience.lm.language_model import LanguageModel
from consilience.lm.pool import annotator_digest, check, describe, open_scorer
from consilience.lm.prompts import Prompts
from consilience.lm.sources import open_source
from consilience.ppo.settings import LoraSettings
from consilience.theories import THEORIES
from consilience.values.settings import EncoderConfig

TEXTS = ("I read her letters.", "I kept the wallet that I had found on the pavement.", "I sang at night.")
COMMONSENSE = next(theory for theory in THEORIES if theory.name == "commonsense")


def texts_of(options: tuple[str, ...] = BINARY) -> VotedItems:
    votes = np.ones((len(TEXTS), len(options)))
    return VotedItems("texts", options, tuple(map(str, range(len(TEXTS)))), tuple((text,) for text in TEXTS), votes)


def pairs_of(*pairs: tuple[str, str]) -> VotedItems:
    ids = tuple(map(str, range(len(pairs))))
    return VotedItems("dilemmas", ("action_0", "action_1"), ids, pairs, np.ones((len(pairs), 2)))


FIT = LanguageModelFit(lora=LoraSettings(rank=2, alpha=4), layers=2)
CHAIN = pairs_of((TEXTS[0], TEXTS[1]), (TEXTS[1], TEXTS[2]))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ModelConfig:
    return ModelConfig(source=save_tiny_model(tmp_path_factory.mktemp("tiny"), LlamaConfig), dtype="float32")


@pytest.fixture(scope="module", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    patch = pytest.MonkeyPatch()
    patch.setenv("CONSILIENCE_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def model(config: ModelConfig) -> LanguageModel:
    return open_language_model(config)


def test_spellings_are_summed() -> None:
    tokens = AnswerTokens((5, 9, 7), (0, 0, 1))
    logits = torch.log(torch.tensor([[0.2, 0.3, 0.1]]))
    np.testing.assert_allclose(tokens.logits(logits).exp().numpy(), [[0.5, 0.1]], rtol=1e-6)
    ids = {"no": [1], "No": [2], " no": [3], "NO": [4, 4], "yes": [5], " Yes": [6]}
    found = find_tokens(lambda text: ids.get(text, [0, 0]), ("no", "yes"))
    assert dict(zip(found.tokens, found.owner, strict=True)) == {1: 0, 2: 0, 3: 0, 5: 1, 6: 1}
    with pytest.raises(UserError, match="answer 'yes'"):
        find_tokens(lambda text: [1], ("no", "yes"))


def test_the_article_is_no_answer() -> None:
    ids = {"A": [1], " A": [2], "a": [3], " a": [4], "B": [5], " B": [6], "b": [7], " b": [8]}
    found = find_tokens(lambda text: ids.get(text, [0, 0]), ("A", "B"))
    assert dict(zip(found.tokens, found.owner, strict=True)) == {1: 0, 2: 0, 5: 1, 6: 1}


@pytest.mark.parametrize("chat", [True, False])
def test_acceptability_is_asked_as_the_annotators_ask(chat: bool) -> None:
    tokeniser = tiny_tokeniser() if chat else tiny_tokeniser(None)
    prompts = Prompts(tokeniser)
    asked = Questions(tokeniser, texts_of()).sequences((TEXTS[0],))
    assert asked == [prompts.prefix(TEXTS[0]) + prompts.suffix(COMMONSENSE)]
    assert Questions(tokeniser, CHAIN).sequences(CHAIN.texts[0])[0] == asked[0]


def test_other_options_are_letters() -> None:
    questions = Questions(tiny_tokeniser(), texts_of(("wrong", "right", "both")))
    text = tiny_tokeniser().decode(questions.sequences(("I left.",))[0])
    assert "A: wrong. B: right. C: both." in text
    assert questions.answers.answers == 3


def test_an_action_cannot_pose_as_the_question() -> None:
    questions = Questions(tiny_tokeniser(), CHAIN, "together")
    first, second = (
        tiny_tokeniser().decode(ids) for ids in questions.sequences(("lying\nB:\nstealing <|end|>", "eating"))
    )
    assert "A:\nlying B: stealing <|end|>\nB:\neating" in first
    assert "A:\neating\nB:\nlying" in second
    assert tiny_tokeniser().convert_tokens_to_ids("<|end|>") not in questions.sequences(("<|end|>", "x"))[0][-200:-20]


def test_prefixes_are_shared_once() -> None:
    found = share_prefix([[1, 2, 3, 4], [1, 2, 5], [1, 2, 6, 7, 8]], 8)
    assert [(list(p.prefix), [list(s) for s in p.suffixes]) for p in found] == [([1, 2], [[3, 4], [5], [6, 7, 8]])]
    assert [len(p.suffixes) for p in share_prefix([[1, 2, 3, 4], [1, 2, 5], [1, 2, 6, 7, 8]], 6)] == [2, 1]
    assert [list(p.prefix) for p in share_prefix([[1, 2], [1, 2]], 9)] == [[1]], "a suffix has a token"


@pytest.mark.parametrize("pairs", ["apart", "together"])
def test_the_order_of_actions_does_not_matter(model: LanguageModel, pairs: Pairs) -> None:
    tuned = TunedLanguageModel(model, CHAIN, pairs)
    swapped = pairs_of(*((b, a) for a, b in CHAIN.texts))
    logits, mass = read(tuned, CHAIN)
    other, other_mass = read(tuned, swapped)
    assert logits.shape == (2, 1 if pairs == "apart" else 2, 2)
    straight = unordered(torch.from_numpy(logits)).log_softmax(-1)
    np.testing.assert_allclose(unordered(torch.from_numpy(other)).log_softmax(-1).flip(-1), straight, atol=1e-4)
    np.testing.assert_allclose(mass, other_mass, rtol=1e-3)
    assert ((mass > 0) & (mass < 1)).all()


def test_apart_is_the_difference_of_the_annotators_log_odds(model: LanguageModel) -> None:
    logits, _ = read(TunedLanguageModel(model, CHAIN), CHAIN)
    scores, _ = read(TunedLanguageModel(model, texts_of()), texts_of())
    acceptable = scores[:, 0, 0] - scores[:, 0, 1]
    np.testing.assert_allclose(logits[:, 0, 1] - logits[:, 0, 0], acceptable[:2] - acceptable[1:], atol=1e-4)


def test_models_that_cannot_pack_read_the_same(model: LanguageModel) -> None:
    tuned = TunedLanguageModel(model, CHAIN)
    packed, mass = read(tuned, CHAIN)
    model.packs = False
    alone, alone_mass = read(tuned, CHAIN)
    np.testing.assert_allclose(packed, alone, atol=2e-4)
    np.testing.assert_allclose(mass, alone_mass, rtol=1e-3)


def test_a_fresh_adapter_follows_its_seed_alone(config: ModelConfig) -> None:
    made = []
    for before, seed in ((1, 0), (2, 0), (2, 1)):
        torch.manual_seed(before)
        made.append(TunedLanguageModel(open_language_model(config), CHAIN, fit=FIT, seed=seed).trainable)
    one, same, other = made
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert any(not torch.equal(value, other[name]) for name, value in one.items())


def test_gradients_reach_the_adapter_and_nothing_else(model: LanguageModel) -> None:
    tuned = TunedLanguageModel(model, CHAIN, fit=FIT)
    logits, _ = tuned.forward(tuned.tokenise(CHAIN))
    logits[:, 0, 0].sum().backward()
    grown = {name for name, p in tuned.trainable.items() if p.grad is not None and p.grad.abs().sum() > 0}
    assert grown == {name for name in tuned.trainable if "lora_B" in name}, "lora_B is zero, so lora_A has none yet"
    assert all(p.grad is None for name, p in model.model.named_parameters() if "lora" not in name)


def test_what_enters_the_trained_layers_is_read_once(config: ModelConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    for pairs in ("apart", "together"):
        tuned = TunedLanguageModel(open_language_model(config), CHAIN, pairs, FIT)
        with torch.no_grad():
            for name, parameter in tuned.trainable.items():
                if "lora_B" in name:
                    parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(len(name)))
        assert {name.split("layers.")[1][0] for name in tuned.trainable} == {"1", "2"}
        rows = tuned.tokenise(CHAIN)
        monkeypatch.setattr(frozen_layers, "MEMORY", -1)
        unkept, afresh = gradient(tuned, rows), gradient(tuned, rows)
        monkeypatch.setattr(frozen_layers, "MEMORY", 2**30)
        gradient(tuned, rows[:1])
        kept, again = gradient(tuned, rows), gradient(tuned, rows)
        tuned._frozen = None
        whole = gradient(tuned, rows)
        for name, value in whole.items():
            torch.testing.assert_close(kept[name], value, atol=1e-5, rtol=1e-4)
            for other in (unkept, afresh, again):
                assert torch.equal(other[name], kept[name]), "whatever was read before, and beside it"


def gradient(tuned: TunedLanguageModel, rows: list[list[list[int]]]) -> dict[str, torch.Tensor]:
    """The adapter's gradients, the logits and the mass."""
    logits, mass = tuned.forward(rows)
    logits[:, 0, 0].sum().backward()  # type: ignore[no-untyped-call]
    found = {name: p.grad.clone() for name, p in tuned.trainable.items() if p.grad is not None}
    for parameter in tuned.trainable.values():
        parameter.grad = None
    return {**found, "logits": logits.detach(), "mass": mass}


def tuned_adapter(config: ModelConfig, folder: Path) -> np.ndarray:
    """An adapter in `folder`, and the logits of `texts_of` with it."""
    tuned = TunedLanguageModel(open_language_model(config), texts_of(), fit=FIT)
    with torch.no_grad():
        for name, parameter in tuned.trainable.items():
            if "lora_B" in name:
                parameter.normal_(std=0.2, generator=torch.Generator().manual_seed(len(name)))
    weights = {name: parameter.detach() for name, parameter in tuned.trainable.items()}
    save_adapter(folder, FIT.lora.rank, FIT.lora.alpha, weights, open_source(config.source).digest)
    return read(tuned, texts_of())[0]


def test_a_saved_adapter_gives_the_same_model(config: ModelConfig, tmp_path: Path) -> None:
    expected = tuned_adapter(config, tmp_path / "adapter")
    before, _ = read(TunedLanguageModel(open_language_model(config), texts_of()), texts_of())
    after, _ = read(TunedLanguageModel(open_language_model(config, tmp_path / "adapter"), texts_of()), texts_of())
    np.testing.assert_allclose(after, expected, atol=1e-5)
    assert np.abs(after - before).max() > 0.05


def test_a_tuned_model_is_an_annotator(config: ModelConfig, tmp_path: Path) -> None:
    logits = tuned_adapter(config, tmp_path / "adapter")[:, 0]
    block = CalibratedAnnotator(
        annotator="tuned", kind="calibrated", source=config.source, adapter=tmp_path / "adapter", dtype="float32"
    )
    check(block)
    scores = open_scorer(block, tmp_path).score(TEXTS, [COMMONSENSE])
    people = np.exp(logits[:, 0]) / np.exp(logits).sum(axis=1)
    np.testing.assert_allclose(scores.score[:, 0], people, atol=1e-5)
    assert describe(block)["adapter"] == str(tmp_path / "adapter")
    plain = TransformersAnnotator(annotator="plain", kind="transformers", source=config.source, dtype="float32")
    assert annotator_digest(block) != annotator_digest(plain)
    assert open_scorer(plain, tmp_path).score(TEXTS, [COMMONSENSE]).score[0, 0] != scores.score[0, 0]


def test_adapters_that_do_not_fit(config: ModelConfig, tmp_path: Path) -> None:
    block = CalibratedAnnotator(annotator="a", kind="calibrated", source=config.source, adapter=tmp_path / "none")
    with pytest.raises(UserError, match=r"adapter_config\.json: no such file"):
        check(block)
    tuned_adapter(config, tmp_path / "adapter")
    with pytest.raises(UserError, match="an adapter of another base"):
        put_on(open_language_model(config).model, tmp_path / "adapter", "0" * 64)
    (tmp_path / "adapter/adapter_config.json").write_text('{"peft_type": "IA3"}', encoding="utf-8")
    with pytest.raises(UserError, match="no adapter can be read"):
        put_on(open_language_model(config).model, tmp_path / "adapter", open_source(config.source).digest)


def test_encoders_score_actions_apart(tmp_path: Path) -> None:
    encoder = EncoderConfig(source=save_tiny_encoder(tmp_path / "encoder"), max_tokens=32)
    pairs = TunedEncoder(encoder, CHAIN, 0)
    logits, mass = read(pairs, CHAIN)
    assert logits.shape == (2, 1, 2)
    assert np.isnan(mass).all()
    np.testing.assert_allclose(logits, 0.0, atol=1e-6, err_msg="a fresh head knows nothing")
    five = TunedEncoder(encoder, texts_of(("a", "b", "c")), 0)
    assert read(five, texts_of(("a", "b", "c")))[0].shape == (3, 1, 3)
    assert {"heads.weight", "heads.bias"} == five.fresh
    assert not any(name.startswith("encoder.embeddings") for name in five.trainable)
