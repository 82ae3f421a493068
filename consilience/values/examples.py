"""Labelled texts for the two questions: is a value at stake in a text (relevance), does it follow the value (reward).

Examples are frames with the columns of table `value_examples`: a label per value, NaN where it is not known.
`values.split` parts them.
"""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from consilience.datasets import moral_stories, social_chemistry
from consilience.table_schema import TableSchema, read_table, text
from consilience.theories import VALUE_NAMES
from consilience.values.split import situation_key

RELEVANCE = "relevance"
FOLLOWS = "follows"
HUMAN, PREDICTED = "human", "predicted"
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
            text("value", choices=VALUE_NAMES),
            text("text"),
            text("follows", choices=("0", "1")),
            text("situation"),
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


def norm_judgements(norms: pd.DataFrame, told: Iterable[str] = ()) -> pd.DataFrame:
    """Reward examples of Social Chemistry's judged actions: negative = 0, neutral or positive = 1 (arXiv 2403.12805),
    under the values whose foundation the annotator names.

    A value without both labels has none: judgements of one sign alone would teach the source, not the value.

    Args:
        told: norms of stories. Rules that are among them are left out, or a story's question could be in test while its
            norm's action is in training.
    """
    norms = norms[~norms["rot"].map(situation_key).isin({situation_key(norm) for norm in told})]
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
