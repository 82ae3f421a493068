"""Aggregate: one consensus per dilemma and theory from many annotators' scores, with each one's reliability.

Small tables are fitted in this process; large ones by shard actors that run the very same pass. Needs only
`item_id, theory, annotator, score`, or a matrix with a column per annotator. With `update`, a saved consensus takes in
new scores without a refit, and an alarm names annotators that are no longer what they were.
"""

import sys
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from pydantic import Field, model_validator

from actors.em_pool import OneShard, Shards
from consilience.config import Config
from consilience.consensus.baselines import mean
from consilience.consensus.bootstrap import bootstrap
from consilience.consensus.calibrated import CalibratedModel, fit_calibrated
from consilience.consensus.drift import drift_alarm
from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.incremental import update
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.misalignment import alignment_table, f1_score
from consilience.consensus.model import ConsensusModel
from consilience.consensus.noise import KEYS, measurement_noise, noise_floor
from consilience.consensus.posterior import Shard
from consilience.datasets.matrix import read_matrix
from consilience.datasets.votes import human_share
from consilience.errors import UserError
from consilience.files import digest_file, digest_json
from consilience.readers import explained
from consilience.runs import Run
from consilience.table_schema import read_table, write_table
from consilience.tables import ALIGNMENT, ANNOTATIONS, DRIFT, GOLD, NOISE, RELIABILITY, VOTES
from jobs.cli import Job, Summary, main, rounded, show_report
from jobs.pool_tables import OCCASIONAL, write_people_tables, write_pool_tables
from jobs.run_tables import write_frame


class EMConfig(Config):
    """The truncated-normal EM; see `consilience.consensus.em`."""

    prior: Literal["global", "per_theory"] | Annotated[float, Field(gt=0, lt=1)] = Field(
        "global", description="of acceptable: one for all tasks, one per theory, both estimated; or fixed"
    )
    parameters: Literal["pooled", "per_theory"] = Field(
        "pooled", description="annotators' parameters for all theories together, as published, or per_theory"
    )
    mstep: Literal["exact", "naive"] = Field(
        "exact", description="exact: maximum likelihood; naive: weighted mean and sd taken for mu and sigma"
    )
    kappa: float = Field(2.0, gt=0, description="pseudo-scores of MAP smoothing")
    tolerance: float = Field(1e-7, gt=0, description="change of the objective per task at which to stop")
    max_iterations: int = Field(300, ge=1, description="passes over the data at most")


class ConsensusConfig(Config):
    """How a table of annotations becomes a consensus."""

    em: EMConfig = Field(EMConfig(), description="prior, parameters, mstep, kappa, tolerance, max_iterations")
    tau: float = Field(0.5, gt=0, lt=1, description="threshold at which score and consensus become labels")
    gold: Path | None = Field(None, description="gold table: its labels are fixed in the fit")
    votes: Path | None = Field(None, description="people's votes: the consensus is compared with their shares")
    repeats: Path | None = Field(None, description="annotations made again: their noise is a floor of every sigma")
    groups: dict[str, str] | None = Field(
        None, description="annotator: group, for a consensus each; default: the pool's groups, else families found"
    )
    shard_above: int = Field(10_000_000, ge=0, description="rows of a Parquet table above which shard actors fit it")
    shards: int | None = Field(None, ge=1, description="shard actors; default one per CPU of the cluster")


