"""The arithmetic of docs/scale.md: what large runs take, from what was measured on a small machine.

`python -m tests.benchmarks.scale_arithmetic` prints its tables. `--gpu-judgements` and `--gpu-model` put a rate that
was measured on a GPU in place of the formula's.
"""

import argparse

PER_READING = 109.4
"""Tokens read per judgement, a dilemma read once for five theories: 21,881 for 200 judgements."""
PER_REQUEST = 391.0
"""Tokens where each judgement is a request of its own: 78,205 for 200."""
SMALL, SMALL_PER_SECOND = 134.5e6, 12.7
"""Weights of SmolLM2-135M, and its judgements a second in bfloat16 on two CPU threads."""
USED, PEAK = 0.36, 312e12
"""Share of a GPU's peak that is used (assumed), and an A100's peak in FLOP/s, dense bfloat16 (its maker's)."""
BYTES = 37
"""On disk per judgement."""
REPLY = 8
"""Most tokens of a reply."""
MODELS = (0.1345, 3, 7, 8, 13, 70)
PAPER = 42_501 * 5
BILLION = 1_000_000_000


def gpu_hours(judgements: float, billions: float, per_billion: float | None) -> float:
    """Hours of one GPU: 2 FLOP a weight and token; or by a measured rate.

    Args:
        judgements: how many.
        billions: weights of the model.
        per_billion: measured judgements a second times billions of weights, None where none was measured.
    """
    if per_billion is not None:
        return judgements * billions / per_billion / 3600
    return judgements * PER_READING * 2 * billions * 1e9 / (USED * PEAK * 3600)


def cpu_hours(judgements: float, billions: float) -> float:
    """Hours of two CPU threads, proportional to the weights."""
    return judgements / (3600 * SMALL_PER_SECOND) * billions * 1e9 / SMALL


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpu-judgements", type=float, help="judgements a second measured on one GPU")
    parser.add_argument("--gpu-model", type=float, help="billions of weights of the model that was measured")
    given = parser.parse_args()
    rate = None if given.gpu_judgements is None else given.gpu_judgements * given.gpu_model
    print(f"the paper's run: {PAPER * 6:,} judgements, {PAPER:,} a model")
    print(f"tokens a model: {PAPER * PER_READING / 1e6:.1f} M, by requests {PAPER * PER_REQUEST / 1e6:.1f} M")
    print(f"{'model':>10} {'GPU-hours':>10} {'CPU-hours':>10}")
    for billions in MODELS:
        print(f"{billions:>8} B {gpu_hours(PAPER, billions, rate):>10.3g} {cpu_hours(PAPER, billions):>10.4g}")
    group = sum(gpu_hours(PAPER, billions, rate) for billions in (7, 13, 8, 3))
    print(f"G2 (7, 13, 8, 3 B): {group:.2g} GPU-hours")
    read, written = PAPER * PER_REQUEST / 1e6, PAPER * REPLY / 1e6
    print(f"API: {read:.1f} M tokens in, {written:.1f} M out, {0.15 * read + 0.60 * written:.1f} USD at 0.15 and 0.60")
    epoch = 42_501 * 37 * 6 * 13e9 / (USED * PEAK * 3600)
    cache = 2 * 40 * 5120 * 2
    prefix = (78_205 - 21_881) / 160
    print(f"realignment of 13 B: {epoch:.2g} GPU-hours an epoch; {cache / 1e6:.2f} MB a token, {prefix:.0f} a prefix,")
    print(f"  {42_501 * prefix * cache / 1e12:.1f} TB for 42,501")
    print(f"\na billion judgements: {BILLION / 30 / 1e6:.1f} M dilemmas, {BILLION * PER_READING:.3g} tokens")
    print(f"{'model':>10} {'GPU-hours':>10} {'hours on 64':>12} {'days':>6} {'USD at 2':>10}")
    for billions in MODELS:
        hours = gpu_hours(BILLION, billions, rate)
        print(f"{billions:>8} B {hours:>10.0f} {hours / 64:>12.1f} {hours / 64 / 24:>6.1f} {2 * hours:>10.0f}")
    print(f"annotations: {BILLION * BYTES / 1e9:.0f} GB; texts at 1.2 KB, 2:1: {BILLION / 30 * 600 / 1e9:.0f} GB")
    for batch in (16, 512):
        print(f"parts at batch_size {batch}: {BILLION / 30 / batch * 6:,.0f} files")
