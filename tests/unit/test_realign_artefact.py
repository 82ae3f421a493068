"""Theory tokens as files and on a model: round trip, several at once, taken off again; what is wrong is refused."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from realign_models import annotator, pair, save
from torch.testing import assert_close

from consilience.errors import UserError
from consilience.lm.annotators import RealignedAnnotator
from consilience.lm.language_model import LanguageModel, load_model
from consilience.lm.pool import annotator_digest, check, describe, open_scorer
from consilience.lm.prompts import Prompts
from consilience.lm.sources import open_source
from consilience.lm.transformers_scorer import TransformersScorer
from consilience.realign.artefact import Artefact, Description
from consilience.realign.audit import audit
from consilience.realign.objective import Head
from consilience.realign.pair import build_trainer, make_readable
from consilience.realign.settings import TrainingConfig
from consilience.realign.theory_tokens import embed, find_word
from consilience.theories import THEORIES, pick_theories

DILEMMAS = ["I kept the change.", "I read my sister's diary, told no one, and put it back where it was.", " "]


@pytest.fixture(autouse=True, scope="module")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSILIENCE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module", params=["tied", "scaled embeddings, short window"])
def source(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return save(tmp_path_factory.mktemp("models"), request.param)


def artefact(source: str, theory: str = "deontology", moved: float = 0.5, persona: str | None = None) -> Artefact:
    """Tokens `moved` away from the originals at random, and a random head."""
    model, files = load_model(source, None, "float32"), open_source(source)
    word = find_word(model.tokeniser, Prompts(model.tokeniser, "yes_no", persona), pick_theories([theory])[0])
    originals = embed(model.model, word.ids).float()
    torch.manual_seed(len(theory))
    head = Head(model.width, "mlp").requires_grad_(False)
    for value in head.parameters():
        value.normal_(std=0.3)
    about = Description(
        annotator="tiny",
        theory=theory,
        base_source=source,
        base_revision=None,
        base_digest=files.digest,
        base_settings_digest=files.settings_digest,
        persona=persona,
        elicitation="yes_no",
        word=word.ids,
        tokens=tuple(f"*{theory}_{k}" for k in range(len(word.ids))),
        width=model.width,
        head="mlp",
        objective={},
        data={},
        certificate={},
    )
    return Artefact(about, originals + moved * torch.randn_like(originals) * originals.std(), head)


def block(source: str, *paths: Path, persona: str | None = None) -> RealignedAnnotator:
    return RealignedAnnotator(
        annotator="tiny@realigned",
        kind="realigned",
        parent="tiny",
        source=source,
        dtype="float32",
        artefacts=paths,
        persona=persona,
    )


def test_round_trip_is_a_few_kilobytes(source: str, tmp_path: Path) -> None:
    made = artefact(source)
    size = made.save(tmp_path / "tokens.safetensors")
    assert size < 10_000
    read = Artefact.load(tmp_path / "tokens.safetensors")
    assert read.about.model_copy(update={"tensors": ""}) == made.about
    assert torch.equal(read.rows, made.rows)
    states = torch.randn(4, made.about.width)
    assert torch.equal(read.head(states), made.head(states))


def test_other_theories_are_scored_as_by_the_raw_model(source: str, tmp_path: Path) -> None:
    raw = TransformersScorer(load_model(source, None, "float32")).score(DILEMMAS, THEORIES)
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path, theory in zip(paths, ("deontology", "virtue"), strict=True):
        artefact(source, theory).save(path)
    found = open_scorer(block(source, *paths), tmp_path).score(DILEMMAS, THEORIES)
    realigned = np.array([theory.name in ("deontology", "virtue") for theory in THEORIES])
    np.testing.assert_allclose(found.score[:, ~realigned], raw.score[:, ~realigned], atol=1e-5)
    assert (np.abs(found.score - raw.score)[:2, realigned] > 1e-3).all()
    assert np.isnan(found.answer_mass[:, realigned]).all()
    np.testing.assert_array_equal(found.status, raw.status)


def test_the_scorer_gives_what_training_saw(source: str, tmp_path: Path) -> None:
    case = pair(source)
    model = load_model(source, None, "float32")
    config = TrainingConfig(epochs=2, warmup_epochs=1, batch_size=8, head="mlp")
    trainer = build_trainer(make_readable(model, case, tmp_path, 1e9), case, config, splits=1)
    with trainer.reading():
        while not trainer.finished:
            trainer.step()
    about = artefact(source).about
    Artefact(about, trainer.fit.rows, trainer.fit.head).save(tmp_path / "trained.safetensors")
    theories = pick_theories(["virtue", "deontology"])
    found = open_scorer(block(source, tmp_path / "trained.safetensors"), tmp_path).score(case.texts, theories)
    np.testing.assert_allclose(found.score[:, 1], trainer.scores, atol=1e-4)


def test_tokens_go_on_and_come_off(source: str) -> None:
    model, files = load_model(source, None, "float32"), open_source(source)
    ids = torch.tensor([[5, 6, 7, 8]])
    before, weights = logits(model, ids), {k: v.clone() for k, v in model.model.state_dict().items()}
    first, second = artefact(source).apply(model, files), artefact(source, "virtue").apply(model, files)
    assert not set(first.ids) & set(second.ids)
    assert min(first.ids) >= model.model.get_input_embeddings().weight.shape[0]
    assert torch.equal(logits(model, ids), before), "text without the tokens is as ever, bit by bit"
    both = torch.tensor([[5, *first.ids, 7, *second.ids]])
    changed = logits(model, both)
    plain = torch.tensor([[5, *artefact(source).about.word, 7, *artefact(source, "virtue").about.word]])
    assert not torch.allclose(changed, logits(model, plain), atol=1e-3)
    second.remove()
    first.remove()
    assert torch.equal(logits(model, ids), before)
    assert all(torch.equal(value, weights[key]) for key, value in model.model.state_dict().items())
    with pytest.raises(IndexError):
        logits(model, both)


def test_unmoved_tokens_change_nothing(source: str) -> None:
    model, files = load_model(source, None, "float32"), open_source(source)
    tokens = artefact(source, moved=0.0)
    applied = tokens.apply(model, files)
    assert_close(
        logits(model, torch.tensor([[5, *applied.ids, 7]])), logits(model, torch.tensor([[5, *tokens.about.word, 7]]))
    )
    applied.remove()


def test_what_is_wrong_is_refused(source: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.safetensors"
    with pytest.raises(UserError, match=r"tokens\.json: no such file"):
        Artefact.load(path)
    artefact(source).save(path)
    model = load_model(source, None, "float32")
    other = open_source(save(tmp_path / "other", "untied"))
    with pytest.raises(UserError, match=r"trained on .* with digest"):
        Artefact.load(path).apply(model, other)
    wide = artefact(source)
    with pytest.raises(UserError, match="trained on a model of width 99"):
        Artefact(wide.about.model_copy(update={"width": 99}), wide.rows, wide.head).apply(model, open_source(source))
    with pytest.raises(UserError, match=r"was trained with persona None .*; expected the same here"):
        open_scorer(block(source, path, persona="a judge"), tmp_path)
    with pytest.raises(UserError, match="two for deontology"):
        open_scorer(block(source, path, path), tmp_path)
    with pytest.raises(UserError, match=r"nowhere\.safetensors: no such file"):
        check(block(source, tmp_path / "nowhere.safetensors"))


def test_edited_files_are_noticed(source: str, tmp_path: Path) -> None:
    path = tmp_path / "tokens.safetensors"
    artefact(source).save(path)
    good = path.read_bytes()
    path.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    with pytest.raises(UserError, match=r"tokens\.safetensors: was changed after it was written"):
        Artefact.load(path)
    path.write_bytes(good)
    about = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".json").write_text(json.dumps({**about, "theory": "virtue"}))
    with pytest.raises(UserError, match=r"tokens\.json: was changed after it was written"):
        Artefact.load(path)
    path.with_suffix(".json").write_text("[]")
    with pytest.raises(UserError, match=r"tokens\.json: expected a JSON object"):
        Artefact.load(path)


def test_digest_and_row_name_the_tokens(source: str, tmp_path: Path) -> None:
    paths = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for path, moved in zip(paths, (0.5, 0.7), strict=True):
        artefact(source, moved=moved).save(path)
    digests = [annotator_digest(block(source, path)) for path in paths]
    assert len({*digests, annotator_digest(annotator(source))}) == 3
    row = describe(block(source, paths[0]))
    assert row["parent"] == "tiny"
    assert row["artefact"] == str(paths[0])


def test_audit_leaves_other_text_bitwise_as_it_was(source: str) -> None:
    model = load_model(source, None, "float32")
    tokens = artefact(source)
    found = audit(model, "deontology", tokens.about.word, tokens.rows)
    json.dumps(found, allow_nan=False)
    assert found["without_word"]["logits_identical"] == 1.0
    assert found["without_word"]["perplexity_before"] == found["without_word"]["perplexity_after"]
    assert found["with_word"]["logits_identical"] < 1.0
    assert [token["cosine"] < 1.0 for token in found["tokens"]] == [True] * len(tokens.about.word)
    unmoved = audit(model, "deontology", tokens.about.word, embed(model.model, tokens.about.word).float())
    assert unmoved["with_word"]["logits_identical"] == 1.0
    assert all(token["cosine"] == pytest.approx(1.0, abs=1e-5) for token in unmoved["tokens"])


def logits(model: LanguageModel, ids: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = model.model(ids).logits
    return found
