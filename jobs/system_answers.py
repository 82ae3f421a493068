"""The answers of every system that an evaluation compares, in parts that resume."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa

from consilience.errors import UserError
from consilience.runs import Run
from consilience.table_schema import read_table, write_table
from consilience.tables import ANSWERS, QUESTIONS
from consilience.values.aggregator_data import agents_wanted, by_question
from consilience.values.answer_settings import AGGREGATOR, BASE, AnswerConfig
from consilience.values.context import ContextKind
from consilience.values.questions import Question
from consilience.values.saved import SavedAdapters, read_adapters
from consilience.values.split import TEST, TRAIN
from consilience.values.systems import aggregator_name, alone, draw_shots, in_context, with_flips
from jobs.agent_answers import HostingConfig, respond


def read_systems(agents: Path, aggregators: Sequence[Path]) -> tuple[SavedAdapters, dict[ContextKind, SavedAdapters]]:
    """The agents, and by its context every aggregator, its adapter under the system's name.

    Raises:
        UserError: no such runs, two aggregators of one context, or one of another base or for agents that are not here.
    """
    saved = read_adapters(agents)
    found: dict[ContextKind, SavedAdapters] = {}
    for folder in aggregators:
        tuned = read_adapters(folder)
        if list(tuned.adapters) != [AGGREGATOR]:
            raise UserError(f"{folder}: not an aggregator; expected a run of train_aggregator")
        context = tuned.about["context"]
        if context in found:
            raise UserError(f"aggregator {folder}: a second one of context '{context}'; expected one of each")
        if tuned.base_digest != saved.base_digest:
            raise UserError(f"aggregator {folder}: tuned on another base than the agents of {agents}")
        agents_wanted(context, [], list(saved.adapters))
        found[context] = replace(tuned, adapters={aggregator_name(context): tuned.adapters[AGGREGATOR]})
    return saved, found


def check_held_out(test: Sequence[Question], folders: Sequence[Path]) -> int:
    """How many of the questions share their text with one that agents or aggregators of `folders` were trained on.

    Raises:
        UserError: they were trained on one of the questions themselves.
    """
    texts: set[str] = set()
    for folder in folders:
        seen = [row for row in read_table(folder / "questions.parquet", QUESTIONS).to_pylist() if row["split"] != TEST]
        names = {row["question_id"] for row in seen}
        for question in test:
            if question.question_id in names:
                raise UserError(
                    f"question {question.question_id}: in split 'test', but {folder} was trained on it; expected the "
                    "split that it was trained with"
                )
        texts |= {row["text"] for row in seen}
    return sum(question.text in texts for question in test)


def answer_all(
    agents: SavedAdapters,
    aggregators: Mapping[ContextKind, SavedAdapters],
    questions: Sequence[Question],
    run: Run,
    answers: AnswerConfig,
    hosting: HostingConfig,
    shots: int,
    flips: int,
    seed: int,
) -> pa.Table:
    """Answers of all systems to the test questions, also written as `answers.parquet`.

    What an earlier run of the same folder has asked of the same adapters in the same words is not asked again.

    Args:
        shots: most examples per value in a few-shot prompt, drawn from the training questions.
        flips: most questions whose profiles are flipped, drawn at random.
    """
    test, train = ([q for q in questions if q.split == split] for split in (TEST, TRAIN))
    saved = [agents, *aggregators.values()]
    names, contexts = list(agents.adapters), list(aggregators)
    first = respond("alone", alone(test, [BASE, *names]), saved, run, answers, hosting)
    heard = by_question(first)
    told = in_context(test, heard, contexts, draw_shots(train, shots, seed))
    second = respond("in_context", told, saved, run, answers, hosting)
    drawn = np.random.default_rng(seed).permutation(len(test))[:flips]
    turned = with_flips([test[place] for place in sorted(drawn.tolist())], heard, contexts, names)
    third = respond("flipped", turned, saved, run, answers, hosting)
    table = pa.concat_tables([first, second, third])
    write_table(table, run / "answers.parquet", ANSWERS)
    return table
