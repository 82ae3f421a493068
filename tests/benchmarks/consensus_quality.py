"""How near each consensus comes to people, on clean and on spoilt pools: prints one Markdown table.

    python -m tests.benchmarks.consensus_quality --data ../shared/data

Sets (those absent are skipped): mfv_open under both elicitations, moralexceptqa and crowd_emotion against the column
of people or experts; moralstrength with a random half of its annotators as the pool and, per word, the mean of at least
two of the other half as the target (another half per seed).

Pools. `uniform` and `random01`: annotators answering uniformly in 0..1, or 0 or 1 at random, are ADDED until they are
30 or 50 % of the pool (50 %: as many as there were); each lacks the scores that a randomly drawn real one lacks.
`inverted`: 30 or 50 % of the real annotators, drawn at random, are SUBSTITUTED by 1 - their scores; at 50 % nothing in
the scores says which half is right.

Figures are means over the seeds. The last column compares `calibrated` with the best other column of its row by a
paired bootstrap over items (95 %, seeds averaged within each resample): `=` no difference shown, `+` better, `-` worse.
The best column is chosen on the same data, so the comparison leans against `calibrated`.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from consilience.consensus import baselines
from consilience.consensus.calibrated import fit_calibrated
from consilience.consensus.em import TruncatedNormalEM
from consilience.consensus.matrix import ScoreMatrix
from consilience.consensus.people import CLIP
from consilience.datasets.matrix import read_matrix
from consilience.datasets.ratings import read_gold, read_ratings

Floats = NDArray[np.float64]
Pool = tuple[Floats, Floats]  # (M, N) scores and (N,) people's means, NaN = missing

SEEDS = 5
RESAMPLES = 1000
CONDITIONS = [("clean", 0.0)] + [(kind, share) for kind in ("uniform", "random01", "inverted") for share in (0.3, 0.5)]
LOWER_IS_BETTER = {"r": False, "MAE": True, "CE": True}


def em(matrix: ScoreMatrix) -> Floats:
    return TruncatedNormalEM().fit(matrix).gamma_


def calibrated(matrix: ScoreMatrix) -> Floats:
    return fit_calibrated(matrix).predict(matrix).consensus


METHODS: dict[str, Callable[[ScoreMatrix], Floats]] = {
    "mean": baselines.mean,
    "median": baselines.median,
    "weighted": baselines.weighted_mean,
    "EM": em,
    "Dawid-Skene": baselines.dawid_skene,
    "best single": baselines.best_single,
    "calibrated": calibrated,
}


def as_pool(annotations: pd.DataFrame, gold: pd.DataFrame) -> Pool:
    wide = annotations.pivot(index="annotator", columns="item_id", values="score")
    people = gold.set_index("item_id")["label"].reindex(wide.columns)
    return wide.to_numpy(dtype=np.float64), people.to_numpy(dtype=np.float64)


def mfv_open(data: Path, elicitation: str) -> Pool:
    path = data / "mfv_open" / f"matrix_open_{elicitation}.csv"
    annotations, gold = read_matrix(
        path, "item_id", "after:pct_not_wrong", (0, 4), "wrong", "commonsense", "human_wrong_mean"
    )
    assert gold is not None
    return as_pool(annotations.to_pandas(), gold.to_pandas())


def moralexceptqa(data: Path) -> Pool:
    path = data / "moralexceptqa" / "matrix_models.csv"
    annotations, gold = read_matrix(
        path, "scenario", "after:human_response", (0, 1), "acceptable", "commonsense", "human_response"
    )
    assert gold is not None
    return as_pool(annotations.to_pandas(), gold.to_pandas())


def crowd_emotion(data: Path) -> Pool:
    folder, scale = data / "crowd_emotion", (-100, 100)
    answers = read_ratings(
        folder / "emotion_answer.csv", ["question"], "worker", "answer", scale, "acceptable", "commonsense"
    )
    truth = read_gold(folder / "emotion_truth.csv", ["question"], "truth", scale, "acceptable", "commonsense")
    return as_pool(answers.to_pandas(), truth.to_pandas())


def moralstrength(data: Path, seed: int) -> Pool:
    path = data / "moralstrength" / "filtered_annotators.csv"
    ratings = read_ratings(
        path, ["TRAIT", "WORD"], "ANNOTATOR_ID", "EXPRESSED_MORAL", (1, 9), "acceptable", "commonsense"
    ).to_pandas()
    annotators = np.random.default_rng(seed).permutation(np.sort(ratings["annotator"].unique()))
    inside = ratings["annotator"].isin(annotators[: len(annotators) // 2])
    target = ratings[~inside].groupby("item_id")["score"].agg(["mean", "size"]).query("size >= 2")["mean"]
    return as_pool(ratings[inside], target.rename("label").reset_index())


SETS: dict[str, tuple[str, Callable[[Path, int], Pool]]] = {
    "mfv_open label": ("mfv_open", lambda data, seed: mfv_open(data, "label")),
    "mfv_open greedy": ("mfv_open", lambda data, seed: mfv_open(data, "greedy")),
    "moralexceptqa": ("moralexceptqa", lambda data, seed: moralexceptqa(data)),
    "crowd_emotion": ("crowd_emotion", lambda data, seed: crowd_emotion(data)),
    "moralstrength": ("moralstrength", moralstrength),
}


def spoil(scores: Floats, kind: str, share: float, random: np.random.Generator) -> Floats:
    """The pool with `share` of its annotators added as noise, or substituted by their inverse."""
    annotators, tasks = scores.shape
    if kind == "clean":
        return scores
    if kind == "inverted":
        out = scores.copy()
        chosen = random.permutation(annotators)[: round(share * annotators)]
        out[chosen] = 1.0 - out[chosen]
        return out
    added = round(share / (1.0 - share) * annotators)
    noise = random.random((added, tasks))
    if kind == "random01":
        noise = np.round(noise)
    noise[np.isnan(scores[random.integers(annotators, size=added)])] = np.nan
    return np.vstack([scores, noise])


def matrix_of(scores: Floats) -> ScoreMatrix:
    annotators, tasks = scores.shape
    names = [f"a{m}" for m in range(annotators)]
    return ScoreMatrix.from_arrays(scores, names, np.arange(tasks), ["commonsense"] * tasks)


def figures(consensus: Floats, people: Floats, counts: Floats) -> dict[str, Floats]:
    """r, MAE and CE under each row of `counts` (B, n), how often every item is drawn."""
    p = np.clip(consensus, CLIP, 1.0 - CLIP)
    entropy = -people * np.log(p) - (1.0 - people) * np.log1p(-p)
    n = counts.sum(1)
    c, h = consensus - consensus.mean(), people - people.mean()
    mean_c, mean_h = counts @ c / n, counts @ h / n
    variance = (counts @ c**2 / n - mean_c**2) * (counts @ h**2 / n - mean_h**2)
    covariance = counts @ (c * h) / n - mean_c * mean_h
    r = np.where(variance > 1e-15, covariance / np.sqrt(np.maximum(variance, 1e-15)), 0.0)
    return {"r": r, "MAE": counts @ np.abs(consensus - people) / n, "CE": counts @ entropy / n}


def row(pools: list[Pool]) -> Iterator[tuple[str, dict[str, float], str]]:
    """Per metric: its name, each method's mean over the pools, and the verdict on `calibrated`."""
    random = np.random.default_rng(0)
    drawn: dict[str, dict[str, list[Floats]]] = {metric: {name: [] for name in METHODS} for metric in LOWER_IS_BETTER}
    counts = np.empty((0, 0))
    for scores, people in pools:
        matrix = matrix_of(scores)
        known = np.flatnonzero(~np.isnan(people))
        if counts.shape[1] != len(known):
            draws = random.multinomial(len(known), np.full(len(known), 1 / len(known)), size=RESAMPLES)
            counts = np.vstack([np.ones(len(known)), draws])
        for name, method in METHODS.items():
            for metric, values in figures(method(matrix)[known], people[known], counts).items():
                drawn[metric][name].append(values)
    for metric, lower in LOWER_IS_BETTER.items():
        mean = {name: np.mean(values, axis=0) for name, values in drawn[metric].items()}
        others = [name for name in METHODS if name != "calibrated"]
        best = sorted(others, key=lambda name: mean[name][0] if lower else -mean[name][0])[0]
        gain = (mean["calibrated"] - mean[best])[1:] * (-1.0 if lower else 1.0)
        low, high = np.quantile(gain, [0.025, 0.975])
        verdict = "+" if low > 0 else "-" if high < 0 else "="
        yield metric, {name: float(values[0]) for name, values in mean.items()}, verdict


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder holding the sets")
    parser.add_argument("--only", choices=SETS, help="one set instead of all")
    arguments = parser.parse_args()
    started = time.perf_counter()
    print(f"| set | pool | figure | {' | '.join(METHODS)} | against the best other |")
    print("|---" * (len(METHODS) + 4) + "|")
    verdicts = []
    for name, (folder, load) in SETS.items():
        if arguments.only not in (None, name):
            continue
        if not (arguments.data / folder).is_dir():
            print(f"| {name} | skipped: no folder {folder} |" + " |" * (len(METHODS) + 2))
            continue
        clean = [load(arguments.data, seed) for seed in range(SEEDS)]
        for kind, share in CONDITIONS:
            label = kind if kind == "clean" else f"{share:.0%} {kind}"
            spoilt = [
                (spoil(scores, kind, share, np.random.default_rng([seed, round(100 * share)])), people)
                for seed, (scores, people) in enumerate(clean)
            ]
            varies = kind != "clean" or name == "moralstrength"
            for metric, values, verdict in row(spoilt if varies else spoilt[:1]):
                verdicts.append(verdict)
                cells = " | ".join(f"{value:.3f}" for value in values.values())
                print(f"| {name} | {label} | {metric} | {cells} | {verdict} |", flush=True)
    tally = ", ".join(
        f"{verdicts.count(sign)} {word}" for sign, word in (("+", "better"), ("=", "equal"), ("-", "worse"))
    )
    print(f"\n`calibrated` against the best other column: {tally}; {time.perf_counter() - started:.0f} s.")


if __name__ == "__main__":
    main()