class AggregateConfig(ConsensusConfig):
    """A table of annotations, long or wide."""

    annotations: Path = Field(description="annotations table, or a matrix if item_column is set")
    update: Path | None = Field(None, description="consensus_model.json that takes in these annotations, not refitted")
    before: Path | None = Field(None, description="update: those of the annotations that it has counted already")
    item_column: str | None = Field(None, description="matrix: column that names the item")
    annotator_columns: tuple[str, ...] | str | None = Field(
        None, description="matrix: list of columns, or after:COLUMN for all to its right"
    )
    scale: tuple[float, float] = Field((0.0, 1.0), description="matrix: lowest and highest score")
    higher_is: Literal["acceptable", "wrong"] = Field("acceptable", description="matrix: what a high score means")
    theory: str = Field("commonsense", description="matrix: theory of its scores")
    human_column: str | None = Field(None, description="matrix: people's mean, on the same scale")

    @model_validator(mode="after")
    def _matrix_keys_together(self) -> "AggregateConfig":
        if (self.item_column is None) != (self.annotator_columns is None):
            raise ValueError("item_column and annotator_columns belong together; expected both or neither")
        if self.scale[0] >= self.scale[1]:
            raise ValueError(f"scale {list(self.scale)}: expected [lowest, highest]")
        if self.before is not None and self.update is None:
            raise ValueError("before: belongs to update, the consensus_model.json that has counted these rows")
        if self.update is not None and self.gold is not None:
            raise ValueError("update and gold exclude each other; fit again with gold instead")
        return self


def plan(config: AggregateConfig) -> list[str]:
    """Check that the inputs are there; say what would be done."""
    check_inputs(config.annotations, config.gold, config.votes, config.repeats, config.update, config.before)
    shape = "matrix" if config.item_column else "table"
    if config.update is not None:
        return [f"update {config.update} with the {shape} {config.annotations}"]
    return [f"aggregate the {shape} {config.annotations} by EM ({config.em.mstep} M-step, prior {config.em.prior})"]


def check_inputs(*paths: Path | None) -> None:
    """Raise UserError for the first path that is not a file."""
    for path in paths:
        if path is not None and not path.is_file():
            raise UserError(f"{path}: no such file")


def check_groups(groups: Mapping[str, str] | None, annotators: Collection[str]) -> None:
    """Raise UserError for the first annotator of `groups` that is none of `annotators`."""
    for name in groups or {}:
        if name not in annotators:
            raise UserError(f"groups: no annotator '{name}'; expected some of {', '.join(annotators)}")


def execute(config: AggregateConfig, run: Run) -> Summary:
    """Read the annotations, fit, and write the tables of a consensus."""
    if config.update is not None and config.update.resolve().parent == run.folder.resolve():
        raise UserError(
            f"{config.update}: lies in --out; a resumed job would count the same rows twice, so expected another --out"
        )
    run.record(inputs={str(config.annotations): digest_file(config.annotations)})
    saved = None if config.update is None else Saved(config.update, config.before)
    if config.item_column is None or config.annotator_columns is None:
        return aggregate(config.annotations, config, run, saved=saved)
    annotations, people = read_matrix(
        config.annotations,
        config.item_column,
        config.annotator_columns if isinstance(config.annotator_columns, str) else list(config.annotator_columns),
        config.scale,
        config.higher_is,
        config.theory,
        config.human_column,
    )
    write_table(annotations, run / "annotations.parquet", ANNOTATIONS)
    return aggregate(run / "annotations.parquet", config, run, people, saved)


@dataclass(frozen=True)
class Saved:
    """A saved consensus to bring up to date, and the rows of the new annotations that it has counted."""

    model: Path
    before: Path | None


@dataclass(frozen=True, eq=False)
class Fit:
    """A consensus of a table: fitted, or brought up to date.

    Attributes:
        model: None where there are two annotators only.
        drift: the `drift` table of an update.
    """

    model: ConsensusModel | None
    calibrated: CalibratedModel
    reliability: pd.DataFrame
    stopped: str
    iterations: int
    notes: list[str]
    drift: pd.DataFrame | None = field(default=None)

    def gamma(self, matrix: ScoreMatrix) -> npt.NDArray[np.float64]:
        """(N,) the consensus of the tasks of `matrix`; their mean where there are two annotators only."""
        return mean(matrix) if self.model is None else self.model.predict(matrix)["consensus"].to_numpy()


