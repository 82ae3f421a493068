"""Realign: pull misaligned models back to the consensus of the others by their theory's tokens alone.

Takes a finished run with a consensus, trains theory tokens and a head for the flagged (annotator, theory) pairs, judges
them on held-out items, and finds the consensus again with the realigned models in their parents' place.
"""

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from pydantic import Field, TypeAdapter

from actors.cluster import connect, gather
from actors.realign_worker import Trained, read_trained, train_pair, tune_pair
from consilience.config import parse_config
from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.misalignment import worst_flagged
from consilience.errors import UserError
from consilience.files import digest_file, digest_json, write_json
from consilience.lm.annotators import AnnotatorConfig, RealignedAnnotator, TransformersAnnotator
from consilience.lm.pool import annotator_digest, check, describe
from consilience.lm.scorer import OK
from consilience.lm.sources import open_source
from consilience.realign.artefact import Artefact, Description
from consilience.realign.certificate import KEPT, RAW, HeldOut, before_after, judge, verdict
from consilience.realign.gate import GateReport, assess
from consilience.realign.pair import Pair
from consilience.realign.settings import RealignOptions, TrainingConfig
from consilience.realign.split import split_items
from consilience.realign.target import Target, leave_one_out
from consilience.realign.training import HEAD, LAMBDA0, TOKENS
from consilience.runs import Run, read_manifest
from consilience.tables import (
    ALIGNMENT,
    ANNOTATIONS,
    ANNOTATORS,
    DILEMMAS,
    GOLD,
    REALIGNED_F1,
    REALIGNMENT,
    read_table,
    write_table,
)
from consilience.theories import THEORY_NAMES
from jobs.aggregate import ConsensusConfig, aggregate
from jobs.cli import Job, Summary, main, show_report

STOPPED = "stopped"
_ARMS = (RAW, HEAD, TOKENS, LAMBDA0)


class RealignConfig(RealignOptions):
    """A finished run of the pipeline, and what to realign in it."""

    run: Path = Field(description="run folder with annotations and their consensus")
    seed: int = Field(0, description="of splits, heads, batches and bootstraps")


@dataclass(frozen=True, eq=False)
class Finished:
    """A finished consensus run, read."""

    folder: Path
    pool: dict[str, AnnotatorConfig]
    consensus: ConsensusConfig
    annotations: pd.DataFrame
    texts: dict[str, str]
    alignment: pd.DataFrame
    gold: pd.DataFrame | None

    def em(self) -> TruncatedNormalEM:
        """An EM as the run's own was set."""
        return TruncatedNormalEM(**self.consensus.em.model_dump())


@dataclass(frozen=True, eq=False)
class Case:
    """One pair on its way: what it is pulled towards, and whether it goes on."""

    annotator: TransformersAnnotator
    theory: str
    target: Target
    gate: GateReport
    items: list[str]
    raw: np.ndarray[Any, np.dtype[np.float64]]
    pair: Pair

    @property
    def name(self) -> str:
        return f"{self.annotator.annotator}-{self.theory}"


def plan(config: RealignConfig) -> list[str]:
    """Check the run and say which pairs would be realigned."""
    finished = read_finished(config.run)
    return plan_pairs(choose_pairs(finished, config.pairs), finished.pool)


def plan_pairs(pairs: Sequence[tuple[str, str]], pool: dict[str, AnnotatorConfig]) -> list[str]:
    """What would be done with `pairs`."""
    for name, _ in pairs:
        check(pool[name])
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
    # Here, because plotting takes seconds to import and a dry run needs none of it.
    from consilience.report.page import write_report

    write_report(run / "realigned")
    return {name: summary[name] for name in summary if name in _FIGURES}


def read_finished(folder: Path) -> Finished:
    """Read a run that has a pool, annotations and their consensus.

    Raises:
        UserError: it has not, or is not finished.
    """
    manifest = read_manifest(folder)
    settings = manifest.get("config", {})
    if "pool" not in settings or not (folder / "alignment.parquet").exists():
        raise UserError(f"{folder}: a run of job '{manifest['job']}'; expected a finished run of pipeline")
    blocks: list[AnnotatorConfig] = [TypeAdapter(AnnotatorConfig).validate_python(block) for block in settings["pool"]]
    keys = {key: settings[key] for key in ConsensusConfig.model_fields if key in settings}
    consensus = parse_config(ConsensusConfig, keys, f"{folder / 'manifest.json'}: config")
    dilemmas = read_table(folder / "dilemmas.parquet", DILEMMAS)
    return Finished(
        folder=folder,
        pool={block.annotator: block for block in blocks},
        consensus=consensus,
        annotations=read_table(folder / "annotations.parquet", ANNOTATIONS).to_pandas(),
        texts=dict(zip(dilemmas["item_id"].to_pylist(), dilemmas["text"].to_pylist(), strict=True)),
        alignment=read_table(folder / "alignment.parquet", ALIGNMENT).to_pandas(),
        gold=None if consensus.gold is None else read_table(consensus.gold, GOLD).to_pandas(),
    )


