"""Requests answered by agents and aggregators: Ray Data streams them through a pool of actors, in parts that resume."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from consilience.config import Config
from consilience.files import digest_file, digest_json
from consilience.runs import Run
from consilience.table_schema import write_table
from consilience.tables import ANSWERS
from consilience.values.answer_settings import AnswerConfig
from consilience.values.questions import Question
from consilience.values.requests import Request, part_file, write_requests
from consilience.values.saved import SavedAdapters
from consilience.values.systems import alone
from jobs.progress import progress


class HostingConfig(Config):
    """The pool that answers: every actor holds one base and all adapters."""

    num_cpus: float = Field(1, gt=0, description="CPU cores of an actor")
    num_gpus: float = Field(0, ge=0, description="GPUs of an actor")
    actors: tuple[int, int] = Field((1, 1), description="smallest and largest number of actors")
    batch_size: int = Field(16, ge=1, description="answers per part that is written")


def answer_questions(
    questions: Sequence[Question], saved: SavedAdapters, run: Run, answers: AnswerConfig, hosting: HostingConfig
) -> None:
    """Write the answers of all agents to `questions` as `answers.parquet`."""
    table = respond("alone", alone(questions, list(saved.adapters)), [saved], run, answers, hosting)
    write_table(table.append_column("value", table.column("system")), run / "answers.parquet", ANSWERS)


def respond(
    name: str,
    requests: Sequence[Request],
    saved: Sequence[SavedAdapters],
    run: Run,
    answers: AnswerConfig,
    hosting: HostingConfig,
) -> pa.Table:
    """Answers to `requests`, in parts named after the words that are asked, who is asked and how answers are drawn.

    A part that is there is not made again: what was answered is not asked again.
    """
    adapters = {request.adapter for request in requests}
    needed = [each for each in saved if not adapters.isdisjoint(each.adapters)]
    path = (run / f"requests_{name}.parquet").absolute()
    batches = write_requests(path, requests, hosting.batch_size)
    wording = answers.model_dump(mode="json")
    fingerprint = digest_json([digest_file(path), [each.digest() for each in needed], wording])
    parts = (run / "parts" / fingerprint[:12]).absolute()
    missing = [batch for batch in range(batches) if not part_file(parts, batch).exists()]
    if missing:
        with run.stage(f"answers_{name}", fingerprint):
            done = len(requests) - min(len(requests), len(missing) * hosting.batch_size)
            _stream(missing, needed, path, parts, answers, hosting, len(requests), done)
    return pa.concat_tables(pq.read_table(part_file(parts, batch)) for batch in range(batches))


def _stream(
    batches: Sequence[int],
    saved: Sequence[SavedAdapters],
    requests: Path,
    parts: Path,
    answers: AnswerConfig,
    hosting: HostingConfig,
    total: int,
    done: int,
) -> None:
    # Here, because torch and Ray take seconds to import and a dry run needs none of them.
    import ray
    from ray.data import ActorPoolStrategy

    from actors.cluster import connect
    from actors.respondent import Respondent

    connect(hosting.num_cpus, hosting.num_gpus)
    results = ray.data.from_items(list(batches), override_num_blocks=len(batches)).map_batches(
        Respondent,
        fn_constructor_args=(saved, requests, parts, answers),
        batch_size=1,  # a number, which Ray Data asks for where there are GPUs
        compute=ActorPoolStrategy(min_size=hosting.actors[0], max_size=hosting.actors[1]),
        num_cpus=hosting.num_cpus,
        num_gpus=hosting.num_gpus,
    )
    with progress("answering", total, done) as advance:
        for batch in results.iter_batches(batch_size=None, batch_format="numpy"):
            advance(int(batch["answers"].sum()))
