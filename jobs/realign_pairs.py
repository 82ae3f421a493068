"""Which pairs of a finished run are realigned, and towards what."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd
from pydantic import TypeAdapter

from consilience.config import parse_config
from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.misalignment import worst_flagged
from consilience.errors import UserError
from consilience.lm.annotators import AnnotatorConfig, RealignedAnnotator, TransformersAnnotator
from consilience.realign.gate import GateReport, assess
from consilience.realign.pair import Pair
from consilience.realign.settings import RealignOptions, named_pair
from consilience.realign.split import split_items
from consilience.realign.target import leave_one_out
from consilience.runs import read_manifest
from consilience.table_schema import read_table
from consilience.tables import ALIGNMENT, ANNOTATIONS, DILEMMAS, GOLD, NOISE
from consilience.theories import THEORY_NAMES
from jobs.aggregate import ConsensusConfig, build_em


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
    noise: pd.DataFrame | None

    def em(self) -> TruncatedNormalEM:
        """An EM as the run's own was set."""
        return build_em(self.consensus, self.noise)


@dataclass(frozen=True, eq=False)
class Case:
    """One pair on its way.

    Attributes:
        annotator, theory: the pair.
        gate: how strong the consensus of the others is.
        items: ids of the items that the annotator and the others have judged.
        raw: (n,) the annotator's scores of them.
        pair: what is to be trained, with the frozen target.
    """

    annotator: TransformersAnnotator
    theory: str
    gate: GateReport
    items: list[str]
    raw: npt.NDArray[np.float64]
    pair: Pair

    @property
    def name(self) -> str:
        return f"{self.annotator.annotator}-{self.theory}"


def read_finished(folder: Path) -> Finished:
    """Read a run that has a pool, annotations and their consensus.

    Raises:
        UserError: it has not.
    """
    manifest = read_manifest(folder)
    settings = manifest.get("config", {})
    if "pool" not in settings or "aggregate" not in manifest.get("stages", {}):
        raise UserError(f"{folder}: a run of job '{manifest['job']}'; expected a finished run of pipeline")
    blocks: list[AnnotatorConfig] = [TypeAdapter(AnnotatorConfig).validate_python(block) for block in settings["pool"]]
    keys = {key: settings[key] for key in ConsensusConfig.model_fields if key in settings}
    consensus = parse_config(ConsensusConfig, keys, f"{folder / 'manifest.json'}: config")
    repeats, noise = folder / "repeats.parquet", folder / "noise.parquet"
    if consensus.repeats is None and repeats.is_file():  # as the pipeline took it
        consensus = consensus.model_copy(update={"repeats": repeats})
    dilemmas = read_table(folder / "dilemmas.parquet", DILEMMAS)
    return Finished(
        folder=folder,
        pool={block.annotator: block for block in blocks},
        consensus=consensus,
        annotations=read_table(folder / "annotations.parquet", ANNOTATIONS).to_pandas(),
        texts=dict(zip(dilemmas["item_id"].to_pylist(), dilemmas["text"].to_pylist(), strict=True)),
        alignment=read_table(folder / "alignment.parquet", ALIGNMENT).to_pandas(),
        gold=None if consensus.gold is None else read_table(consensus.gold, GOLD).to_pandas(),
        noise=read_table(noise, NOISE).to_pandas() if noise.is_file() else None,
    )


def choose_pairs(finished: Finished, wanted: str | Sequence[str]) -> list[tuple[str, str]]:
    """(annotator, theory), the lowest F1 first.

    Raises:
        UserError: a pair is named that does not exist or cannot be realigned.
    """
    pool = finished.pool
    if not isinstance(wanted, str):
        return [named_pair(name, pool, THEORY_NAMES) for name in wanted]
    able = [name for name, block in pool.items() if isinstance(block, TransformersAnnotator)]
    alignment = finished.alignment
    rows = worst_flagged(alignment[alignment["annotator"].isin(able) & alignment["theory"].isin(THEORY_NAMES)])
    pairs = list(rows[["annotator", "theory"]].itertuples(index=False, name=None))
    return pairs[:1] if wanted == "worst" else pairs


def prepare(finished: Finished, name: str, theory: str, options: RealignOptions, seed: int) -> Case:
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
    return Case(annotator, theory, gate, items, own[items].to_numpy(dtype=np.float64), pair)
