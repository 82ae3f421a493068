"""Which hidden layer of the score encoder tells texts apart best: printed as Markdown.

    python -m tests.benchmarks.bertscore_layers --data ../shared/data [--stories 400]

Each story's context is scored against its own moral action and against another story's (Moral Stories, in folder
moral_stories). A layer is the better, the more often the own action wins and the clearer by. It is no measure of how
far the score agrees with people's judgement of answers, for which there are no data here.
"""

import argparse
from pathlib import Path

import numpy as np

from consilience.datasets.moral_stories import read_moral_stories
from consilience.values.bertscore import load_scorer
from consilience.values.evaluation_settings import ScoreEncoder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--stories", type=int, default=400)
    parser.add_argument("--layers", type=int, default=6)
    options = parser.parse_args()
    stories = read_moral_stories([options.data / "moral_stories/dev_full.jsonl.gz"])
    stories = stories[stories["context"].notna()].sample(options.stories, random_state=0)
    contexts, actions = (stories[name].to_list() for name in ("context", "moral_action"))
    print("| layer | own action | another's | own wins | difference / its sd |\n|---|---|---|---|---|")
    for layer in range(1, options.layers + 1):
        score = load_scorer(ScoreEncoder(layer=layer))
        own, other = score(contexts, actions)[:, 2], score(contexts, [*actions[1:], actions[0]])[:, 2]
        gap = own - other
        wins = np.mean((gap > 0) + 0.5 * (gap == 0))
        print(f"| {layer} | {own.mean():.3f} | {other.mean():.3f} | {wins:.1%} | {gap.mean() / gap.std():.2f} |")


if __name__ == "__main__":
    main()
