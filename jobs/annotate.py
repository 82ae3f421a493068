"""Annotate: every dilemma judged under every theory by every annotator of the pool.

Ray Data streams batches of dilemmas through one autoscaling pool of actors per model, all models side by side where
the cluster has room. Judgements are written as they come; the same command again resumes and repeats none of them.
"""

import json
import math
import os
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray
from pydantic import Field, field_validator
from ray.data import ActorPoolStrategy

from actors.annotator import Annotator, Fingerprints, fingerprint, part_folder, row_group_ends
from actors.cluster import connect
from consilience.config import Config
from consilience.datasets.dilemmas import prepare_dilemmas
from consilience.errors import UserError
from consilience.files import atomic_path, digest_file, digest_json
from consilience.lm.annotator_block import ModelBlock
from consilience.lm.annotators import AnnotatorConfig, SyntheticAnnotator
from consilience.lm.ledger import spent_usd
from consilience.lm.openai_annotator import OpenAIAnnotator
from consilience.lm.pool import annotator_digest, check, describe
from consilience.lm.scorer import FAILED
from consilience.runs import Run
from consilience.table_schema import iterate_parquet, write_table
from consilience.tables import ANNOTATIONS, ANNOTATORS, DILEMMAS
from consilience.theories import THEORY_NAMES, Theory, pick_theories
from jobs.cli import Job, Summary, console, main
from jobs.progress import Advance, progress
from jobs.reporting import say

_MOST_BLOCKS = 2_000
_ROW_GROUP = 65_536


class AnnotateConfig(Config):
    """What to judge, under which theories, by whom."""

    dilemmas: Path = Field(description="dilemmas table (Parquet, JSONL, CSV) or AITA dump")
    pool: tuple[AnnotatorConfig, ...] = Field(min_length=1, description="annotators; see configs/demo.yaml")
    theories: tuple[str, ...] = Field(THEORY_NAMES, min_length=1, description="theories to judge under")
    batch_size: int = Field(16, ge=1, description="dilemmas per call of a model and per file written")
    repeat_sample: int = Field(10, ge=0, description="dilemmas judged twice, to measure the noise of a score; 0 = none")
    seed: int = Field(0, description="of the sample judged twice; nothing else is random but synthetic annotators")

    @field_validator("pool")
    @classmethod
    def _unique_names(cls, pool: tuple[AnnotatorConfig, ...]) -> tuple[AnnotatorConfig, ...]:
        names = Counter(config.annotator for config in pool)
        for name, count in names.items():
            if count > 1:
                raise ValueError(f"{count} annotators are called '{name}'; expected unique names")
        return pool

    @field_validator("theories")
    @classmethod
    def _known_theories(cls, theories: tuple[str, ...]) -> tuple[str, ...]:
        try:
            pick_theories(theories)
        except UserError as error:
            raise ValueError(str(error)) from None
        if len(set(theories)) < len(theories):
            raise ValueError("a theory is named twice")
        return theories


@dataclass
class Progress:
    """Counts from all pools, added up as batches finish, and why annotators have stopped.

    Attributes:
        spent: US dollars that each annotator with a price has cost so far.
    """

    advance: Advance
    spent: dict[str, float]
    counts: Counter[str] = field(default_factory=Counter)
    stopped: dict[str, str] = field(default_factory=dict)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, batch: Any) -> None:
        with self.lock:
            for name in ("scored", "reused", "failed"):
                self.counts[name] += int(batch[name].sum())
            self.stopped.update(
                {name: why for name, why in zip(batch["annotator"], batch["stopped"], strict=True) if why}
            )
            for name in self.spent.keys() & set(batch["annotator"]):
                self.spent[name] = max(self.spent[name], batch["cost_usd"][batch["annotator"] == name].max())
            self.advance(
                int(batch["scored"].sum() + batch["reused"].sum() + batch["failed"].sum()),
                sum(self.spent.values()) if self.spent else None,
            )


