"""Aggregate: one consensus per dilemma and theory from many annotators' scores, with each one's reliability.

Small tables are fitted in this process; large ones by shard actors that run the very same pass. Needs only
`item_id, theory, annotator, score`, or a matrix with a column per annotator.
"""

import sys
import time
from collections.abc import Callable
from functools import reduce
from operator import add
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from pydantic import Field, model_validator

from actors.cluster import connect, gather
from actors.em_shard import EMShard, names_in
from consilience.config import Config
from consilience.consensus.agreement import effective_annotators, error_correlation, krippendorff_alpha
from consilience.consensus.baselines import mean
from consilience.consensus.calibrated import CalibratedModel, fit_calibrated
from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.influence import MIN_ANNOTATORS, influence
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.misalignment import alignment_table, f1_score
from consilience.consensus.outcome import outcome
from consilience.consensus.people import against_people
from consilience.consensus.posterior import Shard
from consilience.datasets.matrix import read_matrix
from consilience.datasets.votes import human_share
from consilience.errors import UserError
from consilience.files import atomic_path, digest_file, digest_json
from consilience.runs import Run
from consilience.tables import (
    ALIGNMENT,
    ANNOTATIONS,
    CONSENSUS,
    GOLD,
    INFLUENCE,
    RELIABILITY,
    VOTES,
    iterate_parquet,
    read_table,
    write_table,
)
from jobs.cli import Job, Summary, main, show_report

SAMPLE = 20_000
"""Tasks on which agreement and influence are measured where the table is too large for one process."""


class EMConfig(Config):
    """The truncated-normal EM; see `consilience.consensus.em`."""

    prior: Literal["global", "per_theory"] | Annotated[float, Field(gt=0, lt=1)] = "global"
    parameters: Literal["pooled", "per_theory"] = "pooled"
    mstep: Literal["exact", "naive"] = "exact"
    kappa: float = Field(2.0, gt=0, description="pseudo-scores of MAP smoothing")
    tolerance: float = Field(1e-7, gt=0, description="change of the objective per task at which to stop")
    max_iterations: int = Field(300, ge=1)


class ConsensusConfig(Config):
    """How a table of annotations becomes a consensus."""

    em: EMConfig = Field(EMConfig(), description="prior, parameters, mstep, kappa, tolerance, max_iterations")
    tau: float = Field(0.5, gt=0, lt=1, description="threshold at which score and consensus become labels")
    gold: Path | None = Field(None, description="gold table: its labels are fixed in the fit")
    votes: Path | None = Field(None, description="people's votes: the consensus is compared with their shares")
    shard_above: int = Field(10_000_000, ge=0, description="rows of a Parquet table above which shard actors fit it")
    shards: int | None = Field(None, ge=1, description="shard actors; default one per CPU of the cluster")


class AggregateConfig(ConsensusConfig):
    """A table of annotations, long or wide."""

    annotations: Path = Field(description="annotations table, or a matrix if item_column is set")
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
        return self


def plan(config: AggregateConfig) -> list[str]:
    """Check that the inputs are there; say what would be done."""
    check_inputs(config.annotations, config.gold, config.votes)
    shape = "matrix" if config.item_column else "table"
    return [f"aggregate the {shape} {config.annotations} by EM ({config.em.mstep} M-step, prior {config.em.prior})"]


def check_inputs(*paths: Path | None) -> None:
    """Raise UserError for the first path that is not a file."""
    for path in paths:
        if path is not None and not path.is_file():
            raise UserError(f"{path}: no such file")


def execute(config: AggregateConfig, run: Run) -> Summary:
    """Read the annotations, fit, and write the tables of a consensus."""
    run.record(inputs={str(config.annotations): digest_file(config.annotations)})
    if config.item_column is None or config.annotator_columns is None:
        return aggregate(config.annotations, config, run)
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
    return aggregate(run / "annotations.parquet", config, run, people)


