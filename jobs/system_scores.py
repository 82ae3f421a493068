"""The answers of an evaluation scored: by rewards and judge, and beside the reference answers."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from consilience.files import digest_file, digest_json
from consilience.lm.sources import open_source
from consilience.runs import Run
from consilience.table_schema import read_table, write_table
from consilience.values.answer_settings import BASE
from consilience.values.context import ContextKind
from consilience.values.evaluation import Measure, Scores
from consilience.values.evaluation_settings import ScoreEncoder
from consilience.values.evaluation_summary import OVERLAPS
from consilience.values.evaluation_tables import ANSWER_SCORES
from consilience.values.questions import Question, questions_of, situations_of
from consilience.values.systems import OTHER_REFERENCE, aggregator_name, compared, flipped_name, other_references
from consilience.values.text_overlap import repetition, words

_QUESTIONS_PER_TASK = 200

Texts = dict[str, dict[str, str]]
"""System to question id to answer."""

Found = dict[tuple[str, str], dict[str, float]]
"""(System, measure) to question id to score."""


def score_all(
    questions: pa.Table,
    answers: pa.Table,
    agents: Sequence[str],
    contexts: Sequence[ContextKind],
    loaders: Mapping[str, Mapping[str, Any]],
    digests: Sequence[str],
    encoder: ScoreEncoder,
    forcing: bool,
    gpus: float,
    run: Run,
) -> tuple[Scores, list[Measure]]:
    """Scores of all answers, also written as `answer_scores.parquet`, and the rewards among their measures.

    Args:
        questions: the `questions` table of the test questions.
        loaders: "reward" and perhaps "judge" to value to what loads it.
        digests: of what they load.
        forcing: whether classifiers are used that were refused.
        gpus: of each actor or task that scores.
    """
    test, situations = questions_of(questions), situations_of(questions)
    files = open_source(encoder.source, encoder.revision)
    inputs = [digest_file(run / f"{name}.parquet") for name in ("questions", "answers")]
    classifiers = [list(loaders), list(digests), forcing]
    fingerprint = digest_json(
        [inputs, classifiers, encoder.model_dump(mode="json"), files.digest, files.settings_digest]
    )
    path = run / "answer_scores.parquet"
    if not run.finished("scores", fingerprint, path.name):
        # Here, because torch and Ray take seconds to import and a dry run needs none of them.
        from actors.cluster import connect

        with run.stage("scores", fingerprint):
            connect(gpus=gpus)
            texts = _by_system(answers)
            found, forced = _rewards(texts, agents, contexts, loaders, gpus)
            found |= _overlaps(test, situations, texts, compared(agents, contexts), encoder, gpus)
            found |= _plain(texts, (BASE, *agents))
            _write(found, path)
            run.record(forced=forced)
    measures = [Measure(kind, value, value in run.manifest["forced"][kind]) for kind in loaders for value in agents]
    return _read(path, [question.question_id for question in test]), measures


def _by_system(answers: pa.Table) -> Texts:
    """Nothing said is an empty text."""
    texts: Texts = {}
    for row in answers.to_pylist():
        texts.setdefault(row["system"], {})[row["question_id"]] = row["text"] or ""
    return texts


def _rewards(
    texts: Texts,
    agents: Sequence[str],
    contexts: Sequence[ContextKind],
    loaders: Mapping[str, Mapping[str, Any]],
    gpus: float,
) -> tuple[Found, dict[str, list[str]]]:
    """Each value's reward of base, agents, aggregators, and of aggregators with that value flipped; what was forced."""
    from actors.cluster import gather
    from actors.reward import RemoteReward, start_rewards
    from consilience.ppo.rewards import call_reward

    actors = {kind: start_rewards(each, gpus) for kind, each in loaders.items()}
    loaded = dict(zip(actors, gather([actor.load.remote() for actor in actors.values()]), strict=True))
    forced = {kind: sorted(value for value, is_forced in each.items() if is_forced) for kind, each in loaded.items()}
    found: Found = {}
    for kind, actor in actors.items():
        for value in agents:
            key = Measure(kind, value, value in forced[kind]).key
            flipped = [flipped_name(context, value) for context in contexts]
            for system in (BASE, *agents, *map(aggregator_name, contexts), *flipped):
                if system in texts:
                    scores = call_reward(RemoteReward(actor, value), list(texts[system].values()))
                    found[system, key] = dict(zip(texts[system], scores, strict=True))
    return found, forced


def _overlaps(
    test: Sequence[Question],
    situations: Sequence[str],
    texts: Texts,
    systems: Sequence[str],
    encoder: ScoreEncoder,
    gpus: float,
) -> Found:
    """Systems, and other questions' references, beside the reference of each question that has one."""
    from actors.cluster import gather
    from actors.text_scores import score_texts

    referenced = [question for question in test if question.reference]
    said = {system: texts[system] for system in systems}
    if others := other_references(test, situations):
        said[OTHER_REFERENCE] = others
    tasks = []
    for start in range(0, len(referenced), _QUESTIONS_PER_TASK):
        part = referenced[start : start + _QUESTIONS_PER_TASK]
        pairs = [(said[system][question.question_id], question.reference) for question in part for system in said]
        ours, theirs = zip(*pairs, strict=True)
        tasks.append(score_texts.options(num_gpus=gpus).remote(ours, theirs, encoder))
    scores = np.vstack(gather(tasks)).reshape(len(referenced), len(said), len(OVERLAPS))
    return {
        (system, measure): {
            question.question_id: float(score)
            for question, score in zip(referenced, scores[:, place, rank], strict=True)
        }
        for place, system in enumerate(said)
        for rank, measure in enumerate(OVERLAPS)
    }


def _plain(texts: Texts, systems: Sequence[str]) -> Found:
    """Length and repetition."""
    found: Found = {}
    for system in systems:
        split = {name: words(text) for name, text in texts[system].items()}
        found[system, "words"] = {name: float(len(each)) for name, each in split.items()}
        repeated = {name: repetition(each) for name, each in split.items()}
        found[system, "repetition"] = {name: share for name, share in repeated.items() if share is not None}
    return found


def _write(found: Found, path: Path) -> None:
    rows = [(name, *key, score) for key, scores in found.items() for name, score in scores.items()]
    table = pa.table(list(zip(*rows, strict=True)), names=["question_id", "system", "measure", "score"])
    write_table(table, path, ANSWER_SCORES)


def _read(path: Path, names: Sequence[str]) -> Scores:
    """As arrays, in the order of the questions `names`, NaN where a question has no such score."""
    frame = read_table(path, ANSWER_SCORES).to_pandas()
    wide = frame.pivot(index="question_id", columns=["system", "measure"], values="score").reindex(names)
    return {key: wide[key].to_numpy(dtype=np.float64) for key in wide.columns}
