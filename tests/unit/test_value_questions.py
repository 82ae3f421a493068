"""Questions from the shared block of a config: profiles from people or predicted, and no test question ever learnt."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from value_models import save_tiny_encoder, store_classifier

from consilience.config import parse_config
from consilience.errors import UserError
from consilience.table_schema import write_table
from consilience.tables import VALUE_EXAMPLES
from consilience.theories import VALUE_NAMES
from consilience.values.about import Head
from consilience.values.classifier import ValueClassifier
from consilience.values.examples import RELEVANCE, norm_judgements, story_examples
from consilience.values.question_data import QuestionData, check_unseen, count_splits, describe_profiles, load_questions
from consilience.values.settings import EncoderConfig
from consilience.values.split import part_of, split_by_situation

STORIES = 90
FOLDS, SEED = 4, 7


def norm(number: int) -> str:
    return f"You should keep promise {number}."


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Stories, the last third without a context; people said that the first ten norms are about loyalty; a relevance
    classifier that finds care in every other."""
    folder = tmp_path_factory.mktemp("questions")
    stories = [
        {
            "ID": f"s{k}",
            "norm": norm(k),
            "moral_action": f"Ines keeps promise {k}.",
            "immoral_action": f"Ines breaks promise {k}.",
            **({"context": f"Ines promised {k} things."} if k < 60 else {}),
        }
        for k in range(STORIES)
    ]
    (folder / "stories.jsonl").write_text("".join(json.dumps(row) + "\n" for row in stories))
    columns = "situation-short-id,rot,rot-moral-foundations,action,action-moral-judgment"
    rows = [f"x{k},{norm(k)},loyalty-betrayal,keeping promise {k},1" for k in range(10)]
    rows += [f"y{k},You should keep secret {k}.,loyalty-betrayal,telling secret {k},{k % 2 - 1}" for k in range(4)]
    (folder / "rules.csv").write_text("\n".join([columns, *rows]) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONSILIENCE_CACHE", str(folder / "cache"))
        encoder = EncoderConfig(source=save_tiny_encoder(folder / "encoder"), max_tokens=32)
        model = ValueClassifier.build(encoder, 0)
    with torch.no_grad():
        model.heads.weight.zero_()
        model.heads.bias.copy_(torch.tensor([1.0 if value == "care" else -1.0 for value in VALUE_NAMES]))
    (folder / "values").mkdir()
    store_classifier(folder / "values", model, encoder, dict.fromkeys(VALUE_NAMES, Head("usable")), RELEVANCE)
    config = {"folds": FOLDS, "split_seed": SEED}
    (folder / "values/manifest.json").write_text(json.dumps({"job": "train_values", "config": config}))
    return {
        "moral_stories": [str(folder / "stories.jsonl")],
        "social_chemistry": [str(folder / "rules.csv")],
        "values": str(folder / "values"),
    }


def block(raw: object) -> QuestionData:
    return parse_config(QuestionData, raw, "test")


def test_stories_become_questions_with_profiles_of_two_origins(files: dict[str, Any]) -> None:
    data = block(files)
    table = load_questions(data)
    rows = {row["question_id"]: row for row in table.to_pylist()}
    assert set(rows) == {f"s{k}" for k in range(60)}, "nothing can be asked without a context"
    assert rows["s3"]["text"] == "Ines promised 3 things. What would be the right thing to do?"
    assert rows["s3"]["reference"] == "Ines keeps promise 3."
    assert [rows["s3"][value] for value in VALUE_NAMES] == [0, 0, 0, 1, 0]
    assert [rows["s30"][value] for value in VALUE_NAMES] == [0, 1, 0, 0, 0]
    assert [rows[f"s{k}"]["profile_source"] for k in (3, 30)] == ["human", "predicted"]
    assert all(row["split"] == part_of(row["situation"], FOLDS, SEED) for row in rows.values())
    assert describe_profiles(table) == "60 questions: 10 with a profile from people, 50 with a predicted one"
    assert count_splits(data) == Counter(row["split"] for row in rows.values())


def test_a_limit_draws_the_same_questions_first(files: dict[str, Any]) -> None:
    few, more = (
        set(load_questions(block({**files, "most": {"train": n, "test": 2}})).column("question_id").to_pylist())
        for n in (5, 9)
    )
    assert few < more
    assert len(more - few) == 4
    assert count_splits(block({**files, "most": {"train": 5, "test": 0}}))["train"] == 5


def test_no_test_question_is_in_what_a_reward_or_its_judge_learnt(files: dict[str, Any], tmp_path: Path) -> None:
    """Reward and judge see the stories under different values, as each predicts them anew, and rules besides."""
    questions = load_questions(block(files))
    stories = pd.DataFrame({"story_id": [f"s{k}" for k in range(STORIES)], "norm": [norm(k) for k in range(STORIES)]})
    for action in ("moral_action", "immoral_action"):
        stories[action] = [f"Ines, {action} {k}" for k in range(STORIES)]
    rules = pd.DataFrame(
        {
            "item_id": ["r0", "r1", "r2"],
            "situation": ["x0", "x1", "x2"],
            "rot": [norm(0).upper(), "Do not lie", "Do not lie"],
            "action": ["keeping promise 0", "lying", "telling the truth"],
            "judgement": [1.0, -1.0, 1.0],
            **{value: [float(value == "loyalty")] * 3 for value in VALUE_NAMES},
        }
    )
    judged = norm_judgements(rules, stories["norm"])
    assert judged["item_id"].tolist() == ["r1", "r2"], "the norm of a story is left to the story"
    for seed in (1, 2):
        random = np.random.default_rng(seed)
        profiles = pd.DataFrame(random.integers(0, 2, (STORIES, 5)), columns=list(VALUE_NAMES)).assign(
            profile_source="predicted"
        )
        examples = split_by_situation(pd.concat([judged, story_examples(stories, profiles)]), FOLDS, SEED)
        learnt = examples[examples["split"] != "test"]
        asked = [row for row in questions.to_pylist() if row["split"] == "test"]
        assert asked
        assert not {row["situation"] for row in asked} & set(learnt["situation"])
        save_examples(examples, tmp_path / str(seed))
        check_unseen(questions, tmp_path / str(seed))
    other = split_by_situation(story_examples(stories, profiles), FOLDS, SEED + 1)
    save_examples(other, tmp_path / "other")
    with pytest.raises(UserError, match=r"question s\d+: in split 'test', but the classifiers of .*other were trained"):
        check_unseen(questions, tmp_path / "other")


def test_a_question_of_ones_own_must_not_repeat_what_was_learnt(tmp_path: Path) -> None:
    row = {"question_id": "a", "text": "May I?", "split": "test", "reference": "I bound the wound. ", "care": 1.0}
    table = pa.Table.from_pylist([row])
    examples = {"item_id": "1", "text": "I bound the wound", "situation": "own/1", "source": "own", "care": 1.0}
    blank = dict.fromkeys(VALUE_NAMES) | examples | {"label_source": "human"}
    save_examples(pd.DataFrame([{**blank, "split": "test"}]), tmp_path / "fine")
    check_unseen(table, tmp_path / "fine")
    save_examples(pd.DataFrame([{**blank, "split": "train"}]), tmp_path / "learnt")
    with pytest.raises(UserError, match="question a: in split 'test'"):
        check_unseen(table, tmp_path / "learnt")


def save_examples(examples: pd.DataFrame, run: Path) -> None:
    run.mkdir()
    table = pa.Table.from_pandas(examples, preserve_index=False)
    write_table(table, run / "examples_follows.parquet", VALUE_EXAMPLES)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({}, "no file; expected at least one of tables, moral_stories"),
        ({"moral_stories": ["a.jsonl"]}, "moral_stories: a norm's values are known from social_chemistry"),
        ({"tables": ["a.jsonl"], "values": "run"}, "of use to moral_stories alone"),
        ({"tables": ["a.jsonl"], "most": {"dev": 3}}, "expected 'train', 'validation' or 'test'"),
        ({"stories": ["a.jsonl"]}, "unknown key 'stories'"),
    ],
)
def test_a_wrong_block_is_one_line(raw: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        block(raw)
    assert "\n" not in str(caught.value)


def test_a_path_alone_is_a_table(tmp_path: Path) -> None:
    row = {"question_id": "a", "text": "May I?", "split": "train", **dict.fromkeys(VALUE_NAMES, 0)}
    path = tmp_path / "own.jsonl"
    path.write_text(json.dumps({**row, "profile_source": "human"}) + "\n")
    data = block(str(path))
    assert data.tables == (path,)
    assert load_questions(data).column("question_id").to_pylist() == ["a"]
    assert count_splits(data) == {"train": 1}
    assert not count_splits(data, with_reference=True)
    twice = block({"tables": [str(path), str(path)]})
    with pytest.raises(UserError, match="row 2 repeats row 1"):
        load_questions(twice)
    with pytest.raises(UserError, match=r"none\.jsonl: no such file"):
        count_splits(block(str(tmp_path / "none.jsonl")))
