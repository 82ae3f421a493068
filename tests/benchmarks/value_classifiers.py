"""What value classifiers are worth on real data: figures of both questions, printed as Markdown.

    python -m tests.benchmarks.value_classifiers --data ../shared/data [--share 0.25] [--epochs 2]

The data are MFRC, Social Chemistry 101 and Moral Stories in folders mfrc, social_chem_101 and moral_stories. A last
table asks how far a reward knows its own value: the AUC of each head on the held-out stories of every value.
"""

import argparse
import os
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pandas as pd
from safetensors.torch import save_file

from consilience.datasets.mfrc import read_mfrc
from consilience.datasets.moral_stories import read_moral_stories
from consilience.datasets.social_chemistry import read_social_chemistry
from consilience.lm.sources import open_source
from consilience.theories import VALUE_NAMES
from consilience.values.about import WEIGHTS, About
from consilience.values.assessment import Assessment, assess
from consilience.values.classifier import ValueClassifier, save_classifier
from consilience.values.examples import (
    FOLLOWS,
    RELEVANCE,
    norm_relevance,
    story_examples,
)
from consilience.values.norms import norm_profiles
from consilience.values.settings import EncoderConfig, FitConfig
from consilience.values.split import TEST, split_by_situation
from consilience.values.training import ClassifierTrainer
from consilience.values.value_metrics import weighted_auc


def train(question: str, examples: pd.DataFrame, fit: FitConfig, folder: Path) -> tuple[pd.DataFrame, Any, Assessment]:
    """Split examples, their logits and what they are worth; the classifier is stored in `folder`."""
    encoder = EncoderConfig()
    split = split_by_situation(examples, 5, 0)
    started = time.perf_counter()
    trainer = ClassifierTrainer(ValueClassifier.build(encoder, 0), split, fit, 0)
    while not trainer.finished:
        trainer.step()
    logits = trainer.logits(split["text"].tolist())
    found = assess(question, split, logits)
    save_file(trainer.model.state_dict(), folder / WEIGHTS)
    about = About(question, encoder, open_source(encoder.source).settings_digest, 0, found.heads)
    save_classifier(folder / question, folder / WEIGHTS, about)
    print(f"\n{question}: {len(split):,} texts, {time.perf_counter() - started:.0f} s\n", flush=True)
    return split, logits, found


def show(found: Assessment) -> None:
    print("| value | examples | n | system | AUC | accuracy | ECE |\n|---|---|---|---|---|---|---|")
    for row in found.metrics:
        if row["system"] != "majority" and (row["examples"] == "all" or row["system"] == "classifier"):
            figures = " | ".join(
                f"{row[what]:.3f} [{row[f'{what}_low']:.3f}, {row[f'{what}_high']:.3f}]"
                if row[what] is not None
                else ""
                for what in ("auc", "accuracy", "ece")
            )
            print(f"| {row['value']} | {row['examples']} | {row['n']} | {row['system']} | {figures} |")
    print("\n| value | verdict | gain in AUC | trained on | labelled by people | precision, recall at the threshold |")
    print("|---|---|---|---|---|---|")
    for row in found.classifiers:
        at = found.at_threshold.get(row["value"], {"precision": float("nan"), "recall": float("nan")})
        gain = [row.get(f"auc_gain{end}", float("nan")) for end in ("", "_low", "_high")]
        print(
            f"| {row['value']} | {row['verdict']} | {gain[0]:+.3f} [{gain[1]:+.3f}, {gain[2]:+.3f}] | {row['train']} | "
            f"{row['train_human']} | {at['precision']:.2f}, {at['recall']:.2f} |"
        )


def cross(split: pd.DataFrame, logits: Any) -> None:
    print(f"\n| AUC of the head below on stories of | {' | '.join(VALUE_NAMES)} |\n{'|---' * 6}|")
    test = (split["split"] == TEST).to_numpy()
    for column, head in enumerate(VALUE_NAMES):
        cells = []
        for value in VALUE_NAMES:
            rows = test & split[value].notna().to_numpy()
            labels = split.loc[rows, value].to_numpy(dtype=np.float64)
            cells.append(f"{weighted_auc(labels, logits[rows, column], np.ones((1, len(labels))))[0]:.3f}")
        print(f"| {head} | {' | '.join(cells)} |")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=os.environ.get("CONSILIENCE_DATA"))
    parser.add_argument("--share", type=float, default=1.0, help="of the comments, norms and stories that is used")
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    fit = FitConfig(epochs=options.epochs)
    data = Path(options.data)
    norms = pd.concat(
        [read_social_chemistry(data / f"social_chem_101/{kind}_sc101.csv.gz") for kind in ("obligatory", "optional")],
        ignore_index=True,
    )
    stories = read_moral_stories(
        [data / f"moral_stories/{name}.jsonl.gz" for name in ("train_norm_actions", "train_context_subset", "dev_full")]
    )
    relevance = pd.concat([read_mfrc(data / "mfrc/mfrc_counts.tsv.gz").to_pandas(), norm_relevance(norms)])
    with TemporaryDirectory() as scratch:
        folder = Path(scratch)
        _, _, found = train(RELEVANCE, sample(relevance, options.share), fit, folder)
        show(found)
        stories = sample(stories, options.share)
        profiles = norm_profiles(stories["norm"].tolist(), norms, folder)
        print(
            f"\nnorms: {profiles['profile_source'].value_counts().to_dict()}; about a value, by people and predicted:"
        )
        print(profiles.groupby("profile_source")[list(VALUE_NAMES)].sum().astype(int).to_dict("index"))
        split, logits, found = train(FOLLOWS, story_examples(stories, profiles), fit, folder)
        show(found)
        cross(split, logits)


def sample(frame: pd.DataFrame, share: float) -> pd.DataFrame:
    return frame.sample(frac=share, random_state=0).reset_index(drop=True)


if __name__ == "__main__":
    main()