def plan(config: AnnotateConfig) -> list[str]:
    """Check the inputs and model sources; say what would be judged."""
    if not config.dilemmas.is_file():
        raise UserError(f"{config.dilemmas}: no such file; expected a table of dilemmas")
    for annotator in config.pool:
        check(annotator)
    lines = [f"annotate {config.dilemmas} under {', '.join(config.theories)}"]
    lines += [f"  {annotator.annotator}: {annotator.kind} {_source(annotator)}" for annotator in config.pool]
    pools = model_pools(config.pool)
    lines.append(
        f"  {len(config.pool)} annotators on {len(pools)} actor pools, {len(config.theories)} judgements a dilemma each"
    )
    return lines


def _source(annotator: AnnotatorConfig) -> str:
    """Where judgements come from, and the most that they may cost."""
    if isinstance(annotator, OpenAIAnnotator):
        cap = "no cost cap" if annotator.cost_cap_usd is None else f"at most {annotator.cost_cap_usd:g} USD"
        return f"{annotator.base_url} {annotator.model}, {cap}"
    return annotator.behaviour if isinstance(annotator, SyntheticAnnotator) else annotator.source


def execute(config: AnnotateConfig, run: Run) -> Summary:
    """Write dilemmas, rejected, annotators and annotations; returns the counts."""
    prepare_inputs(config.dilemmas, run)
    return annotate(config, run)


def prepare_inputs(dilemmas: Path, run: Run) -> None:
    """Normalise the user's dilemmas into the run folder, bad rows to `rejected.parquet`."""
    digest = digest_file(dilemmas)
    run.record(inputs={str(dilemmas): digest})
    if run.finished("prepare", digest, "dilemmas.parquet", "rejected.parquet"):
        return
    with run.stage("prepare", digest):
        counts = prepare_dilemmas(dilemmas, run / "dilemmas.parquet", run / "rejected.parquet")
        if counts.rejected:
            say(f"{counts.rejected} rows rejected; see {run / 'rejected.parquet'}")


def annotate(config: AnnotateConfig, run: Run) -> Summary:
    """Judge `dilemmas.parquet` of the run folder; write `annotators.parquet` and `annotations.parquet`."""
    rows = [describe(annotator) for annotator in config.pool]
    write_table(pa.Table.from_pylist(rows, schema=ANNOTATORS.arrow), run / "annotators.parquet", ANNOTATORS)
    run.record(licences={row["annotator"]: row.get("licence") for row in rows})
    dilemmas = digest_file(run / "dilemmas.parquet")
    judged = [[annotator.annotator, annotator_digest(annotator)] for annotator in config.pool]
    stage = digest_json([dilemmas, judged, config.theories, config.repeat_sample, config.seed])
    items = pq.read_metadata(run / "dilemmas.parquet").num_rows
    total = items * len(config.theories) * len(config.pool)
    if run.finished("annotate", stage, "annotations.parquet"):
        return {**run.manifest["annotate"]}
    parts = run / "parts" / dilemmas[:12]
    started = time.monotonic()
    counts = _judge_all(config, run.folder.absolute(), parts.absolute(), items, "annotating")
    seconds = time.monotonic() - started
    missing, failed = _gather(config, run / "dilemmas.parquet", parts, run / "annotations.parquet", items)
    _repeat(config, run)
    summary: Summary = {
        "items": items,
        "annotators": len(config.pool),
        "judgements": total,
        "missing": missing,
        "failed": failed,
        "reused": counts["reused"],
        "judgements_per_second": round(counts["scored"] / seconds, 3) if counts["scored"] else None,
        "annotate_seconds": round(seconds, 3),
        "cost_usd": round(spent_usd(run / "answers") + spent_usd(run / "repeats" / "answers"), 6),
    }
    run.record(annotate=summary)
    if failed:
        say(f"{failed} judgements failed and are missing; the same command tries them again")
    else:
        run.finish("annotate", stage, time.monotonic() - started)
    return summary


