"""Questions with a moral profile and a reference answer: the project's own tables, MIC, Moral Stories."""

from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path

import pandas as pd
import pyarrow as pa

from consilience.datasets.mic import read_mic
from consilience.errors import UserError
from consilience.tables import QUESTIONS, check_key, conform, read_table
from consilience.theories import VALUE_NAMES
from consilience.values.profile import Profile, parse_profile

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Question:
    """A row of the `questions` table."""

    question_id: str
    text: str
    split: str
    reference: str | None
    profile: Profile


def read_questions(path: Path) -> pa.Table:
    """The `questions` table in `path`; a file called MIC.csv (or MIC.csv.gz) is read as the release's own.

    Raises:
        UserError: it cannot be read, breaks the schema, or has a split other than train, validation and test.
    """
    table = read_mic(path) if path.name.startswith("MIC.csv") else read_table(path, QUESTIONS)
    for row, split in enumerate(table.column("split").to_pylist(), 1):
        if split not in SPLITS:
            raise UserError(f"{path}: row {row}, column 'split': expected one of {', '.join(SPLITS)}, found {split!r}")
    return table


def questions_of(table: pa.Table) -> list[Question]:
    """The rows of a checked `questions` table."""
    return [
        Question(
            row["question_id"],
            row["text"],
            row["split"],
            row.get("reference"),
            parse_profile({name: row[name] for name in VALUE_NAMES}, f"question {row['question_id']}"),
        )
        for row in table.to_pylist()
    ]


def questions_from_stories(stories: pd.DataFrame, profiles: pd.DataFrame) -> pa.Table:
    """Moral Stories as questions: the context and what to do in it, with the moral action as the reference.

    Args:
        stories: of `read_moral_stories`; those without a context are left out, as nothing could be asked of them.
        profiles: `norm`, a column per value (0..1) and `profile_source`; stories whose norm it lacks are left out.

    Returns:
        the `questions` table; the split (80/10/10) is by the norm's digest, so that no norm stands in two.

    Raises:
        UserError: no story is left.
    """
    known = profiles.drop_duplicates("norm").set_index("norm")
    told = stories[stories["context"].notna() & stories["norm"].isin(known.index)]
    if told.empty:
        raise UserError("Moral Stories: no story has both a context and a norm with a profile")
    about = known.loc[told["norm"]]
    columns: Mapping[str, object] = {
        "question_id": told["story_id"].to_list(),
        "text": [f"{context} What would be the right thing to do?" for context in told["context"]],
        "split": [_split(norm) for norm in told["norm"]],
        "reference": told["moral_action"].to_list(),
        **{value: about[value].astype(float).to_list() for value in VALUE_NAMES},
        "profile_source": about["profile_source"].to_list(),
    }
    table = conform(pa.table(columns), QUESTIONS, "Moral Stories")
    check_key(table, QUESTIONS, "Moral Stories")
    return table


def _split(norm: str) -> str:
    place = blake2b(norm.strip().lower().encode(), digest_size=8).digest()[0] / 256
    return TRAIN if place < 0.8 else VALIDATION if place < 0.9 else TEST
