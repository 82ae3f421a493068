"""Questions with a moral profile and a reference answer: the project's own tables, MIC, Moral Stories."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import pyarrow as pa

from consilience.datasets.mic import read_mic
from consilience.errors import UserError
from consilience.table_schema import conform, read_table
from consilience.tables import QUESTIONS
from consilience.theories import VALUE_NAMES
from consilience.values.profile import Profile, parse_profile
from consilience.values.split import SPLITS


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


def situations_of(table: pa.Table) -> list[str]:
    """What is no independent evidence, by row: questions of one situation, or of the same words, have the same name."""
    above: dict[str, str] = {}

    def first(name: str) -> str:
        while above.setdefault(name, name) != name:
            name = above[name]
        return name

    rows = table.to_pylist()
    for row in rows:
        if row.get("situation") is not None:
            above[first(f"situation {row['situation']}")] = first(f"text {row['text']}")
    return [first(f"text {row['text']}") for row in rows]


def questions_from_stories(stories: pd.DataFrame, profiles: pd.DataFrame) -> pa.Table:
    """Moral Stories as questions: the context and what to do in it, with the moral action as the reference.

    Args:
        stories: of `read_moral_stories`, all with a context, and their `split`.
        profiles: of `norms.norm_profiles`, a row per story.

    Returns:
        the `questions` table; the norm is the situation.
    """
    columns: Mapping[str, object] = {
        "question_id": stories["story_id"].to_list(),
        "text": [f"{context} What would be the right thing to do?" for context in stories["context"]],
        "split": stories["split"].to_list(),
        "situation": stories["norm"].to_list(),
        "reference": stories["moral_action"].to_list(),
        **{value: profiles[value].astype(float).to_list() for value in VALUE_NAMES},
        "profile_source": profiles["profile_source"].to_list(),
    }
    return conform(pa.table(columns), QUESTIONS, "Moral Stories")
