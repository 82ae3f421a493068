"""The questions of a stage as a table of its run folder, made once."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from consilience.files import digest_file, digest_json
from consilience.runs import Run
from consilience.table_schema import read_table, write_table
from consilience.tables import QUESTIONS
from consilience.values.about import ABOUT
from consilience.values.examples import RELEVANCE
from consilience.values.question_data import QuestionData, load_questions, split_settings


def write_questions(data: QuestionData, run: Run, wanted: Callable[[dict[str, Any]], bool] | None = None) -> pa.Table:
    """The questions of `data`, also as `questions.parquet`; not made again where files and classifiers are the same.

    Args:
        wanted: rows that it refuses are left out.
    """
    digests = {str(path): digest_file(path) for path in data.paths}
    parted: tuple[int, int] | None = None
    if data.values is not None:
        digests[str(data.values)] = digest_file(data.values / RELEVANCE / ABOUT)
        parted = split_settings(data.values)
    run.record(inputs={**run.manifest["inputs"], **digests})
    fingerprint = digest_json([digests, parted, data.model_dump(mode="json")])
    path = run / "questions.parquet"
    if not run.finished("questions", fingerprint, path.name):
        with run.stage("questions", fingerprint):
            table = load_questions(data)
            if wanted is not None:
                table = table.filter(pa.array([wanted(row) for row in table.to_pylist()]))
            write_table(table, path, QUESTIONS)
    return read_table(path, QUESTIONS)