def aggregate(annotations: Path, config: ConsensusConfig, run: Run, people: pa.Table | None = None) -> Summary:
    """Fit the annotations table and write consensus, reliability, alignment, influence and the model.

    Args:
        annotations: the table; Parquet above `shard_above` rows is fitted by shard actors.
        config: how to fit.
        run: the run folder.
        people: people's shares as a gold table, to compare the consensus with.
    """
    options = config.model_dump(mode="json", include=set(ConsensusConfig.model_fields))
    inputs = [digest_file(path) for path in (annotations, config.gold, config.votes) if path is not None]
    fingerprint = digest_json([inputs, options, people.to_pylist() if people is not None else None])
    if run.finished("aggregate", fingerprint, "consensus.parquet", "reliability.parquet", "alignment.parquet"):
        return {**run.manifest["aggregate"]}
    if config.votes is not None:
        people = human_share(read_table(config.votes, VOTES), str(config.votes))
    gold = None if config.gold is None else read_table(config.gold, GOLD).to_pandas()
    started = time.monotonic()
    with run.stage("aggregate", fingerprint):
        em = _em(config.em)
        pool = _Shards(annotations, gold, config) if _is_large(annotations, config) else _OneShard(annotations, gold)
        em.run(pool.step, pool.profile(), 0 if gold is None else len(gold))
        sample = pool.sample()
        calibrated = fit_calibrated(sample)
        against_em, against_mean = pool.outcome(em, calibrated, config.tau, run / "consensus.parquet")
        seconds = time.monotonic() - started
        alignment = alignment_table(against_em, pool.annotators, pool.theories)
        alignment["f1_mean"] = f1_score(against_mean).ravel()
        _write(alignment, run / "alignment.parquet", ALIGNMENT)
        _write(em.parameters_, run / "reliability.parquet", RELIABILITY)
        if em.model_ is not None:
            em.model_.save(run / "consensus_model.json")
        if len(sample.annotators) >= MIN_ANNOTATORS:
            write_table(
                influence(sample, lambda part: _em(config.em).fit(part).gamma_), run / "influence.parquet", INFLUENCE
            )
        summary: Summary = {
            "items": pool.items(),
            "annotators": len(pool.annotators),
            "effective_annotators": _known(effective_annotators(error_correlation(sample, _reference(em, sample)))),
            "krippendorff_alpha": _known(krippendorff_alpha(sample)),
            "calibrated_trust": round(calibrated.trust, 4),
            "calibrated_reliability": round(calibrated.reliability, 4),
            "flagged": int(alignment["flagged"].sum()),
            "iterations": em.iterations_,
            "seconds": round(seconds, 3),
            "converged": em.stopped_ == "converged",
            "stopped": em.stopped_,
            **_people_figures(run / "consensus.parquet", people),
        }
        run.record(aggregate=summary, notes=[*em.notes_, *(f"weak pool: {reason}" for reason in calibrated.weak)])
    return summary


class _OneShard:
    """The whole table in this process."""

    def __init__(self, annotations: Path, gold: pd.DataFrame | None) -> None:
        self._shard = Shard(ScoreMatrix.from_frame(read_table(annotations, ANNOTATIONS).to_pandas()), gold)
        self.annotators, self.theories = self._shard.matrix.annotators, self._shard.matrix.theories
        self.step, self.profile = self._shard.step, self._shard.profile

    def outcome(self, em: TruncatedNormalEM, calibrated: CalibratedModel, tau: float, out: Path) -> tuple[Any, Any]:
        matrix = self._shard.matrix
        gamma = mean(matrix) if em.model_ is None else self._shard.posterior(em.model_.parameters)
        found = outcome(matrix, gamma, calibrated, tau)
        _write(found.table, out, CONSENSUS)
        return found.against_em, found.against_mean

    def sample(self) -> ScoreMatrix:
        return self._shard.matrix

    def items(self) -> int:
        return len(set(self._shard.matrix.items))


