"""Training, judging, storing and using value classifiers, on a tiny real encoder."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from value_models import save_tiny_encoder, store_classifier, value_examples, without_own_tokens, without_weights

from consilience.errors import UserError
from consilience.theories import VALUE_NAMES
from consilience.values.about import Head
from consilience.values.assessment import Assessment, assess
from consilience.values.baseline import bag_of_words, majority
from consilience.values.classifier import ValueClassifier, classify, load_classifier
from consilience.values.examples import FOLLOWS, RELEVANCE
from consilience.values.norms import norm_profiles
from consilience.values.reward import load_reward
from consilience.values.settings import EncoderConfig, FitConfig
from consilience.values.split import split_by_situation
from consilience.values.training import ClassifierTrainer

FIT = FitConfig(epochs=6, batch_size=16, learning_rate=3e-3, head_learning_rate=1e-2)


@pytest.fixture(scope="module", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSILIENCE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> EncoderConfig:
    return EncoderConfig(source=save_tiny_encoder(tmp_path_factory.mktemp("encoder")), max_tokens=32)


@pytest.fixture(scope="module")
def examples() -> pd.DataFrame:
    return split_by_situation(value_examples(300), 4, 0)


@pytest.fixture(scope="module")
def trained(encoder: EncoderConfig, examples: pd.DataFrame) -> ClassifierTrainer:
    trainer = ClassifierTrainer(ValueClassifier.build(encoder, 0), examples, FIT, 0)
    while not trainer.finished:
        trainer.step()
    return trainer


@pytest.fixture(scope="module")
def assessed(trained: ClassifierTrainer, examples: pd.DataFrame) -> Assessment:
    return assess(FOLLOWS, examples, trained.logits(examples["text"].tolist()))


def test_training_learns_which_verb_follows(trained: ClassifierTrainer) -> None:
    assert [entry["epoch"] for entry in trained.history] == [1, 2, 3, 4, 5, 6]
    assert trained.history[-1]["loss_train"] < 0.3 < trained.history[0]["loss_train"]
    logits = trained.model.logits(["I helped my brother", "I robbed my brother"])
    assert (logits[0] > 0).all()
    assert (logits[1] < 0).all()


def test_a_resumed_run_repeats_the_uninterrupted_one(
    encoder: EncoderConfig, examples: pd.DataFrame, trained: ClassifierTrainer, tmp_path: Path
) -> None:
    first = ClassifierTrainer(ValueClassifier.build(encoder, 0), examples, FIT, 0)
    for _ in range(first.steps // 2 + 1):
        first.step()
    first.save(tmp_path / "checkpoint")
    second = ClassifierTrainer(ValueClassifier.build(encoder, 9), examples, FIT, 0)
    second.load(tmp_path / "checkpoint")
    while not second.finished:
        second.step()
    for name, value in trained.model.state_dict().items():
        assert torch.equal(value, second.model.state_dict()[name]), name
    losses = [[entry["loss_train"] for entry in run.history] for run in (trained, second)]
    assert losses[0] == losses[1]


def test_only_known_labels_count(encoder: EncoderConfig, examples: pd.DataFrame) -> None:
    care = examples.assign(**{value: np.nan for value in VALUE_NAMES if value != "care"}).dropna(subset=["care"])
    trainer = ClassifierTrainer(ValueClassifier.build(encoder, 0), care, FIT, 0)
    before = trainer.model.heads.weight.detach().clone()
    trainer._rates = (0.0, 1e-2)
    trainer.config = FIT.model_copy(update={"weight_decay": 0.0})
    for group in trainer._optimiser.param_groups:
        group["weight_decay"] = 0.0
    trainer.step()
    changed = (trainer.model.heads.weight != before).any(dim=1).tolist()
    assert changed == [value == "care" for value in VALUE_NAMES]


def test_assessment_compares_and_judges(assessed: Assessment) -> None:
    figures = {(row["value"], row["examples"], row["system"]): row for row in assessed.metrics}
    for value in VALUE_NAMES:
        assert figures[value, "all", "classifier"]["auc"] > 0.9
        assert figures[value, "all", "majority"]["auc"] == 0.5
        both = [figures[value, name, "classifier"]["n"] for name in ("human", "predicted")]
        assert sum(both) == figures[value, "all", "classifier"]["n"]
    assert {row["verdict"] for row in assessed.classifiers} <= {"usable", "refused"}
    assert list(assessed.correlations) == list(VALUE_NAMES)
    assert assessed.correlations["care"]["care"] == pytest.approx(1)
    assert assessed.correlations["care"]["loyalty"] > 0.9, "all five learn the verbs, and nothing of their own"
    for row in assessed.classifiers:
        assert (row["verdict"] == "usable") == (row["reason"] is None)


def test_noise_is_refused_and_a_value_without_examples_is_untrained(examples: pd.DataFrame) -> None:
    noise = np.random.default_rng(0).normal(size=(len(examples), 5))
    found = assess(FOLLOWS, examples.assign(sanctity=np.nan), noise)
    assert found.heads["care"].verdict == "refused"
    assert "not beyond doubt above chance" in str(found.heads["care"].reason)
    assert found.heads["sanctity"].verdict == "untrained"
    assert found.heads["sanctity"].auc is None
    assert list(found.correlations) == ["authority", "care", "fairness", "loyalty"]
    assert abs(found.correlations["care"]["loyalty"]) < 0.5


@pytest.mark.parametrize(("situations", "verdict"), [(9, "refused"), (10, "usable")])
def test_a_perfect_classifier_needs_situations_to_prove_itself(situations: int, verdict: str) -> None:
    """Ten positives in every part, but in test some of one situation; the words tell nothing."""
    split = np.repeat(["train", "validation", "test"], 20)
    labels = np.tile([1.0, 0.0], 30)
    names = [f"{part}{min(k % 20 // 2, situations - 1)}" for k, part in enumerate(split)]
    rows = {"text": "word", "situation": names, "split": split, "source": "own", "label_source": "human"}
    logits = np.tile(np.where(labels == 1, 3.0, -3.0)[:, None], 5)
    found = assess(FOLLOWS, pd.DataFrame(rows | dict.fromkeys(VALUE_NAMES, labels)), logits)
    assert found.heads["care"].verdict == verdict
    assert (found.heads["care"].reason or "").startswith("only 9 situations in test") == (verdict == "refused")


def test_all_test_texts_of_one_situation_have_no_interval() -> None:
    split = np.repeat(["train", "validation", "test"], 4)
    labels = np.tile([1.0, 0.0], 6)
    rows = {"text": "word", "situation": split, "split": split, "source": "own", "label_source": "human"}
    logits = np.tile(labels[:, None], 5)
    found = assess(FOLLOWS, pd.DataFrame(rows | dict.fromkeys(VALUE_NAMES, labels)), logits)
    row = found.classifiers[0]
    assert (row["verdict"], row["auc_gain"], row["auc_gain_low"]) == ("refused", 0.5, None)
    assert found.metrics[0]["auc"] == 1
    assert found.metrics[0]["auc_low"] is found.metrics[0]["auc_high"] is None


def test_baselines() -> None:
    texts = ["warm soup", "cold soup", "warm bread", "cold bread"]
    labels = np.array([1.0, 0.0, 1.0, 0.0])
    found = bag_of_words((texts, labels), (texts, labels), ["warm tea", "cold tea", "温かいお茶", ""])
    assert found[0] > 0.5 > found[1]
    assert found[2] == found[3]
    assert majority(np.array([1.0, 0.0, 0.0, 0.0]), 2).tolist() == [0.25, 0.25]


def test_round_trip_is_bitwise(trained: ClassifierTrainer, encoder: EncoderConfig, tmp_path: Path) -> None:
    heads = dict.fromkeys(VALUE_NAMES, Head("usable", temperature=1.7))
    texts = ["I thanked my brother", "I fouled the river", ""]
    store_classifier(tmp_path, trained.model, encoder, heads)
    model, about = load_classifier(tmp_path / FOLLOWS)
    assert about.heads == heads
    assert (model.logits(texts) == trained.model.logits(texts)).all()
    assert {path.name for path in (tmp_path / FOLLOWS).iterdir()} == {"classifier.safetensors", "classifier.json"}
    rewards = [load_reward(tmp_path, value) for value in VALUE_NAMES]
    assert [reward(texts) for reward in rewards] == classify(model, about, texts).T.tolist()
    assert len({id(reward._model) for reward in rewards}) == 1, "five rewards share one encoder"


def test_a_reward_takes_any_text(trained: ClassifierTrainer, encoder: EncoderConfig, tmp_path: Path) -> None:
    usable = dict.fromkeys(VALUE_NAMES, Head("usable"))
    reward = load_reward(store_classifier(tmp_path, trained.model, encoder, usable), "care")
    assert (reward.value, reward.forced) == ("care", False)
    assert reward([]) == []
    odd = ["", " \n", "word " * 200_000, "Ich half meinem Bruder", "彼は兄を助けた", "🙂" * 50, "\x00\ufffd"]
    found = reward(odd)
    assert len(found) == len(odd)
    assert all(isinstance(score, float) and 0 <= score <= 1 for score in found)
    assert reward(["I helped my brother"])[0] > 0.5 > reward(["I robbed my brother"])[0]


def test_a_weak_classifier_is_refused_unless_forced(
    trained: ClassifierTrainer, encoder: EncoderConfig, tmp_path: Path
) -> None:
    heads = dict.fromkeys(VALUE_NAMES, Head("usable"))
    heads |= {"care": Head("refused", "AUC too low"), "loyalty": Head("untrained", "too few examples")}
    folder = store_classifier(tmp_path, trained.model, encoder, heads)
    with pytest.raises(UserError, match="care classifier is refused as a reward: AUC too low"):
        load_reward(folder, "care")
    assert load_reward(folder, "care", force=True).forced
    assert not load_reward(folder, "fairness", force=True).forced, "nothing had to be forced"
    for force in (False, True):
        with pytest.raises(UserError, match="no reward for loyalty: too few examples"):
            load_reward(folder, "loyalty", force)
    with pytest.raises(UserError, match="unknown value 'liberty'"):
        load_reward(folder, "liberty")
    with pytest.raises(UserError, match="no value classifier here"):
        load_reward(tmp_path / "elsewhere", "care")


def test_a_known_norm_has_the_values_people_name_another_those_predicted(
    trained: ClassifierTrainer, encoder: EncoderConfig, tmp_path: Path
) -> None:
    heads = dict.fromkeys(VALUE_NAMES, Head("usable")) | {"sanctity": Head("untrained", "too few examples")}
    folder = store_classifier(tmp_path, trained.model, encoder, heads, RELEVANCE)
    norms = pd.DataFrame({"rot": ["I robbed my brother"], **dict.fromkeys(VALUE_NAMES, 0.0), "loyalty": 1.0})
    texts = ["I helped my brother", "I robbed my brother", "I robbed my brother.", "I helped my brother"]
    profiles = norm_profiles(texts, norms, folder)
    assert profiles["norm"].tolist() == texts
    assert profiles["profile_source"].tolist() == ["predicted", "human", "predicted", "predicted"]
    assert profiles.loc[1, list(VALUE_NAMES)].tolist() == [0.0, 0.0, 0.0, 1.0, 0.0]
    assert profiles.loc[0, list(VALUE_NAMES)].tolist() == [1.0, 1.0, 1.0, 1.0, 0.0], "no head, no sanctity"
    assert profiles.loc[2, list(VALUE_NAMES)].tolist() == [0.0] * 5
    assert norm_profiles(["I robbed my brother"], norms, folder)["loyalty"].tolist() == [1.0], "all of them known"


def test_weights_and_encoder_must_be_those_described(
    trained: ClassifierTrainer, encoder: EncoderConfig, tmp_path: Path
) -> None:
    folder = store_classifier(tmp_path, trained.model, encoder, dict.fromkeys(VALUE_NAMES, Head("usable"))) / FOLLOWS
    about = json.loads((folder / "classifier.json").read_text())
    (folder / "classifier.json").write_text(json.dumps({**about, "weights_digest": "0" * 64}))
    with pytest.raises(UserError, match="not the weights that"):
        load_classifier(folder)
    (folder / "classifier.json").write_text(json.dumps({**about, "encoder_digest": "0" * 64}))
    with pytest.raises(UserError, match="are not those of"):
        load_classifier(folder)
    (folder / "classifier.json").write_text("{}")
    with pytest.raises(UserError, match="not a value classifier's description"):
        load_classifier(folder)


def test_an_empty_text_is_classified_where_the_tokeniser_adds_no_tokens(tmp_path: Path) -> None:
    model = ValueClassifier.build(
        EncoderConfig(source=without_own_tokens(save_tiny_encoder(tmp_path)), max_tokens=32), 0
    )
    assert np.isfinite(model.logits(["", "I helped my brother", ""])).all()
    assert np.isfinite(model.logits([""])).all()


def test_a_new_classifier_depends_on_its_seed_alone(tmp_path: Path) -> None:
    """Also where the encoder comes without a pooler."""
    bare = EncoderConfig(source=without_weights(save_tiny_encoder(tmp_path), "pooler"), max_tokens=32)
    states = []
    for seed in (0, 0, 1):
        torch.rand(7 + len(states))
        states.append(ValueClassifier.build(bare, seed).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["heads.weight"], states[2]["heads.weight"])


def test_an_encoder_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    cut = EncoderConfig(source=without_weights(save_tiny_encoder(tmp_path), "layer.1.output"), max_tokens=32)
    with pytest.raises(UserError, match=r"not a whole text encoder, it has no encoder\.layer\.1\.output"):
        ValueClassifier.build(cut, 0)


def test_an_encoder_that_cannot_serve(encoder: EncoderConfig) -> None:
    with pytest.raises(UserError, match="cannot read max_tokens = 100"):
        ValueClassifier.build(encoder.model_copy(update={"max_tokens": 100}), 0)