def choose_pairs(finished: Finished, wanted: str | Sequence[str]) -> list[tuple[str, str]]:
    """(annotator, theory), the lowest F1 first.

    Raises:
        UserError: a pair is named that does not exist or cannot be realigned.
    """
    pool = finished.pool
    if not isinstance(wanted, str):
        return [_named_pair(name, pool) for name in wanted]
    able = [name for name, block in pool.items() if isinstance(block, TransformersAnnotator)]
    alignment = finished.alignment
    rows = worst_flagged(alignment[alignment["annotator"].isin(able) & alignment["theory"].isin(THEORY_NAMES)])
    pairs = list(rows[["annotator", "theory"]].itertuples(index=False, name=None))
    return pairs[:1] if wanted == "worst" else pairs


def _named_pair(name: str, pool: dict[str, AnnotatorConfig]) -> tuple[str, str]:
    annotator, _, theory = name.rpartition("/")
    if annotator not in pool or theory not in THEORY_NAMES:
        raise UserError(f"pairs: '{name}': expected annotator/theory of the run, such as {next(iter(pool))}/justice")
    if not isinstance(pool[annotator], TransformersAnnotator):
        raise UserError(f"pairs: '{name}' is of kind {pool[annotator].kind}; only kind transformers can be realigned")
    return annotator, theory


def realign(source: Path, options: RealignOptions, seed: int, run: Run) -> Summary:
    """Realign pairs of the finished run in `source`; write tables, artefacts and the new consensus into `run`."""
    finished = read_finished(source)
    pairs = choose_pairs(finished, options.pairs)
    settings = options.model_dump(mode="json", include=set(RealignOptions.model_fields))
    digests = [annotator_digest(finished.pool[name]) for name, _ in pairs]
    fingerprint = digest_json([digest_file(source / "annotations.parquet"), settings, seed, pairs, digests])
    if run.finished("realign", fingerprint, "realignment.parquet", "realign.json", "annotations.parquet"):
        return {**run.manifest["realign"]}
    started = time.monotonic()
    with run.stage("realign", fingerprint):
        cases = [_prepare(finished, name, theory, options, seed) for name, theory in pairs]
        going = [case for case in cases if case.gate.passed or options.force]
        trained = dict(zip(map(id, going), _train(going, options, run, fingerprint[:12]), strict=True))
        results = [_conclude(case, trained.get(id(case)), finished, options, run) for case in cases]
        _write_pool(results, finished, run)
        found = aggregate(run / "annotations.parquet", finished.consensus, run)
        summary = {**found, **_headline(results), "realign_seconds": round(time.monotonic() - started, 3)}
        notes = [note for result in results for note in result.notes] or ["no flagged pair can be realigned"]
        run.record(realign=summary, notes=[*run.manifest.get("notes", []), *notes])
    return summary


def _prepare(finished: Finished, name: str, theory: str, options: RealignOptions, seed: int) -> Case:
    """Freeze the target, measure it, split the items."""
    annotator = finished.pool[name]
    assert isinstance(annotator, TransformersAnnotator)
    descendants = [
        b.annotator for b in finished.pool.values() if isinstance(b, RealignedAnnotator) and b.parent == name
    ]
    target = leave_one_out(finished.annotations, name, finished.em(), descendants, finished.gold)
    aims = target.of(theory)
    rows = finished.annotations
    own = rows[(rows["annotator"] == name) & (rows["theory"] == theory)].set_index("item_id")["score"].dropna()
    items = [item for item in aims.index if item in own.index]
    pair = Pair(
        annotator=annotator,
        theory=theory,
        texts=[finished.texts[item] for item in items],
        targets=aims[items].to_numpy(dtype=np.float64),
        splits=split_items(len(items), options.split, seed),
        seed=seed,
    )
    gate = assess(target, theory, options.gate, seed)
    return Case(annotator, theory, target, gate, items, own[items].to_numpy(dtype=np.float64), pair)


def _train(
    cases: Sequence[Case], options: RealignOptions, run: Run, version: str
) -> list[tuple[Trained, TrainingConfig]]:
    """Train all cases, side by side where the cluster has room."""
    if not cases:
        return []
    connect()
    storage = (run / "training").absolute()
    settings = [options.training] * len(cases)
    if options.tune is not None:
        settings = [
            tune_pair(
                case.pair, options.training, options.workers, options.tune, storage, f"tune-{case.name}-{version}"
            )
            for case in cases
        ]
    folders = gather(
        [
            train_pair.remote(case.pair, chosen, options.workers, storage, f"{case.name}-{version}")
            for case, chosen in zip(cases, settings, strict=True)
        ]
    )
    return [(read_trained(folder), chosen) for folder, chosen in zip(folders, settings, strict=True)]