def aggregate(
    annotations: Path, config: ConsensusConfig, run: Run, people: pa.Table | None = None, saved: Saved | None = None
) -> Summary:
    """Fit the annotations table, or update a saved consensus with it, and write the tables of a consensus.

    Args:
        annotations: the table; Parquet above `shard_above` rows is fitted by shard actors.
        config: how to fit.
        run: the run folder.
        people: people's shares as a gold table, to compare the consensus with.
        saved: the consensus to update; None fits anew.
    """
    options = config.model_dump(mode="json", include=set(ConsensusConfig.model_fields))
    about = run / "annotators.parquet"  # names groups
    paths = (annotations, config.gold, config.votes, config.repeats, *(vars(saved).values() if saved else ()))
    inputs = [digest_file(path) for path in (*paths, about if about.is_file() else None) if path is not None]
    fingerprint = digest_json([inputs, options, people.to_pylist() if people is not None else None])
    if run.finished("aggregate", fingerprint, "consensus.parquet", "reliability.parquet", "alignment.parquet"):
        run.record(notes=run.manifest.get("aggregate_notes", []))  # without those that a realignment has added
        return {**run.manifest["aggregate"]}
    if config.votes is not None:
        people = human_share(read_table(config.votes, VOTES), str(config.votes))
    gold = None if config.gold is None else read_table(config.gold, GOLD).to_pandas()
    started = time.monotonic()
    with run.stage("aggregate", fingerprint):
        large = saved is None and _is_large(annotations, config)
        pool = Shards(annotations, gold, config.shards) if large else OneShard(annotations, gold)
        check_groups(config.groups, pool.annotators)
        sample = pool.sample()
        noise = None if config.repeats is None else _noise(annotations, config.repeats)
        fitted = _fit(pool, sample, config, gold, noise) if saved is None else _update(sample, saved)
        against_em, against_mean = pool.outcome(fitted.model, fitted.calibrated, config.tau, run / "consensus.parquet")
        seconds = time.monotonic() - started
        alignment = alignment_table(against_em, pool.annotators, pool.theories)
        alignment["f1_mean"] = f1_score(against_mean).ravel()
        write_frame(alignment, run, ALIGNMENT)
        write_frame(fitted.reliability, run, RELIABILITY)
        # What another config or other annotations left, and this run may have no part of.
        for name in ("consensus_model.json", *(f"{schema.name}.parquet" for schema in (NOISE, DRIFT, *OCCASIONAL))):
            (run / name).unlink(missing_ok=True)
        if fitted.model is not None:
            fitted.model.save(run / "consensus_model.json")
        for table, schema in ((noise, NOISE), (fitted.drift, DRIFT)):
            if table is not None:
                write_frame(table, run, schema)
        gamma = fitted.gamma(sample)
        figures, notes = write_pool_tables(
            sample, gamma, lambda part: build_em(config, noise).fit(part).gamma_, config.groups, run
        )
        summary: Summary = {
            "items": pool.items,
            "annotators": len(pool.annotators),
            **figures,
            "noise_sd": None if noise is None else rounded(noise_floor(noise)),
            "calibrated_trust": round(fitted.calibrated.trust, 4),
            "calibrated_reliability": round(fitted.calibrated.reliability, 4),
            "flagged": int(alignment["flagged"].sum()),
            "drifted": None if fitted.drift is None else int(fitted.drift["alarm"].sum()),
            "iterations": fitted.iterations,
            "seconds": round(seconds, 3),
            "converged": fitted.stopped == "converged",
            "stopped": fitted.stopped,
            **({} if people is None else write_people_tables(sample, gamma, fitted.calibrated, people, run)),
        }
        weak = [f"weak pool: {reason}" for reason in fitted.calibrated.weak]
        notes = [*fitted.notes, *weak, *notes]
        run.record(aggregate=summary, aggregate_notes=notes, notes=notes)
    return summary


