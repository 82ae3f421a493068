"""What became of the pairs: judged, written as tables and artefacts, and put into the pool."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from actors.realign_worker import Trained
from consilience.consensus.matrix import ScoreMatrix
from consilience.files import digest_json, write_json
from consilience.lm.annotators import AnnotatorConfig, RealignedAnnotator, TransformersAnnotator
from consilience.lm.pool import describe
from consilience.lm.scorer import OK
from consilience.lm.sources import open_source
from consilience.realign.artefact import Artefact, Description
from consilience.realign.certificate import KEPT, RAW, HeldOut, before_after, judge, verdict
from consilience.realign.settings import TrainingConfig
from consilience.realign.training import HEAD, LAMBDA0, TOKENS
from consilience.runs import Run
from consilience.table_schema import read_table, write_table
from consilience.tables import ANNOTATIONS, ANNOTATORS, DILEMMAS, REALIGNED_F1, REALIGNMENT
from jobs.cli import Summary
from jobs.realign_pairs import Case, Finished
from jobs.run_tables import write_frame, write_rows

STOPPED = "stopped"
_ARMS = (RAW, HEAD, TOKENS, LAMBDA0)


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


def conclude(
    case: Case,
    trained: tuple[Trained, TrainingConfig] | None,
    finished: Finished,
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
    controls = {other for other, block in finished.pool.items() if block.kind == "synthetic"}
    others = f1[((f1["annotator"] != name) | (f1["theory"] != case.theory)) & ~f1["annotator"].isin(controls)]
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
    because = f" ({row['reason']})" if reasons else ""
    note = (
        f"{name} under {case.theory}, {held_out.items} held-out items: {final}{because}. "
        f"F1 raw {held_out.f1[RAW].value:.2f}, head alone {held_out.f1[HEAD].value:.2f}, "
        f"head and tokens {held_out.f1[TOKENS].value:.2f}; the tokens' own part "
        f"{gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]"
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


def _before_after(case: Case, rows: pd.DataFrame, finished: Finished, judged: npt.NDArray[np.object_]) -> pd.DataFrame:
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


def write_pool(results: Sequence[Result], finished: Finished, run: Run) -> None:
    """Tables of the pairs, and the pool with realigned annotators in their parents' place."""
    write_rows([result.row for result in results], run, REALIGNMENT)
    f1 = [result.f1 for result in results if result.f1 is not None]
    if f1:
        write_frame(pd.concat(f1), run, REALIGNED_F1)
    else:
        (run / "realigned_f1.parquet").unlink(missing_ok=True)
    write_json(run / "realign.json", {"pairs": [result.detail for result in results]})
    kept: dict[str, list[Result]] = {}
    for result in results:
        if result.rows is not None:
            kept.setdefault(result.case.annotator.annotator, []).append(result)
    blocks = [_block(block, kept.get(name, []), run) for name, block in finished.pool.items()]
    write_rows([describe(block) for block in blocks], run, ANNOTATORS)
    dilemmas = read_table(finished.folder / "dilemmas.parquet", DILEMMAS)
    write_table(dilemmas, run / "dilemmas.parquet", DILEMMAS)
    frame = finished.annotations.set_index(["item_id", "theory", "annotator"])
    for found in kept.values():
        for result in found:
            assert result.rows is not None
            frame.update(result.rows.set_index(["item_id", "theory", "annotator"])[["score"]])
    frame = frame.reset_index()
    realigned = {name: block.annotator for name, block in zip(finished.pool, blocks, strict=True)}
    renamed = frame["annotator"].isin(kept)
    by_head = pd.MultiIndex.from_frame(frame[["annotator", "theory"]]).isin(
        [(name, result.case.theory) for name, found in kept.items() for result in found]
    )
    for column, rows in (("fingerprint", renamed), ("answer_mass", by_head)):
        if column in frame:
            frame.loc[rows, column] = None
    frame["annotator"] = frame["annotator"].map(realigned)
    write_frame(frame, run, ANNOTATIONS)


def _block(block: AnnotatorConfig, kept: Sequence[Result], run: Run) -> AnnotatorConfig:
    """The annotator as it stands in the new pool."""
    if not kept or not isinstance(block, TransformersAnnotator):
        return block
    return RealignedAnnotator(
        **{**block.model_dump(), "kind": "realigned", "annotator": f"{block.annotator}@realigned"},
        parent=block.annotator,
        artefacts=tuple(result.artefact for result in kept if result.artefact is not None),
    )


FIGURES = (
    *("pairs", "pairs_kept", "verdict", "artefact_bytes", "realign_seconds"),
    *(f"{what}_{arm}" for what in ("f1", "js") for arm in _ARMS),
    *_GAINS,
)


def headline(results: Sequence[Result]) -> Summary:
    """Figures of the first pair (the one with the lowest F1, or the first of a list), and how many there were."""
    counts: Summary = {"pairs": len(results), "pairs_kept": sum(result.row["verdict"] == KEPT for result in results)}
    if not results:
        return counts
    row = results[0].row
    shown = {name: row.get(name) for name in FIGURES if name not in (*counts, "realign_seconds")}
    return {**counts, **{name: round(value, 4) if isinstance(value, float) else value for name, value in shown.items()}}
