"""Where questions come from: the block of a config that all stages after the classifiers share."""

from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa
from pydantic import Field, NonNegativeInt, model_validator

from consilience.config import Config
from consilience.datasets.moral_stories import read_moral_stories
from consilience.datasets.social_chemistry import read_social_chemistry
from consilience.errors import UserError
from consilience.runs import read_manifest
from consilience.table_schema import check_key, conform, read_table
from consilience.tables import QUESTIONS, VALUE_EXAMPLES
from consilience.values.examples import FOLLOWS, HUMAN
from consilience.values.questions import questions_from_stories, read_questions
from consilience.values.split import SPLITS, TEST, part_of, situation_key


class QuestionData(Config):
    """Files of questions, by format. A path alone is a table."""

    tables: tuple[Path, ...] = Field((), description="questions tables; a file called MIC.csv is the release's own")
    moral_stories: tuple[Path, ...] = Field((), description="Moral Stories; a story with a context is a question")
    social_chemistry: tuple[Path, ...] = Field((), description="Social Chemistry 101, where people named norms' values")
    values: Path | None = Field(None, description="run folder of train_values: other norms' values, and the split")
    most: dict[Literal["train", "validation", "test"], NonNegativeInt] = Field(
        {}, description="most questions of a split, drawn without regard to their content; all where it is not named"
    )

    @model_validator(mode="before")
    @classmethod
    def _one_table(cls, given: Any) -> Any:
        return {"tables": [given]} if isinstance(given, str | Path) else given

    @model_validator(mode="after")
    def _complete(self) -> "QuestionData":
        if not self.paths:
            raise ValueError("no file; expected at least one of tables, moral_stories")
        if self.moral_stories and not (self.social_chemistry and self.values):
            raise ValueError(
                "moral_stories: a norm's values are known from social_chemistry, else predicted by the run of "
                "train_values in values; expected both"
            )
        if not self.moral_stories and (self.social_chemistry or self.values):
            raise ValueError("social_chemistry, values: of use to moral_stories alone; expected those too")
        return self

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files."""
        return (*self.tables, *self.moral_stories, *self.social_chemistry)

    @property
    def named(self) -> str:
        """The files that questions are in, as an error names them."""
        return ", ".join(map(str, self.tables + self.moral_stories))


def count_splits(data: QuestionData, with_reference: bool = False) -> Counter[str]:
    """Questions of each split, all or those with a reference, found without any model.

    Raises:
        UserError: a file that is missing or wrong, or `values` is no run of train_values.
    """
    tables, stories = _chosen(data)
    rows = [row for table in tables for row in table.to_pylist()]
    counted = [row["split"] for row in rows if not with_reference or row.get("reference") is not None]
    return Counter([*counted, *stories["split"]])


def load_questions(data: QuestionData) -> pa.Table:
    """The `questions` table of all files, in their order.

    A story's norm that is a rule of thumb of Social Chemistry, letter for letter, has its values from people
    (`profile_source` human); the relevance classifier of `values` predicts the others'. Stories are parted by their
    norms exactly as the classifiers' examples were.

    Raises:
        UserError: as `count_splits`; a question id that is given twice, or no question at all.
    """
    tables, stories = _chosen(data)
    if len(stories):
        # Here, because torch takes seconds to import and tables need none of it.
        from consilience.values.norms import norm_profiles

        assert data.values is not None
        norms = pd.concat([read_social_chemistry(path) for path in data.social_chemistry], ignore_index=True)
        profiles = norm_profiles(stories["norm"].tolist(), norms, data.values)
        tables.append(questions_from_stories(stories, profiles))
    table = conform(pa.concat_tables(tables, promote_options="default"), QUESTIONS, data.named)
    if not table.num_rows:
        raise UserError(f"{data.named}: no question; expected some")
    check_key(table, QUESTIONS, data.named)
    return table


def profile_counts(questions: pa.Table) -> dict[str, int]:
    """How many questions there are, and how many have a profile from people and a predicted one."""
    sources = questions.column("profile_source").to_pylist()
    human = sources.count(HUMAN)
    return {"questions": len(sources), "questions_human": human, "questions_predicted": len(sources) - human}


def describe_profiles(questions: pa.Table) -> str:
    """The same in a line."""
    counts = profile_counts(questions)
    return (
        f"{counts['questions']} questions: {counts['questions_human']} with a profile from people, "
        f"{counts['questions_predicted']} with a predicted one"
    )


def split_settings(run: Path) -> tuple[int, int]:
    """`folds` and `split_seed` of a run of train_values.

    Raises:
        UserError: `run` is not one.
    """
    manifest = read_manifest(run)
    if manifest["job"] != "train_values":
        raise UserError(f"{run}: a run of job '{manifest['job']}'; expected a run of train_values")
    return manifest["config"]["folds"], manifest["config"]["split_seed"]


def check_unseen(questions: pa.Table, run: Path) -> None:
    """Check that the reward classifiers of `run` have learnt nothing about the test questions.

    Raises:
        UserError: a test question's situation, text or reference was in their training or validation data, or `run`
            has no examples of the reward.
    """
    path = run / f"examples_{FOLLOWS}.parquet"
    examples = read_table(path, VALUE_EXAMPLES)
    seen = examples.filter(pa.array([split != TEST for split in examples.column("split").to_pylist()]))
    known = {situation_key(name) for column in ("situation", "text") for name in seen.column(column).to_pylist()}
    for row in questions.to_pylist():
        told = (row.get("situation"), row["text"], row.get("reference"))
        if row["split"] == TEST and any(name is not None and situation_key(name) in known for name in told):
            raise UserError(
                f"question {row['question_id']}: in split 'test', but the classifiers of {run} were trained on it; "
                "expected rewards and judge of the same folds and split_seed as the questions"
            )


def by_digest(names: Iterable[str]) -> list[str]:
    """Ids in an order that does not depend on what they name, so that the first k are a sample of all."""
    return sorted(names, key=lambda name: blake2b(name.encode(), digest_size=8).digest())


def _chosen(data: QuestionData) -> tuple[list[pa.Table], pd.DataFrame]:
    """The questions that are used: those of tables, and stories with their `split`."""
    tables = [read_questions(path) for path in data.tables]
    stories = pd.DataFrame(columns=["story_id", "split"])
    if data.moral_stories and data.values is not None:
        folds, seed = split_settings(data.values)
        stories = read_moral_stories(data.moral_stories)
        stories = stories[stories["context"].notna()]
        stories = stories.assign(split=[part_of(norm, folds, seed) for norm in stories["norm"]])
    splits = {
        name: split
        for table in tables
        for name, split in zip(*(table.column(c).to_pylist() for c in ("question_id", "split")), strict=True)
    } | dict(zip(stories["story_id"], stories["split"], strict=True))
    kept = _drawn(splits, {str(split): count for split, count in data.most.items()})
    tables = [
        table.filter(pa.array([name in kept for name in table.column("question_id").to_pylist()])) for table in tables
    ]
    return tables, stories[stories["story_id"].isin(kept)].reset_index(drop=True)


def _drawn(splits: Mapping[str, str], most: Mapping[str, int]) -> set[str]:
    """Questions by the digest of their ids, so that more of them keep those that fewer had."""
    order = by_digest(splits)
    parts = {split: [name for name in order if splits[name] == split] for split in SPLITS}
    return {name for split, names in parts.items() for name in names[: most.get(split, len(names))]}