def _repeat(config: AnnotateConfig, run: Run) -> None:
    """Judge a sample again, in another order and so in other batches, into `repeats.parquet`."""
    (run / "repeats.parquet").unlink(missing_ok=True)
    again = config.model_copy(update={"pool": tuple(_with_what_is_left(config.pool, run / "answers"))})
    if not config.repeat_sample or not again.pool:
        return
    folder = run.folder.absolute() / "repeats"
    sample = _draw(run / "dilemmas.parquet", config.repeat_sample, config.seed)
    folder.mkdir(exist_ok=True)
    write_table(sample, folder / "dilemmas.parquet", DILEMMAS)
    parts = folder / "parts" / digest_file(folder / "dilemmas.parquet")[:12]
    _judge_all(again, folder, parts, sample.num_rows, "judging a sample again")
    _gather(again, folder / "dilemmas.parquet", parts, run / "repeats.parquet", sample.num_rows)


def _draw(path: Path, rows: int, seed: int) -> pa.Table:
    """Rows of a Parquet table at random, in random order; only the row groups that they lie in are read."""
    with pq.ParquetFile(path) as file:
        ends = row_group_ends(file)
        chosen = np.random.default_rng(seed).choice(ends[-1], min(rows, ends[-1]), replace=False)
        groups = np.searchsorted(ends, chosen, "right")
        within = chosen - np.concatenate([[0], ends])[groups]
        parts = [file.read_row_group(group).take(within[groups == group]) for group in np.unique(groups)]
    return pa.concat_tables(parts).take(np.argsort(np.argsort(groups, kind="stable")))


def _with_what_is_left(pool: Sequence[AnnotatorConfig], answers: Path) -> Iterator[AnnotatorConfig]:
    """The pool with what is left of every cost cap; without annotators that have nothing left."""
    for annotator in pool:
        if isinstance(annotator, OpenAIAnnotator) and annotator.cost_cap_usd is not None:
            left = annotator.cost_cap_usd - spent_usd(answers / annotator.annotator)
            if left > 0:
                yield annotator.model_copy(update={"cost_cap_usd": left})
        else:
            yield annotator


def model_pools(pool: Sequence[AnnotatorConfig]) -> list[list[AnnotatorConfig]]:
    """Annotators that share a loaded model, together: they differ in persona, elicitation or group alone."""
    pools: dict[str, list[AnnotatorConfig]] = {}
    for config in pool:
        shared = config.model_dump(mode="json", exclude={"annotator", "group", "persona", "elicitation"})
        key = "synthetic" if isinstance(config, SyntheticAnnotator) else json.dumps(shared, sort_keys=True)
        pools.setdefault(key, []).append(config)
    return list(pools.values())


def _judge_all(config: AnnotateConfig, folder: Path, parts: Path, items: int, doing: str) -> Counter[str]:
    """All pools side by side, each its own streaming Ray Data execution. Paid answers go to `folder`/answers."""
    hosts = [annotator for annotator in config.pool if isinstance(annotator, ModelBlock)]
    connect(max((host.num_cpus for host in hosts), default=0), max((host.num_gpus for host in hosts), default=0))
    pools = model_pools(config.pool)
    theories = pick_theories(config.theories)
    total = items * len(config.theories) * len(config.pool)
    with progress(doing, total) as advance:
        watch = Progress(advance, _spent(config.pool, folder / "answers"))
        interrupted = threading.Event()

        def judge(members: list[AnnotatorConfig]) -> None:
            try:
                _judge_pool(members, theories, folder, parts, items, config.batch_size, watch)
            except Exception as error:
                names = ", ".join(member.annotator for member in members)
                if not interrupted.is_set():
                    say(f"annotators {names} stopped: {_last_line(error)}; the others go on")

        # Daemons: an interrupted job does not wait for its pools.
        threads = [threading.Thread(target=judge, args=(members,), daemon=True) for members in pools]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        except KeyboardInterrupt:
            interrupted.set()
            raise
    for name, why in watch.stopped.items():
        say(f"annotator {name} stopped: {why}")
    return watch.counts


def _spent(pool: Sequence[AnnotatorConfig], answers: Path) -> dict[str, float]:
    """What annotators with a price have cost so far, in US dollars."""
    return {
        annotator.annotator: spent_usd(answers / annotator.annotator)
        for annotator in pool
        if isinstance(annotator, OpenAIAnnotator) and annotator.usd_per_million_input + annotator.usd_per_million_output
    }