def _fit(
    pool: OneShard | Shards,
    sample: ScoreMatrix,
    config: ConsensusConfig,
    gold: pd.DataFrame | None,
    noise: pd.DataFrame | None,
) -> Fit:
    em = build_em(config, noise)
    em.run(pool.step, pool.profile(), 0 if gold is None else len(gold))
    calibrated = fit_calibrated(sample)
    model, reliability = em.model_, em.parameters_
    if model is not None:
        share = len(sample.items) / pool.tasks
        intervals = bootstrap(model, Shard(sample, gold)).reliability(share=share)
        reliability = reliability.assign(ci_low=intervals["ci_low"], ci_high=intervals["ci_high"])
        past = None if gold is not None else pool.past(model.parameters)
        model = replace(model, past=past, calibrated=calibrated)
    return Fit(model, calibrated, reliability, em.stopped_, em.iterations_, em.notes_)


def _update(matrix: ScoreMatrix, saved: Saved) -> Fit:
    """`saved` with the scores of `matrix`; the calibrated consensus is kept where it knows all annotators."""
    old = ConsensusModel.load(saved.model)
    before = None if saved.before is None else read_table(saved.before, ANNOTATIONS).to_pandas()
    model = update(old, matrix, before)
    drift = drift_alarm(old, _unseen(matrix, before))
    calibrated = old.calibrated
    if calibrated is None or set(matrix.annotators) - set(calibrated.annotators):
        calibrated = fit_calibrated(matrix.align(model.annotators))
        model = replace(model, calibrated=calibrated)
    notes = [
        f"drift: the new scores of {row.annotator} differ from its past (p {row.p:.1g}); it may be another model now"
        for row in drift[drift["alarm"]].itertuples()
    ]
    return Fit(model, calibrated, model.reliability(), model.stopped, model.iterations, notes, drift)


def _unseen(matrix: ScoreMatrix, before: pd.DataFrame | None) -> ScoreMatrix:
    """`matrix` without the scores of `before`."""
    if before is None:
        return matrix
    tasks = pd.MultiIndex.from_frame(matrix.task_frame())
    scores = matrix.scores.copy()
    known = before[before["annotator"].isin(matrix.annotators)]  # the others have left the pool
    for annotator, rows in known.dropna(subset=["score"]).groupby("annotator"):
        seen = tasks.isin(pd.MultiIndex.from_frame(rows[["item_id", "theory"]]))
        scores[matrix.annotators.index(str(annotator)), seen] = np.nan
    return replace(matrix, scores=scores)


def _noise(annotations: Path, repeats: Path) -> pd.DataFrame:
    """The `noise` table; of the annotations only the repeated items are read where the format allows."""
    again = read_table(repeats, ANNOTATIONS)
    if annotations.suffix == ".parquet":
        repeated = pc.field("item_id").isin(pc.unique(again["item_id"]))
        first = ds.dataset(annotations).to_table([*KEYS, "score"], filter=repeated)
    else:
        first = read_table(annotations, ANNOTATIONS)
    return measurement_noise(first.to_pandas(), again.to_pandas())


def _is_large(annotations: Path, config: ConsensusConfig) -> bool:
    with explained(annotations):
        return annotations.suffix == ".parquet" and pq.read_metadata(annotations).num_rows > config.shard_above


def build_em(config: ConsensusConfig, noise: pd.DataFrame | None) -> TruncatedNormalEM:
    """The EM of a config, with the noise of scores as the floor of every sigma."""
    floors = {} if noise is None else dict(zip(noise["annotator"], noise["noise_sd"], strict=True))
    return TruncatedNormalEM(**config.em.model_dump(), noise_sd=floors)


JOB = Job(
    "aggregate", __doc__, AggregateConfig, plan, execute, inputs=("annotations", "gold", "votes"), show=show_report
)

if __name__ == "__main__":
    sys.exit(main(JOB))
