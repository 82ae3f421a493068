"""Does tuning on people's votes make a model a better witness? Printed as Markdown.

    python -m tests.benchmarks.calibrated_witness --data ../shared/data --adapter RUN/adapter --work DIR

Five annotators on two small models judge two sets that nobody was tuned on, under commonsense: 116 moral foundation
vignettes (people's mean wrongness) and 148 of MoralExceptQA (the share of people who find the act acceptable). Then
SmolLM2 gives its place to the same model with an adapter tuned on Scruples' pairs. Differences have 95 % intervals by a
paired bootstrap over the items, the consensus as fitted.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from consilience.consensus import baselines
from consilience.consensus.calibrated import fit_calibrated
from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.people import against_people
from consilience.lm.annotators import CalibratedAnnotator, TransformersAnnotator
from consilience.lm.pool import annotator_digest, open_scorer
from consilience.theories import pick_theories
from tests.benchmarks.realign_pool import PERSONAS, SMOLLM2

Floats = NDArray[np.float64]

DRAWS = 1_000
RAW, TUNED = "smollm2", "smollm2, tuned"
BLOCK = 8


def em(matrix: ScoreMatrix) -> Floats:
    return TruncatedNormalEM().fit(matrix).gamma_


def calibrated(matrix: ScoreMatrix) -> Floats:
    return fit_calibrated(matrix).predict(matrix).consensus


METHODS: dict[str, Callable[[ScoreMatrix], Floats]] = {"mean": baselines.mean, "EM": em, "calibrated": calibrated}


def read_sets(data: Path) -> dict[str, tuple[list[str], Floats]]:
    """Texts and people's acceptability, 0..1, of each set."""
    vignettes = pd.read_csv(data / "mfv_open/matrix_open_label.csv")
    exceptions = pd.read_csv(data / "moralexceptqa/matrix_models.csv")
    return {
        "moral foundation vignettes": (
            vignettes["text"].tolist(),
            1.0 - vignettes["human_wrong_mean"].to_numpy(dtype=np.float64) / 4.0,
        ),
        "MoralExceptQA": (exceptions["scenario"].tolist(), exceptions["human_response"].to_numpy(dtype=np.float64)),
    }


def score(texts: list[str], adapter: Path, work: Path, name: str) -> dict[str, Floats]:
    """(n,) scores of every annotator; kept in `work`."""
    blocks: list[TransformersAnnotator | CalibratedAnnotator] = [
        TransformersAnnotator(annotator=annotator, kind="transformers", source=source, persona=persona)
        for annotator, (source, persona) in PERSONAS.items()
    ]
    blocks.append(CalibratedAnnotator(annotator="tuned", kind="calibrated", source=SMOLLM2, adapter=adapter))
    scores = {}
    for block in blocks:
        path = work / f"{name.replace(' ', '_')}-{block.annotator}-{annotator_digest(block)[:12]}.npy"
        if not path.exists():
            scorer = open_scorer(block, work)
            theory = pick_theories(["commonsense"])
            parts = [scorer.score(texts[k : k + BLOCK], theory).score[:, 0] for k in range(0, len(texts), BLOCK)]
            work.mkdir(parents=True, exist_ok=True)
            np.save(path, np.concatenate(parts))
        scores[TUNED if block.annotator == "tuned" else block.annotator] = np.load(path)
    return scores


def matrix_of(scores: dict[str, Floats]) -> ScoreMatrix:
    rows = np.stack(list(scores.values()))
    return ScoreMatrix.from_arrays(rows, list(scores), np.arange(rows.shape[1]), ["commonsense"] * rows.shape[1])


def change(before: Floats, after: Floats, people: Floats) -> str:
    """Change of r, MAE and CE with intervals."""
    draws = np.random.default_rng(0).integers(0, len(people), (DRAWS, len(people)))
    cells = []
    for key in ("r", "mae", "ce"):
        values = []
        for rows in [np.arange(len(people)), *draws]:
            pair = [against_people(consensus[rows], people[rows])[key] for consensus in (before, after)]
            values.append(np.nan if None in pair else pair[1] - pair[0])  # type: ignore[operator]
        low, high = np.nanquantile(values[1:], [0.025, 0.975])
        cells.append(f"{values[0]:+.3f} [{low:+.3f}, {high:+.3f}]")
    return " | ".join(cells)


def show(name: str, scores: dict[str, Floats], people: Floats) -> None:
    raw = {key: values for key, values in scores.items() if key != TUNED}
    tuned = {TUNED if key == RAW else key: scores[TUNED if key == RAW else key] for key in raw}
    pools = {"raw": raw, "tuned": tuned}
    print(f"\n{name}, {len(people)} items\n")
    print("| | r | MAE | CE | change of r | of MAE | of CE |\n|---|---|---|---|---|---|---|")
    for annotator in [*raw, TUNED]:
        found = against_people(scores[annotator], people)
        changed = change(scores[RAW], scores[TUNED], people) if annotator == TUNED else " | | "
        print(f"| {annotator} | {' | '.join(f'{found[key]:.3f}' for key in ('r', 'mae', 'ce'))} | {changed} |")
    for method, consensus in METHODS.items():
        both = {pool: consensus(matrix_of(members)) for pool, members in pools.items()}
        for pool, values in both.items():
            found = against_people(values, people)
            changed = change(both["raw"], both["tuned"], people) if pool == "tuned" else " | | "
            figures = " | ".join("" if found[key] is None else f"{found[key]:.3f}" for key in ("r", "mae", "ce"))
            print(f"| {method}, {pool} pool | {figures} | {changed} |")
    print("\n| reliability in the pool (EM) | mean where acceptable | where not | informativeness |\n|---|---|---|---|")
    for pool, annotator in (("raw", RAW), ("tuned", TUNED)):
        table = TruncatedNormalEM().fit(matrix_of(pools[pool])).model_.reliability()
        row = table[table["annotator"] == annotator].iloc[0]
        print(f"| {annotator} | {row['mean1']:.3f} | {row['mean0']:.3f} | {row['informativeness']:.3f} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    options = parser.parse_args()
    for name, (texts, people) in read_sets(options.data).items():
        show(name, score(texts, options.adapter, options.work, name), people)


if __name__ == "__main__":
    main()
