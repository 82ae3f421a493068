"""What a trained classifier is worth: calibrated on validation, compared on test with its baselines, and judged."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import precision_score, recall_score

from consilience.intervals import Interval, or_none
from consilience.theories import VALUE_NAMES
from consilience.values.about import REFUSED, UNTRAINED, USABLE, Head
from consilience.values.baseline import bag_of_words, majority
from consilience.values.calibration import best_threshold, fit_temperature, probabilities
from consilience.values.examples import ALL, HUMAN
from consilience.values.split import TEST, TRAIN, VALIDATION
from consilience.values.value_metrics import Bootstrap, Quality

Floats = NDArray[np.float64]

LEAST_OF_EACH_LABEL = 2
LEAST_SITUATIONS = 10


@dataclass(frozen=True, eq=False)
class Assessment:
    """Figures of one question's classifiers.

    Attributes:
        heads: what is known of each value's classifier.
        metrics: rows of table `value_metrics`: each value and system on all test texts, on those of each source and of
            each origin of their labels, where there are several.
        classifiers: rows of table `value_classifiers`.
        at_threshold: precision and recall on test at the threshold, by value; empty where untrained.
        correlations: Pearson's r of two values' logits on all test texts, whatever values those are about; near 1 the
            two classifiers are copies of one another. Values that are untrained, or whose logits are all the same, are
            left out.
    """

    heads: dict[str, Head]
    metrics: list[dict[str, Any]]
    classifiers: list[dict[str, Any]]
    at_threshold: dict[str, dict[str, float]]
    correlations: dict[str, dict[str, float]]


def assess(question: str, examples: pd.DataFrame, logits: Floats) -> Assessment:
    """Calibrate, compare and judge.

    A classifier is usable where the 95 % interval of its AUC less that of the bag of words (paired bootstrap over the
    situations of test) lies above zero, its own AUC's above 0.5, and test has `LEAST_SITUATIONS` situations with each
    label: of fewer, resamples are too much alike to tell anything. A value with fewer than two examples of each label
    in any part is left untrained.

    Args:
        examples: table `value_examples` with `split`.
        logits: (n, 5) of the examples; those of training are not looked at.
    """
    found = Assessment({}, [], [], {}, {})
    for column, value in enumerate(VALUE_NAMES):
        known = examples[value].notna().to_numpy()
        _assess_value(question, value, examples[known], logits[known, column], found)
    found.correlations.update(_correlations(logits[(examples["split"] == TEST).to_numpy()], found.heads))
    return found


def _correlations(logits: Floats, heads: Mapping[str, Head]) -> dict[str, dict[str, float]]:
    frame = pd.DataFrame(logits, columns=list(VALUE_NAMES))
    known = [value for value in VALUE_NAMES if heads[value].verdict != UNTRAINED and frame[value].nunique() > 1]
    table = frame[known].corr().to_numpy()
    return {one: dict(zip(known, row, strict=True)) for one, row in zip(known, table.tolist(), strict=True)}


def _assess_value(question: str, value: str, rows: pd.DataFrame, logits: Floats, found: Assessment) -> None:
    labels: Floats = (rows[value] >= 0.5).to_numpy().astype(np.float64)
    parts = {part: (rows["split"] == part).to_numpy() for part in (TRAIN, VALIDATION, TEST)}
    row: dict[str, Any] = {
        "question": question,
        "value": value,
        "train": int(parts[TRAIN].sum()),
        "train_human": int((parts[TRAIN] & (rows["label_source"] == HUMAN)).sum()),
    }
    lacking = [part for part, mask in parts.items() if _fewest(labels[mask]) < LEAST_OF_EACH_LABEL]
    if lacking:
        reason = f"fewer than {LEAST_OF_EACH_LABEL} examples of each label in {lacking[0]}"
        found.heads[value] = Head(UNTRAINED, reason)
        found.classifiers.append({**row, "verdict": UNTRAINED, "reason": reason})
        return
    train, validation, test = parts.values()
    temperature = fit_temperature(logits[validation], labels[validation])
    threshold = best_threshold(probabilities(logits[validation], temperature), labels[validation])
    texts = rows["text"].to_numpy()
    systems = {
        "classifier": probabilities(logits[test], temperature),
        "bag_of_words": bag_of_words(
            (texts[train].tolist(), labels[train]),
            (texts[validation].tolist(), labels[validation]),
            texts[test].tolist(),
        ),
        "majority": majority(labels[train], int(test.sum())),
    }
    judged = rows[test]
    for name, mask in _slices(judged).items():
        situations = judged.loc[mask, "situation"].tolist()
        sample = Bootstrap(labels[test][mask], situations)
        qualities = {system: sample.quality(scores[mask]) for system, scores in systems.items()}
        found.metrics.extend(
            {
                "question": question,
                "value": value,
                "examples": name,
                "system": system,
                **_flat(quality),
                "n": int(mask.sum()),
                "positives": int(sample.labels.sum()),
                "situations": len(set(situations)),
            }
            for system, quality in qualities.items()
        )
        if name == ALL:
            gain = sample.auc_gain(systems["classifier"], systems["bag_of_words"])
            fewest = min(judged.loc[labels[test] == label, "situation"].nunique() for label in (0, 1))
            why = _against(gain, qualities["classifier"].auc, fewest)
            verdict = REFUSED if why else USABLE
            aucs = (qualities["classifier"].auc.value, qualities["bag_of_words"].auc.value)
            found.heads[value] = Head(verdict, why, temperature, threshold, *aucs)
    said = systems["classifier"] >= threshold
    found.at_threshold[value] = {
        "precision": float(precision_score(labels[test], said, zero_division=0.0)),
        "recall": float(recall_score(labels[test], said)),
    }
    gains = _ends("auc_gain", gain)
    verdicts = {"verdict": verdict, "reason": why, "temperature": temperature, "threshold": threshold}
    found.classifiers.append({**row, **verdicts, **gains})


def _fewest(labels: Floats) -> int:
    """Examples of the rarer label."""
    return int(min(labels.sum(), len(labels) - labels.sum()))


def _slices(rows: pd.DataFrame) -> dict[str, NDArray[np.bool_]]:
    """All rows first; then by source and by origin of the label, where there are several."""
    found = {ALL: np.ones(len(rows), dtype=bool)}
    for column in ("source", "label_source"):
        names = rows[column].unique()
        if len(names) > 1:
            found |= {str(name): (rows[column] == name).to_numpy() for name in sorted(names)}
    return found


def _against(gain: Interval, auc: Interval, situations: int) -> str | None:
    """Why the classifier is not known to be better than its baselines; None where it is.

    Args:
        situations: of test, with the rarer label.
    """
    if situations < LEAST_SITUATIONS:
        return f"only {situations} situations in test with the rarer label; expected {LEAST_SITUATIONS} of each"
    if not auc.low > 0.5:
        return f"AUC {auc.value:.3f} [{auc.low:.3f}, {auc.high:.3f}] on test is not beyond doubt above chance"
    if not gain.low > 0:
        return (
            f"AUC {auc.value:.3f} on test is not beyond doubt above a bag of words' "
            f"({gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}])"
        )
    return None


def _flat(quality: Quality) -> dict[str, float | None]:
    figures = {"auc": quality.auc, "accuracy": quality.accuracy, "ece": quality.ece}
    return {key: value for name, found in figures.items() for key, value in _ends(name, found).items()}


def _ends(name: str, found: Interval) -> dict[str, float | None]:
    """`name`, and with `_low` and `_high` the ends of its interval; None where not defined."""
    figures = {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}
    return {key: or_none(figure) for key, figure in figures.items()}
