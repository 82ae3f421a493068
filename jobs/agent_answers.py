"""All questions answered by all agents: Ray Data streams them through a pool of actors, in parts that resume."""

import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field

from consilience.config import Config
from consilience.files import digest_file, digest_json
from consilience.runs import Run
from consilience.tables import ANSWERS, read_table, write_table
from consilience.values.answer_settings import AnswerConfig
from consilience.values.saved import SavedAdapters
from jobs.progress import progress


class HostingConfig(Config):
    """The pool that answers: every actor holds one base and all adapters."""

    num_cpus: float = Field(1, gt=0, description="CPU cores of an actor")
    num_gpus: float = Field(0, ge=0, description="GPUs of an actor")
    actors: tuple[int, int] = Field((1, 1), description="smallest and largest number of actors")
    batch_size: int = Field(16, ge=1, description="questions per part that is written")


def answer_questions(saved: SavedAdapters, run: Run, config: AnswerConfig, hosting: HostingConfig) -> pa.Table:
    """Answers of all agents to `questions.parquet` of the run folder, also written as `answers.parquet`.

    What was answered by an earlier run of the same folder, agents and settings is not answered again.
    """
    # Here, because torch and Ray take seconds to import and a dry run needs none of them.
    from actors.moral_agent import part_file

    questions = (run / "questions.parquet").absolute()
    wording = config.model_dump(mode="json")
    fingerprint = digest_json([saved.digest(), digest_file(questions), wording, hosting.batch_size])
    if run.finished("answers", fingerprint, "answers.parquet"):
        return read_table(run / "answers.parquet", ANSWERS)
    with run.stage("answers", fingerprint):
        parts = (run / "parts" / fingerprint[:12]).absolute()
        batches = math.ceil(pq.read_metadata(questions).num_rows / hosting.batch_size)
        _stream(saved, questions, batches, parts, config, hosting)
        table = pa.concat_tables(pq.read_table(part_file(parts, batch)) for batch in range(batches))
        write_table(table, run / "answers.parquet", ANSWERS)
    return read_table(run / "answers.parquet", ANSWERS)


def _stream(
    saved: SavedAdapters, questions: Path, batches: int, parts: Path, config: AnswerConfig, hosting: HostingConfig
) -> None:
    import ray
    from ray.data import ActorPoolStrategy

    from actors.cluster import connect
    from actors.moral_agent import Answerer

    connect()
    results = ray.data.from_items(list(range(batches)), override_num_blocks=batches).map_batches(
        Answerer,
        fn_constructor_args=(saved, questions, hosting.batch_size, parts, config),
        batch_size=None,
        compute=ActorPoolStrategy(min_size=hosting.actors[0], max_size=hosting.actors[1]),
        num_cpus=hosting.num_cpus,
        num_gpus=hosting.num_gpus,
    )
    total = pq.read_metadata(questions).num_rows * len(saved.adapters)
    with progress("agents answering", total) as advance:
        for batch in results.iter_batches(batch_size=None, batch_format="numpy"):
            advance(int(batch["answered"].sum() + batch["reused"].sum()))
