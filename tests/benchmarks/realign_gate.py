"""Where pulling a model towards a consensus stops to help: simulated pools of falling agreement, printed as Markdown.

    python -m tests.benchmarks.realign_gate [--repeats 20] [--first-seed 100]

A pool of four annotators judges 300 items under one theory. Their scores tell acceptable from unacceptable by a
separation that falls from clear to none; their errors are independent, or half of their variance is shared. A fifth
annotator, judged by the consensus of these four, says the opposite of the truth for 40 % of the items, though the truth
is in its features (one of 40, the others being noise). Realigned, it answers by a logistic head on its features that is
fitted to the consensus on 80 % of the items; on the others its F1 against the truth is compared before and after. What
the gate sees stands beside: none of it knows the truth.
"""

import argparse
import itertools
import warnings

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression

from consilience.consensus.em import TruncatedNormalEM
from consilience.realign.gate import GateReport, assess
from consilience.realign.settings import GateConfig
from consilience.realign.target import Target, leave_one_out

ITEMS, FEATURES, ANNOTATORS, WRONG = 300, 40, 4, 0.4
SEPARATIONS = (0.5, 0.3, 0.2, 0.15, 0.1, 0.07, 0.05, 0.03, 0.0)
NOISE, SHARED = 0.15, (0.0, 0.5)
Bools = NDArray[np.bool_]


def simulate(separation: float, shared: float, seed: int) -> tuple[Target, NDArray[np.float64], Bools, Bools]:
    """Target, features (n, FEATURES), the judged annotator's labels before, and the truth."""
    random = np.random.default_rng(seed)
    truth = random.random(ITEMS) < 0.5
    common = random.normal(0, NOISE * shared**0.5, ITEMS)
    rows = []
    for m in range(ANNOTATORS):
        own = random.normal(0, NOISE * (1 - shared) ** 0.5, ITEMS)
        scores = np.clip(0.5 + separation * (truth - 0.5) + common + own, 0.0, 1.0)
        rows += [(f"i{k:04}", "deontology", f"m{m}", score) for k, score in enumerate(scores)]
    judged = truth ^ (random.random(ITEMS) < WRONG)
    rows += [(f"i{k:04}", "deontology", "judged", 0.3 + 0.4 * float(said)) for k, said in enumerate(judged)]
    frame = pd.DataFrame(rows, columns=["item_id", "theory", "annotator", "score"])
    features = random.normal(size=(ITEMS, FEATURES))
    features[:, 0] += 3.0 * (truth - 0.5)
    return leave_one_out(frame, "judged", TruncatedNormalEM()), features, judged, truth


def f1(said: Bools, aim: Bools) -> float:
    return 2.0 * np.count_nonzero(said & aim) / max(1, said.sum() + aim.sum())


def trial(separation: float, shared: float, seed: int) -> tuple[GateReport, float, float]:
    """What the gate sees; accuracy of the target; F1 gained against the truth on items held out."""
    target, features, judged, truth = simulate(separation, shared, seed)
    labels = target.of("deontology").to_numpy() > 0.5
    train = np.arange(ITEMS) < 0.8 * ITEMS
    said = np.full(ITEMS, bool(labels[train].mean() > 0.5))
    if 0 < labels[train].sum() < train.sum():
        head = LogisticRegression(C=0.1).fit(features[train], labels[train])
        said = head.predict(features)
    gain = f1(said[~train], truth[~train]) - f1(judged[~train], truth[~train])
    return assess(target, "deontology", GateConfig(), seed), float(np.mean(labels == truth)), gain


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=100, help="the gate's limits were set on seeds 0 to 5")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(
        "| errors shared | separation | alpha | decided | interval | stability | votes | target right | F1 gain ",
        end="",
    )
    print(f"| helps | gate opens |\n{'|---' * 11}|")
    for shared, separation in itertools.product(SHARED, SEPARATIONS):
        trials = [
            trial(separation, shared, seed) for seed in range(options.first_seed, options.first_seed + options.repeats)
        ]
        reports = [report for report, _, _ in trials]
        gains = np.array([gain for _, _, gain in trials])
        seen = [
            np.mean([float(getattr(report, name) or 0.0) for report in reports])
            for name in ("alpha", "decided", "interval", "stability", "votes")
        ]
        right = np.mean([accuracy for _, accuracy, _ in trials])
        figures = " | ".join(f"{value:.2f}" for value in [*seen, right])
        opens = np.mean([report.passed for report in reports])
        helps = f"{gains.mean():+.2f} | {np.mean(gains > 0):.0%} | {opens:.0%}"
        print(f"| {shared:.0%} | {separation} | {figures} | {helps} |", flush=True)


if __name__ == "__main__":
    main()