@dataclass(frozen=True, eq=False)
class Result:
    """What became of one pair: its row of `realignment`, its rows of `realigned_f1`, its part of `realign.json`.

    `rows` are the realigned annotator's annotations under the theory, `artefact` is where its tokens lie; None where
    there is nothing to keep.
    """

    case: Case
    row: dict[str, Any]
    f1: pd.DataFrame | None
    detail: dict[str, Any]
    rows: pd.DataFrame | None
    artefact: Path | None
    notes: list[str]


def _conclude(
    case: Case,
    trained: tuple[Trained, TrainingConfig] | None,
    finished: Finished,
    options: RealignOptions,
    run: Run,
) -> Result:
    """Judge a pair on its held-out items and write its artefact."""
    name = case.annotator.annotator
    row: dict[str, Any] = {"annotator": name, "theory": case.theory, "items": len(case.items)}
    detail: dict[str, Any] = {"annotator": name, "theory": case.theory, "gate": asdict(case.gate)}
    if trained is None:
        reason = "; ".join(case.gate.reasons)
        note = f"{name} is not realigned under {case.theory}, the consensus of the others is too weak: {reason}"
        return Result(case, {**row, "verdict": STOPPED, "reason": reason}, None, detail, None, None, [note])
    outcome, settings = trained
    tau = finished.consensus.tau
    scores = {RAW: case.raw, **outcome.predictions}
    held_out = judge(scores, case.pair.targets, tau, case.pair.seed)
    rows = _realigned_rows(case, outcome, finished)
    judged = np.array(case.items, dtype=object)[~np.isnan(outcome.predictions[TOKENS])]
    f1 = _before_after(case, rows, finished, judged)
    others = f1[(f1["annotator"] != name) | (f1["theory"] != case.theory)]
    final, reasons = verdict(held_out, others)
    detail |= {
        "held_out": asdict(held_out),
        "settings": settings.model_dump(mode="json"),
        "audits": outcome.audits,
        "history": outcome.history,
    }
    path = run / "artefacts" / f"{case.name}.safetensors"
    size = _artefact(case, outcome, settings, held_out, final).save(path)
    row |= {
        "verdict": final,
        "reason": "; ".join(reasons) or None,
        "held_out": held_out.items,
        **{f"{what}_{arm}": getattr(held_out, what)[arm].value for what in ("f1", "js") for arm in _ARMS},
        **{f"{what}{end}": getattr(getattr(held_out, what), key) for what in _GAINS for end, key in _ENDS.items()},
        "artefact": str(path.relative_to(run.folder)),
        "artefact_bytes": size,
    }
    gain = held_out.f1_gain
    note = (
        f"{name} under {case.theory}, {held_out.items} held-out items: {final}. F1 raw {held_out.f1[RAW].value:.2f}, "
        f"head alone {held_out.f1[HEAD].value:.2f}, head and tokens {held_out.f1[TOKENS].value:.2f}; the tokens' own "
        f"part {gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"
    )
    kept = final == KEPT
    return Result(case, row, f1, detail, rows if kept else None, path if kept else None, [note])


_GAINS = ("f1_gain", "js_gain", "f1_gain_raw", "js_gain_raw")
_ENDS = {"": "value", "_low": "low", "_high": "high"}


def _realigned_rows(case: Case, outcome: Trained, finished: Finished) -> pd.DataFrame:
    """The annotator's annotations under the theory, as realigned: what was held out is judged by who never saw it."""
    rows = finished.annotations
    own = rows[(rows["annotator"] == case.annotator.annotator) & (rows["theory"] == case.theory)]
    own = own.set_index("item_id")
    own.loc[case.items, "score"] = outcome.scores
    return own.reset_index().assign(status=OK, answer_mass=np.nan, fingerprint=None).dropna(subset=["score"])


def _before_after(
    case: Case, rows: pd.DataFrame, finished: Finished, judged: np.ndarray[Any, np.dtype[np.object_]]
) -> pd.DataFrame:
    """F1 of all against the joint consensus, without and with this pair realigned."""
    name = case.annotator.annotator
    before = finished.annotations
    keys = ["item_id", "theory", "annotator"]
    after = pd.concat(
        [before.loc[~pd.MultiIndex.from_frame(before[keys]).isin(pd.MultiIndex.from_frame(rows[keys]))], rows]
    )
    pools = []
    for frame in (before, after):
        matrix = ScoreMatrix.from_frame(frame)
        pools.append((matrix, finished.em().fit(matrix, finished.gold).gamma_))
    table = before_after(pools[0], pools[1], {name: name}, {case.theory: judged}, finished.consensus.tau)
    return table.assign(
        realigned=(table["annotator"] == name) & (table["theory"] == case.theory),
        pair_annotator=name,
        pair_theory=case.theory,
    )