class _Shards:
    """The table spread by item over shard actors; the driver sees a few kilobytes per pass."""

    def __init__(self, annotations: Path, gold: pd.DataFrame | None, config: ConsensusConfig) -> None:
        connect()
        self.annotators, self.theories = names_in(annotations)
        count = config.shards or max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]
        where = annotations.absolute()
        self._actors = [
            EMShard.remote(  # type: ignore[attr-defined]
                where, shard, count, self.annotators, self.theories, gold
            )
            for shard in range(count)
        ]

    def _all(self, call: Callable[[Any], Any]) -> list[Any]:
        return gather([call(actor) for actor in self._actors])

    def step(self, parameters: Any) -> Any:
        return reduce(add, self._all(lambda actor: actor.step.remote(parameters)))

    def profile(self) -> Any:
        return reduce(add, self._all(lambda actor: actor.profile.remote()))

    def outcome(self, em: TruncatedNormalEM, calibrated: CalibratedModel, tau: float, out: Path) -> tuple[Any, Any]:
        if em.model_ is None:
            raise UserError("two annotators: nothing to weigh; raise shard_above to have their mean")
        parameters = em.model_.parameters
        parts = [out.with_name(f".consensus-{shard}.parquet").absolute() for shard in range(len(self._actors))]
        counts = gather(
            [
                actor.outcome.remote(parameters, calibrated, tau, part)
                for actor, part in zip(self._actors, parts, strict=True)
            ]
        )
        with (
            atomic_path(out) as temporary,
            pq.ParquetWriter(temporary, pq.read_schema(parts[0]), compression="zstd") as file,
        ):
            for part in parts:
                for table in iterate_parquet(part):
                    file.write_table(table)
                part.unlink()
        return tuple(reduce(add, column) for column in zip(*counts, strict=True))

    def sample(self) -> ScoreMatrix:
        parts = self._all(lambda actor: actor.sample.remote(SAMPLE // len(self._actors)))
        theories = [theory for part in parts for theory in np.repeat(part.theories, np.diff(part.offsets))]
        items, scores = (
            np.concatenate([part.items for part in parts]),
            np.concatenate([p.scores for p in parts], axis=1),
        )
        order = np.argsort(items.astype(str), kind="stable")
        return ScoreMatrix.from_arrays(scores[:, order], self.annotators, items[order], [theories[i] for i in order])

    def items(self) -> int:
        return sum(self._all(lambda actor: actor.items.remote()))


def _is_large(annotations: Path, config: ConsensusConfig) -> bool:
    return annotations.suffix == ".parquet" and pq.read_metadata(annotations).num_rows > config.shard_above


def _em(config: EMConfig) -> TruncatedNormalEM:
    return TruncatedNormalEM(**config.model_dump())


def _reference(em: TruncatedNormalEM, matrix: ScoreMatrix) -> npt.NDArray[np.float64]:
    """The fitted consensus on the tasks of `matrix`; their mean where there are two annotators only."""
    return mean(matrix) if em.model_ is None else em.model_.predict(matrix)["consensus"].to_numpy()


def _write(frame: pd.DataFrame, path: Path, schema: Any) -> None:
    write_table(pa.Table.from_pandas(frame, preserve_index=False), path, schema)


def _known(value: float) -> float | None:
    return None if np.isnan(value) else round(value, 4)


def _people_figures(consensus: Path, people: pa.Table | None) -> Summary:
    """r, mae and ce of mean, EM and calibrated against people's shares, where these are known."""
    if people is None:
        return {}
    labels = people.to_pandas().set_index(["item_id", "theory"])["label"]
    columns = {"mean": "mean", "em": "consensus", "calibrated": "calibrated"}
    frame = pq.read_table(consensus, columns=["item_id", "theory", *columns.values()]).to_pandas()
    share = labels.reindex(pd.MultiIndex.from_frame(frame[["item_id", "theory"]])).to_numpy()
    figures = {name: against_people(frame[column].to_numpy(), share) for name, column in columns.items()}
    return {
        f"{measure}_{name}": None if value is None else round(value, 4)
        for name, measures in figures.items()
        for measure, value in measures.items()
    }


JOB = Job(
    "aggregate", __doc__, AggregateConfig, plan, execute, inputs=("annotations", "gold", "votes"), show=show_report
)

if __name__ == "__main__":
    sys.exit(main(JOB))
