"""What is known of a stored value classifier, and whether it may be a reward: read in no time, without its model."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from consilience.errors import UserError
from consilience.theories import VALUE_NAMES
from consilience.values.examples import FOLLOWS
from consilience.values.settings import EncoderConfig

WEIGHTS, ABOUT = "classifier.safetensors", "classifier.json"
USABLE, REFUSED, UNTRAINED = "usable", "refused", "untrained"


@dataclass(frozen=True, slots=True)
class Head:
    """What is known of one value's classifier.

    Attributes:
        verdict: usable, refused (no better than its baseline) or untrained (too few examples).
        reason: why it is not usable.
        temperature: its logit is divided by this.
        threshold: probability from which it says yes with the best F1 on validation; 0.5 where untrained.
        auc, auc_baseline: on test; None where untrained.
    """

    verdict: str
    reason: str | None = None
    temperature: float = 1.0
    threshold: float = 0.5
    auc: float | None = None
    auc_baseline: float | None = None


@dataclass(frozen=True, slots=True)
class About:
    """The JSON beside a classifier's weights: which question it answers, on which encoder, how well for each value."""

    question: str
    encoder: EncoderConfig
    encoder_digest: str
    seed: int
    heads: dict[str, Head]


def read_about(folder: Path) -> tuple[About, str]:
    """What is known of the classifier in `folder`, and its weights' digest.

    Raises:
        UserError: there is none, or its description cannot be read.
    """
    path = folder / ABOUT
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
        heads = {value: Head(**raw["heads"][value]) for value in VALUE_NAMES}
        about = About(
            raw["question"], EncoderConfig.model_validate(raw["encoder"]), raw["encoder_digest"], raw["seed"], heads
        )
        return about, str(raw["weights_digest"])
    except FileNotFoundError:
        raise UserError(f"{folder}: no value classifier here; expected the run folder of train_values") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: not a value classifier's description: {error}") from None


def check_reward(folder: Path, value: str, force: bool = False) -> bool:
    """Whether `load_reward` with the same arguments would have to force the classifier.

    Raises:
        UserError: it would refuse: not a run folder of train_values, an unknown value, one without a trained
            classifier, or a classifier that is not beyond doubt better than its baseline, and not forced.
    """
    if value not in VALUE_NAMES:
        raise UserError(f"unknown value '{value}': expected one of {', '.join(VALUE_NAMES)}")
    head = read_about(folder / FOLLOWS)[0].heads[value]
    if head.verdict == UNTRAINED:
        raise UserError(f"{folder}: no reward for {value}: {head.reason}")
    if head.verdict == REFUSED and not force:
        raise UserError(
            f"{folder}: the {value} classifier is refused as a reward: {head.reason}; force_rewards uses it anyway"
        )
    return head.verdict == REFUSED


def forced_notes(forced: Mapping[str, Sequence[str]]) -> list[str]:
    """What a reader has to know before any figure; `forced` is reward and judge to the values they were forced for."""
    return [
        f"{kind}: forced for {', '.join(values)}, whose classifiers are not beyond doubt better than a bag of words; "
        "what they say proves the machinery only"
        for kind, values in forced.items()
        if values
    ]
