"""Realign: pull misaligned models back to the consensus of the others by their theory's tokens alone.

Takes a finished run with a consensus, trains theory tokens and a head for the flagged (annotator, theory) pairs, judges
them on held-out items, and finds the consensus again with the realigned models in their parents' place.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from pydantic import Field

from actors.cluster import connect, gather
from actors.realign_worker import Trained, read_trained, train_pair, tune_pair
from consilience.files import digest_file, digest_json
from consilience.lm.pool import annotator_digest, check
from consilience.realign.settings import RealignOptions, TrainingConfig
from consilience.runs import Run, read_manifest
from jobs.aggregate import ConsensusConfig, aggregate
from jobs.cli import Job, Summary, main, show_report
from jobs.progress import watching
from jobs.realign_pairs import Case, Finished, choose_pairs, prepare, read_finished
from jobs.realign_results import FIGURES, Result, conclude, headline, write_pool


class RealignConfig(RealignOptions):
    """A finished run of the pipeline, and what to realign in it."""

    run: Path = Field(description="run folder with annotations and their consensus")
    seed: int = Field(0, description="of splits, heads, batches and bootstraps")


def plan(config: RealignConfig) -> list[str]:
    """Check the run and say which pairs would be realigned."""
    finished = read_finished(config.run)
    pairs = choose_pairs(finished, config.pairs)
    for name, _ in pairs:
        check(finished.pool[name])
    return [f"realign {name} under {theory}" for name, theory in pairs] or ["no flagged pair can be realigned"]


def execute(config: RealignConfig, run: Run) -> Summary:
    """Realign, and write the run folder."""
    run.record(inputs={str(config.run): digest_file(config.run / "annotations.parquet")})
    return realign(config.run, config, config.seed, run)


def within(run: Run, options: RealignOptions, seed: int) -> Summary:
    """Realign in the subfolder `realigned` of a run whose consensus is found; returns the figures of the pairs."""
    settings = {"run": str(run.folder), "seed": seed, **options.model_dump(mode="json")}
    with Run.open(run / "realigned", "realign", settings) as after:
        summary = realign(run.folder, options, seed, after)
        after.summarise(summary)
        page = f"what realignment gained and harmed: {run / 'realigned' / 'report.html'}"
        run.record(notes=[*run.manifest["notes"], *after.manifest["realign_notes"], page])
    # Here, because plotting takes seconds to import and a dry run needs none of it.
    from consilience.report.page import write_report

    write_report(run / "realigned")
    return {name: summary[name] for name in summary if name in FIGURES}


def realign(source: Path, options: RealignOptions, seed: int, run: Run) -> Summary:
    """Realign pairs of the finished run in `source`; write tables, artefacts and the new consensus into `run`."""
    finished = read_finished(source)
    pairs = choose_pairs(finished, options.pairs)
    settings = options.model_dump(mode="json", include=set(RealignOptions.model_fields))
    digests = [annotator_digest(finished.pool[name]) for name, _ in pairs]
    consensus = read_manifest(source)["stages"]["aggregate"]["fingerprint"]
    fingerprint = digest_json([digest_file(source / "annotations.parquet"), consensus, settings, seed, pairs, digests])
    if run.finished("realign", fingerprint, "realignment.parquet", "realign.json", "annotations.parquet"):
        return {**run.manifest["realign"]}
    started = time.monotonic()
    with run.stage("realign", fingerprint):
        cases = [prepare(finished, name, theory, options, seed) for name, theory in pairs]
        going = [case for case in cases if case.gate.passed or options.force]
        trained = dict(zip(map(id, going), _train(going, options, run, fingerprint[:12]), strict=True))
        results = [conclude(case, trained.get(id(case)), finished, run) for case in cases]
        write_pool(results, finished, run)
        found = aggregate(run / "annotations.parquet", _consensus(finished, results), run)
        summary = {**found, **headline(results), "realign_seconds": round(time.monotonic() - started, 3)}
        notes = [note for result in results for note in result.notes] or ["no flagged pair can be realigned"]
        run.record(realign=summary, realign_notes=notes, notes=[*run.manifest["notes"], *notes])
    return summary


def _consensus(finished: Finished, results: Sequence[Result]) -> ConsensusConfig:
    """The config of the new consensus: without repeats where only those had any who have another name now."""
    renamed = {result.case.annotator.annotator for result in results if result.rows is not None}
    if finished.noise is not None and renamed.issuperset(finished.noise["annotator"]):
        return finished.consensus.model_copy(update={"repeats": None})
    return finished.consensus


def _train(
    cases: Sequence[Case], options: RealignOptions, run: Run, version: str
) -> list[tuple[Trained, TrainingConfig]]:
    """Train all cases, side by side where the cluster has room."""
    if not cases:
        return []
    connect(*options.workers.at_once)
    storage = (run / "training").absolute()
    settings = [options.training] * len(cases)
    if options.tune is not None:
        settings = [
            tune_pair(
                case.pair, options.training, options.workers, options.tune, storage, f"tune-{case.name}-{version}"
            )
            for case in cases
        ]
    with watching(storage):
        folders = gather(
            [
                train_pair.remote(case.pair, chosen, options.workers, storage, f"{case.name}-{version}")
                for case, chosen in zip(cases, settings, strict=True)
            ]
        )
    return [(read_trained(folder), chosen) for folder, chosen in zip(folders, settings, strict=True)]


JOB = Job("realign", __doc__, RealignConfig, plan, execute, inputs=("run",), show=show_report)

if __name__ == "__main__":
    sys.exit(main(JOB))