def _artefact(case: Case, outcome: Trained, settings: TrainingConfig, held_out: HeldOut, final: str) -> Artefact:
    block = case.annotator
    files = open_source(block.source, block.revision)
    words = outcome.audits[TOKENS]["tokens"]
    about = Description(
        annotator=block.annotator,
        theory=case.theory,
        base_source=block.source,
        base_revision=block.revision,
        base_digest=files.digest,
        base_settings_digest=files.settings_digest,
        persona=block.persona,
        elicitation=block.elicitation,
        word=outcome.word,
        tokens=tuple(f"*{case.theory}_{k}" for k in range(len(words))),
        width=outcome.fit.rows.shape[1],
        head=settings.head,
        objective={"loss": "Bernoulli JS + cosine_weight * mean cosine distance", **settings.model_dump(mode="json")},
        data={
            "items": len(case.items),
            "texts": digest_json(list(case.pair.texts)),
            "targets": digest_json(case.pair.targets.tolist()),
        },
        certificate={"verdict": final, "gate": asdict(case.gate), **asdict(held_out)},
    )
    return Artefact(about, outcome.fit.rows, outcome.fit.head)


def _write_pool(results: Sequence[Result], finished: Finished, run: Run) -> None:
    """Tables of the pairs, and the pool with realigned annotators in their parents' place."""
    rows = [result.row for result in results]
    write_table(pa.Table.from_pylist(rows, schema=REALIGNMENT.arrow), run / "realignment.parquet", REALIGNMENT)
    f1 = [result.f1 for result in results if result.f1 is not None]
    if f1:
        table = pa.Table.from_pandas(pd.concat(f1), preserve_index=False)
        write_table(table, run / "realigned_f1.parquet", REALIGNED_F1)
    write_json(run / "realign.json", {"pairs": [result.detail for result in results]})
    kept: dict[str, list[Result]] = {}
    for result in results:
        if result.rows is not None:
            kept.setdefault(result.case.annotator.annotator, []).append(result)
    blocks = [_block(block, kept.get(name, []), run) for name, block in finished.pool.items()]
    annotators = pa.Table.from_pylist([describe(block) for block in blocks], schema=ANNOTATORS.arrow)
    write_table(annotators, run / "annotators.parquet", ANNOTATORS)
    dilemmas = read_table(finished.folder / "dilemmas.parquet", DILEMMAS)
    write_table(dilemmas, run / "dilemmas.parquet", DILEMMAS)
    frame = finished.annotations.set_index(["item_id", "theory", "annotator"])
    for found in kept.values():
        for result in found:
            assert result.rows is not None
            frame.update(result.rows.set_index(["item_id", "theory", "annotator"])[["score"]])
    frame = frame.reset_index()
    realigned = {name: block.annotator for name, block in zip(finished.pool, blocks, strict=True)}
    changed = frame["annotator"].isin(kept)
    frame["annotator"] = frame["annotator"].map(realigned)
    frame.loc[changed, [column for column in ("answer_mass", "fingerprint") if column in frame]] = None
    write_table(pa.Table.from_pandas(frame, preserve_index=False), run / "annotations.parquet", ANNOTATIONS)


def _block(block: AnnotatorConfig, kept: Sequence[Result], run: Run) -> AnnotatorConfig:
    """The annotator as it stands in the new pool."""
    if not kept or not isinstance(block, TransformersAnnotator):
        return block
    return RealignedAnnotator(
        **{**block.model_dump(), "kind": "realigned", "annotator": f"{block.annotator}@realigned"},
        parent=block.annotator,
        artefacts=tuple(result.artefact for result in kept if result.artefact is not None),
    )


_FIGURES = (
    *("pairs", "pairs_kept", "verdict", "artefact_bytes", "realign_seconds"),
    *(f"{what}_{arm}" for what in ("f1", "js") for arm in _ARMS),
    *_GAINS,
)


def _headline(results: Sequence[Result]) -> Summary:
    """Figures of the first pair, which had the lowest F1, and how many there were."""
    counts: Summary = {"pairs": len(results), "pairs_kept": sum(result.row["verdict"] == KEPT for result in results)}
    if not results:
        return counts
    row = results[0].row
    shown = {name: row.get(name) for name in _FIGURES if name not in (*counts, "realign_seconds")}
    return {**counts, **{name: round(value, 4) if isinstance(value, float) else value for name, value in shown.items()}}


JOB = Job("realign", __doc__, RealignConfig, plan, execute, inputs=("run",), show=show_report)

if __name__ == "__main__":
    sys.exit(main(JOB))
