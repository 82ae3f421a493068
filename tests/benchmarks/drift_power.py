"""How often the drift alarm names an annotator whose scores have shifted, printed as Markdown.

    python -m tests.benchmarks.drift_power

Six annotators whose scores follow acceptability by degree, with errors partly shared (the simulation of
`tests/unit/test_consensus_drift.py`); a consensus of 700 items; then new items, on which the first annotator's scores
are higher by the shift. The alarm's level is its default.
"""

import sys
from pathlib import Path

import numpy as np

from consilience.consensus.drift import drift_alarm

sys.path.insert(0, str(Path(__file__).parents[1] / "unit"))
from consensus_simulation import matrix_of
from test_consensus_drift import by_degree, fitted

PAST, SIZES, SHIFTS, BATCHES = 700, (50, 100, 300, 1000), (0.0, 0.05, 0.1, 0.15), 40


def main() -> None:
    print(f"| new scores | {' | '.join(f'shift {shift}' for shift in SHIFTS)} |\n{'|---' * (1 + len(SHIFTS))}|")
    for size in SIZES:
        named = np.zeros(len(SHIFTS))
        for seed in range(BATCHES):
            scores = by_degree(PAST + size, seed)
            model = fitted(matrix_of(scores[:, :PAST]))
            for column, shift in enumerate(SHIFTS):
                new = scores[:, PAST:].copy()
                new[0] = np.clip(new[0] + shift, 0.0, 1.0)
                table = drift_alarm(model, matrix_of(new)).set_index("annotator")
                named[column] += table["alarm"]["a0"]
        print(f"| {size} | {' | '.join(f'{share:.0%}' for share in named / BATCHES)} |", flush=True)


if __name__ == "__main__":
    main()
