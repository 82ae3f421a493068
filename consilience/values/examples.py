"""Labelled texts for the two questions: is a value at stake in a text (relevance), does it follow the value (reward).

Examples are frames with the columns of table `value_examples`: a label per value, NaN where it is not known.
"""

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from consilience.datasets import moral_stories, social_chemistry
from consilience.errors import UserError
from consilience.tables import Column, TableSchema, read_table
from consilience.theories import VALUE_NAMES

RELEVANCE = "relevance"
FOLLOWS = "follows"
QUESTIONS = (RELEVANCE, FOLLOWS)
HUMAN, PREDICTED = "human", "predicted"
TRAIN, VALIDATION, TEST = "train", "validation", "test"
ALL = "all"
_VALUES = list(VALUE_NAMES)


def read_own(path: Path) -> pd.DataFrame:
    """Reward examples of a table of one's own: `value`, `text`, `follows` (1 follows the value, 0 violates it),
    `situation` (texts of one situation are never split between training and test).

    Raises:
        UserError: a missing column or value, an unknown value name, a `follows` other than 0 or 1, a text that is
            listed twice for a value, or a file that cannot be read.
    """
    schema = TableSchema(
        "value texts",
        (
            Column("value", pa.string(), choices=VALUE_NAMES),
            Column("text", pa.string()),
            Column("follows", pa.string(), choices=("0", "1")),
            Column("situation", pa.string()),
        ),
        ("value", "text"),
    )
    table = read_table(path, schema).to_pandas()
    stem = path.name.split(".")[0]
    follows = table["follows"].astype(float)
    return pd.DataFrame(
        {
            "item_id": [f"{stem}-{row}" for row in range(1, len(table) + 1)],
            "text": table["text"].str.strip(),
            "situation": stem + "/" + table["situation"],
            "source": stem,
            "label_source": HUMAN,
            **{value: follows.where(table["value"] == value) for value in _VALUES},
        }
    )


def norm_relevance(norms: pd.DataFrame) -> pd.DataFrame:
    """Relevance examples of Social Chemistry's rules of thumb: label 1 where the annotator names the foundation."""
    return _examples(norms, norms["rot"], social_chemistry.SOURCE, norms[_VALUES])


def norm_judgements(norms: pd.DataFrame) -> pd.DataFrame:
    """Reward examples of Social Chemistry's judged actions: negative = 0, neutral or positive = 1 (arXiv 2403.12805),
    under the values whose foundation the annotator names.

    A value without both labels has none: judgements of one sign alone would teach the source, not the value.
    """
    judged = norms[norms["action"].notna() & norms["judgement"].notna() & (norms[_VALUES].sum(axis=1) > 0)]
    follows = (judged["judgement"] >= 0).astype(float)
    labels = judged[_VALUES].eq(1).apply(follows.where)
    labels.loc[:, labels.nunique() < 2] = np.nan
    known = labels.notna().any(axis=1)
    return _examples(judged[known], judged.loc[known, "action"], social_chemistry.SOURCE, labels[known])


def story_examples(stories: pd.DataFrame, profiles: pd.DataFrame) -> pd.DataFrame:
    """Reward examples of Moral Stories: the moral action follows every value that the norm is about, the immoral one
    violates it. Stories whose norm is about no value are left out.

    Args:
        profiles: of `norms.norm_profiles`, a row per story.
    """
    about = profiles[_VALUES].to_numpy(dtype=float) == 1
    parts = []
    for action, label in (("moral_action", 1.0), ("immoral_action", 0.0)):
        labels = pd.DataFrame(np.where(about, label, np.nan), columns=_VALUES)
        parts.append(
            pd.DataFrame(
                {
                    "item_id": stories["story_id"] + "/" + action.removesuffix("_action"),
                    "text": stories[action],
                    "situation": stories["norm"],
                    "source": moral_stories.SOURCE,
                    "label_source": profiles["profile_source"].to_numpy(),
                }
            ).join(labels)
        )
    return pd.concat(parts)[np.tile(about.any(axis=1), 2)].sort_index(kind="stable").reset_index(drop=True)


def _examples(rows: pd.DataFrame, text: pd.Series, source: str, labels: pd.DataFrame) -> pd.DataFrame:
    fixed = {"item_id": rows["item_id"], "text": text.str.strip(), "situation": rows["situation"]}
    frame = pd.DataFrame({**fixed, "source": source, "label_source": HUMAN})
    return frame.join(labels).reset_index(drop=True)


def split_by_situation(examples: pd.DataFrame, folds: int, seed: int) -> pd.DataFrame:
    """Add column `split`: whole situations go to train, validation (one fold) or test (one fold), never rows.

    Situations are dealt to the folds in random order, those of the rarest value first, so that every part has its share
    of each value. A text of validation or test that stands in an earlier part too, in another situation, is left out.

    Raises:
        UserError: fewer situations than folds.
    """
    situation, names = pd.factorize(examples["situation"])
    if len(names) < folds:
        raise UserError(f"{len(names)} situations; expected at least {folds}, one per fold")
    order = np.lexsort((np.random.default_rng(seed).permutation(len(names)), _rarest(examples, situation, len(names))))
    fold = np.empty(len(names), dtype=np.int64)
    fold[order] = np.arange(len(names)) % folds
    parts = np.full(folds, TRAIN, dtype=object)
    parts[:2] = TEST, VALIDATION
    split = examples.assign(split=parts[fold[situation]])
    text = split["text"].str.casefold()
    in_train = set(text[split["split"] == TRAIN])
    in_validation = set(text[split["split"] == VALIDATION])
    seen = (split["split"] != TRAIN) & text.isin(in_train)
    seen |= (split["split"] == TEST) & text.isin(in_validation)
    return split[~seen].reset_index(drop=True)


def _rarest(examples: pd.DataFrame, situation: NDArray[np.int64], situations: int) -> NDArray[np.int64]:
    """(situations,) rank, from 0, of the rarest value with a positive label in each situation; 5 where none has."""
    positive = examples[_VALUES].to_numpy(dtype=float) == 1
    by_rarity = np.argsort(positive.sum(axis=0), kind="stable")
    found = np.zeros((situations, len(_VALUES) + 1), dtype=bool)
    found[:, -1] = True
    rows, columns = np.nonzero(positive[:, by_rarity])
    found[situation[rows], columns] = True
    return found.argmax(axis=1)
