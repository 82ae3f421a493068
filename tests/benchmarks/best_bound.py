"""The best achievable figures on Scruples' dev votes (Lourie et al. 2021), from the vote counts alone, as Markdown.

python -m tests.benchmarks.best_bound --data ../shared/data
"""

import argparse
import json
from pathlib import Path

import numpy as np

from consilience.calibration.bound import fit_dirichlet, posterior_draws
from consilience.calibration.metrics import Bootstrap, dirichlet_multinomial
from consilience.calibration.tasks import binarised


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--draws", type=int, default=2_000)
    options = parser.parse_args()
    dilemmas, anecdotes = (
        np.array(json.loads((options.data / f"scruples/dev.scruples-{name}_label-counts.json").read_text()), float)
        for name in ("dilemmas", "anecdotes")
    )
    head = (
        "votes on",
        "items",
        "Dirichlet",
        "accuracy",
        "F1 macro",
        "CE",
        "entropy",
        "prior CE",
        "majority",
        "DM constant",
    )
    print(f"| {' | '.join(head)} |")
    print("|" + "---|" * 10)
    sets = (("dilemmas", dilemmas), ("anecdotes, five options", anecdotes), ("anecdotes, two", binarised(anecdotes)))
    for name, votes in sets:
        votes = votes[votes.sum(axis=1) > 0]
        shares = votes / votes.sum(axis=1, keepdims=True)
        a = fit_dirichlet(votes)
        found = Bootstrap(votes, np.arange(len(votes))).bound(posterior_draws(votes, a, options.draws))
        floor = -np.where(shares > 0, shares * np.log(np.where(shares > 0, shares, 1.0)), 0.0).sum(axis=1).mean()
        prior = -(shares * np.log(shares.mean(axis=0))).sum(axis=1).mean()
        majority = np.bincount(votes.argmax(axis=1)).max() / len(votes)
        constant = dirichlet_multinomial(np.tile(a / a.sum(), (len(votes), 1)), votes, float(a.sum())).mean()
        figures = " | ".join(f"{found[key].value:.4f}" for key in ("accuracy", "f1_macro", "ce"))
        parameters = ", ".join(f"{value:.3f}" for value in a)
        print(
            f"| {name} | {len(votes)} | {parameters} | {figures} | {floor:.4f} | {prior:.4f} | {majority:.4f} | "
            f"{constant:.4f} |"
        )


if __name__ == "__main__":
    main()