def _judge_pool(
    members: list[AnnotatorConfig],
    theories: tuple[Theory, ...],
    folder: Path,
    parts: Path,
    items: int,
    batch_size: int,
    watch: Progress,
) -> None:
    first = members[0]
    cpus, gpus, actors = (
        (first.num_cpus, first.num_gpus, first.actors) if isinstance(first, ModelBlock) else (0, 0, (1, 1))
    )
    batches = math.ceil(items / batch_size)
    blocks = np.array_split(np.arange(batches), min(batches, _MOST_BLOCKS))
    results = ray.data.from_arrow([pa.table({"item": block}) for block in blocks]).map_batches(
        Annotator,
        fn_constructor_args=(members, theories, folder / "dilemmas.parquet", batch_size, parts, folder / "answers"),
        batch_size=1,  # Ray Data asks for a number where there are GPUs, and joins smaller blocks into one task
        compute=ActorPoolStrategy(min_size=actors[0], max_size=actors[1]),
        num_cpus=cpus,
        num_gpus=gpus,
    )
    for batch in results.iter_batches(batch_size=None, batch_format="numpy"):
        watch.add(batch)


def _gather(config: AnnotateConfig, dilemmas: Path, parts: Path, out: Path, items: int) -> tuple[int, int]:
    """All parts into one table, in the pool's order, failed judgements as missing. Returns all missing, and failed."""
    expected = items * len(config.theories)
    missing = failed = 0
    with atomic_path(out) as temporary, pq.ParquetWriter(temporary, ANNOTATIONS.arrow, compression="zstd") as writer:
        for annotator in config.pool:
            written = 0
            for found in _read_parts(part_folder(parts, annotator)):
                table = found.filter(pc.is_in(found["theory"], pa.array(config.theories)))  # parts may know more
                writer.write_table(table)
                written += table.num_rows
                missing += table.column("score").null_count
            if written < expected:
                for table in _failed_rows(config, annotator, dilemmas, parts):
                    writer.write_table(table)
                    failed += table.num_rows
    return missing + failed, failed


def _read_parts(folder: Path) -> Iterator[pa.Table]:
    """The parts of an annotator in order of name, many in one table: a row group each would grow the file's footer."""
    pending: list[pa.Table] = []
    rows = 0
    for name in sorted(os.listdir(folder)) if folder.is_dir() else []:
        if name.endswith(".parquet"):
            pending.append(pq.read_table(folder / name, schema=ANNOTATIONS.arrow))
            rows += pending[-1].num_rows
        if rows >= _ROW_GROUP:
            yield pa.concat_tables(pending)
            pending, rows = [], 0
    if pending:
        yield pa.concat_tables(pending)


def _failed_rows(config: AnnotateConfig, annotator: AnnotatorConfig, dilemmas: Path, parts: Path) -> Iterator[pa.Table]:
    done = Fingerprints(part_folder(parts, annotator))
    digest = annotator_digest(annotator)
    for batch in iterate_parquet(dilemmas, ["item_id", "text"]):
        judged = [
            (item, theory.name, fingerprint(digest, item, text, theory))
            for item, text in zip(batch["item_id"].to_pylist(), batch["text"].to_pylist(), strict=True)
            for theory in pick_theories(config.theories)
        ]
        known = done.hold(np.array([value for *_, value in judged]))
        cells = [cell for cell, found in zip(judged, known, strict=True) if not found]
        rows = [
            {
                "item_id": item,
                "theory": theory,
                "annotator": annotator.annotator,
                "status": FAILED,
                "fingerprint": value,
            }
            for item, theory, value in cells
        ]
        yield pa.Table.from_pylist(rows, schema=ANNOTATIONS.arrow)


def _last_line(error: BaseException) -> str:
    cause = getattr(error, "cause", None) or error
    lines = [line for line in str(cause).splitlines() if line.strip()] or [type(error).__name__]
    return lines[-1][:300]


def show(folder: Path) -> None:
    """Print what the annotators said on the whole."""
    from consilience.report.terminal import print_annotations  # here, because a dry run needs none of it

    print_annotations(folder, console)


JOB = Job("annotate", __doc__, AnnotateConfig, plan, execute, inputs=("dilemmas",), show=show)

if __name__ == "__main__":
    sys.exit(main(JOB))
