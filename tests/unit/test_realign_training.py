"""Theory tokens: the objective's gradients, suffix training equal to full training, nothing else changed, resuming."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from realign_models import KINDS, pair, save
from torch.autograd import gradcheck
from torch.testing import assert_close

from consilience.errors import UserError
from consilience.lm.language_model import LanguageModel, load_model
from consilience.realign.objective import Head, bernoulli_js, cosine_distance
from consilience.realign.pair import build_trainer, locate, make_readable
from consilience.realign.settings import SplitConfig, TrainingConfig
from consilience.realign.split import split_items
from consilience.realign.training import ARMS, LAMBDA0, TOKENS, PairTrainer

CONFIG = TrainingConfig(epochs=3, warmup_epochs=2, patience=2, batch_size=6, head_learning_rate=1e-2)
PROBABILITY = st.floats(0.0, 1.0)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    folder = tmp_path_factory.mktemp("models")
    made: dict[str, str] = {}

    def find(name: str = "tied") -> str:
        if name not in made:
            made[name] = save(folder, name)
        return made[name]

    return find


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> object:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSILIENCE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def weights(model: LanguageModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.model.state_dict().items()}


def train(trainer: PairTrainer) -> PairTrainer:
    with trainer.reading():
        while not trainer.finished:
            trainer.step()
    return trainer


def test_js_has_its_known_values_and_gradient() -> None:
    p = torch.tensor([0.0, 1.0, 0.3, 0.5], dtype=torch.float64)
    q = torch.tensor([1.0, 1.0, 0.3, 0.0], dtype=torch.float64)
    m = 0.25
    half = 0.5 * (0.5 * np.log(0.5 / m) + 0.5 * np.log(0.5 / (1 - m))) + 0.5 * np.log(1 / (1 - m))
    assert_close(bernoulli_js(p, q), torch.tensor([np.log(2), 0.0, 0.0, half]), atol=1e-5, rtol=0)
    logit = torch.linspace(-4, 4, 9, dtype=torch.float64, requires_grad=True)
    target = torch.linspace(0, 1, 9, dtype=torch.float64)
    assert gradcheck(lambda x: bernoulli_js(torch.sigmoid(x), target), (logit,), atol=1e-7)


@pytest.mark.parametrize("logit", [-300.0, -20.0, 20.0, 300.0])
def test_js_of_a_saturated_head_has_a_finite_gradient(logit: float) -> None:
    logits = torch.full((3,), logit, requires_grad=True)
    bernoulli_js(torch.sigmoid(logits), torch.tensor([0.0, 0.4, 1.0])).sum().backward()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@given(PROBABILITY, PROBABILITY)
def test_js_is_symmetric_and_bounded(p: float, q: float) -> None:
    a, b = torch.tensor([p, q], dtype=torch.float64)
    js = float(bernoulli_js(a, b))
    assert -1e-12 <= js <= np.log(2) + 1e-12
    assert js == pytest.approx(float(bernoulli_js(b, a)), abs=1e-4)


def test_cosine_distance_ignores_length_and_has_its_gradient() -> None:
    original = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
    moved = torch.tensor([[3.0, 0.0], [5.0, 0.0]], dtype=torch.float64, requires_grad=True)
    assert float(cosine_distance(moved.detach(), original)) == pytest.approx(0.5)
    tokens = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: cosine_distance(x, torch.ones(3, 5, dtype=torch.float64)), (tokens,))


@pytest.mark.parametrize("kind", ["linear", "mlp"])
def test_a_new_head_answers_the_same_to_everything(kind: str) -> None:
    states = torch.randn(20, 8) * 5 + 3
    head = Head(8, kind)  # type: ignore[arg-type]
    head.fit_scale(states)
    assert_close(head(states), torch.full((20,), 0.5))


@pytest.mark.parametrize("name", KINDS)
def test_reading_the_suffix_equals_reading_all(name: str, source: Callable[[str], str], tmp_path: Path) -> None:
    """States, loss and gradients in float32; in memory and on disk."""
    case = pair(source(name))
    model = load_model(case.annotator.source, None, "float32")
    assert model.packs
    found = []
    for packs, memory in ((True, 1e9), (True, 0.0), (False, 0.0)):
        model.packs = packs
        trainer = build_trainer(make_readable(model, case, tmp_path, memory), case, CONFIG)
        model.packs = True
        rows = trainer._suffix.originals.clone().mul_(1.1).requires_grad_(True)
        with trainer.reading():
            states = trainer._reader.states([1, 4, 7], trainer._suffix.with_rows(rows))
            states.square().mean().backward()
        found.append((states.detach(), rows.grad))
    for states, gradient in found[1:]:
        assert_close(states, found[0][0], atol=1e-4, rtol=1e-4)
        assert_close(gradient, found[0][1], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("name", ["tied", "scaled embeddings, short window"])
def test_training_on_suffixes_equals_training_on_all(name: str, source: Callable[[str], str], tmp_path: Path) -> None:
    case = pair(source(name))
    model = load_model(case.annotator.source, None, "float32")
    ours = train(build_trainer(make_readable(model, case, tmp_path, 1e9), case, CONFIG))
    model.packs = False
    try:
        full = train(build_trainer(make_readable(model, case, tmp_path, 1e9), case, CONFIG))
    finally:
        model.packs = True
    for a, b in zip(ours.history, full.history, strict=True):
        assert a["js_train"] == pytest.approx(b["js_train"], abs=1e-4)
        assert a["js_dev"] == pytest.approx(b["js_dev"], abs=1e-4)
    assert_close(ours.fit.rows, full.fit.rows, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("name", KINDS)
def test_only_the_rows_change(name: str, source: Callable[[str], str], tmp_path: Path) -> None:
    case = pair(source(name))
    model = load_model(case.annotator.source, None, "float32")
    before = weights(model)
    trainer = train(build_trainer(make_readable(model, case, tmp_path, 1e9), case, CONFIG))
    after = weights(model)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert not torch.equal(trainer.fits[LAMBDA0].rows, trainer._suffix.originals)


def test_every_item_is_held_out_once_and_learned(source: Callable[[str], str], tmp_path: Path) -> None:
    case = pair(source(), items=40, folds=4)
    trainer = train(
        build_trainer(
            make_readable(load_model(case.annotator.source, None, "float32"), case, tmp_path, 1e9), case, CONFIG
        )
    )
    for arm in ARMS:
        found = trainer.predictions[arm]
        assert ((found >= 0) & (found <= 1)).all()
        assert np.mean((found > 0.5) == (case.targets > 0.5)) > 0.9
    assert_close(trainer.scores, trainer.predictions[TOKENS])


def test_lambda_holds_the_tokens(source: Callable[[str], str], tmp_path: Path) -> None:
    case = pair(source())
    model = load_model(case.annotator.source, None, "float32")
    held = CONFIG.model_copy(update={"cosine_weight": 100.0, "patience": 9})
    history = train(build_trainer(make_readable(model, case, tmp_path, 1e9), case, held)).history
    distance = {
        arm: float(np.mean([entry["cosine_distance"] for entry in history if entry["arm"] == arm])) for arm in ARMS
    }
    assert distance["head"] < 1e-6
    assert distance[TOKENS] < 0.5 * distance[LAMBDA0]


def test_arms_differ_in_the_rows_alone(source: Callable[[str], str], tmp_path: Path) -> None:
    """Same warmed-up head, same batches, as many epochs: tokens that hardly move are the head alone."""
    case = pair(source())
    model = load_model(case.annotator.source, None, "float32")
    still = CONFIG.model_copy(update={"token_learning_rate": 1e-9})
    found = train(build_trainer(make_readable(model, case, tmp_path, 1e9), case, still)).predictions
    np.testing.assert_allclose(found[TOKENS], found["head"], atol=1e-4)
    np.testing.assert_allclose(found[LAMBDA0], found["head"], atol=1e-4)


@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_a_stopped_trainer_goes_on_as_if_it_had_not(head: str, source: Callable[[str], str], tmp_path: Path) -> None:
    """Wherever it was stopped, patience and chance included: the global generator plays no part."""
    case = pair(source())
    config = CONFIG.model_copy(update={"head": head, "epochs": 5, "patience": 2, "head_learning_rate": 0.3})
    model = load_model(case.annotator.source, None, "float32")
    readable = make_readable(model, case, tmp_path, 1e9)
    whole = train(build_trainer(readable, case, config))
    assert len(whole.history) < whole.epochs_done[1], "an arm has run out of patience"
    first = build_trainer(readable, case, config)
    with first.reading():
        for stop in range(len(whole.history)):
            first.save(tmp_path / f"{stop}")
            first.step()
    for stop in (1, 3, len(whole.history) - 1):
        torch.manual_seed(stop)
        second = build_trainer(readable, case, config)
        second.load(tmp_path / f"{stop}")
        train(second)
        assert second.history == whole.history
        assert torch.equal(second.fit.rows, whole.fit.rows)
        np.testing.assert_array_equal(second.scores, whole.scores)


def test_the_word_is_found_wherever_it_stands(source: Callable[[str], str]) -> None:
    case = pair(source())
    model = load_model(case.annotator.source, None, "float32")
    _, word = locate(model, case)
    text = model.tokeniser.decode(list(word.suffix))
    assert text.count("deontology") * len(word.ids) == len(word.places)
    assert model.tokeniser.decode(list(word.ids)) == " deontology"
    new = word.with_tokens(range(9_000, 9_000 + len(word.ids)))
    assert [id for id in new if id >= 9_000] == list(range(9_000, 9_000 + len(word.ids))) * text.count("deontology")
    assert [id for id in new if id < 9_000] == [id for place, id in enumerate(word.suffix) if place not in word.places]


@given(st.integers(10, 700), st.integers(0, 5))
def test_splits_hold_whole_items_out(items: int, seed: int) -> None:
    splits = split_items(items, SplitConfig(folds=4, cross_fit_below=300), seed)
    for split in splits:
        parts = np.concatenate([split.train, split.dev, split.test])
        assert sorted(parts) == list(range(items))
        assert len(split.train) > len(split.dev) > 0
    if items < 300:
        assert sorted(np.concatenate([split.test for split in splits])) == list(range(items))
        assert not len(splits[-1].test)
    else:
        (split,) = splits
        assert len(split.test) == len(split.dev) == items // 10


def test_too_few_items_are_refused() -> None:
    with pytest.raises(UserError, match="9 items with a target; expected at least 10"):
        split_items(9, SplitConfig(), 0)
