"""The reward of a moral agent: the calibrated probability that a text follows its value."""

from pathlib import Path

from consilience.errors import UserError
from consilience.theories import VALUE_NAMES
from consilience.values.classifier import REFUSED, UNTRAINED, About, ValueClassifier, classify, load_classifier
from consilience.values.examples import FOLLOWS


class ValueReward:
    """P(the text follows the value), in [0, 1], for each of a list of texts.

    Every text has a probability, an empty one too, and one in a language that the classifier was never shown; neither
    means much. Of a long text the first tokens are read (`encoder.max_tokens` of the training config).

    Attributes:
        value: name of the value.
        forced: whether the classifier was refused as a reward and is used all the same.
    """

    def __init__(self, model: ValueClassifier, about: About, value: str, forced: bool) -> None:
        self.value, self.forced = value, forced
        self.__name__ = f"{value} (forced)" if forced else value
        self._model, self._about = model, about
        self._column = VALUE_NAMES.index(value)

    def __call__(self, texts: list[str]) -> list[float]:
        found: list[float] = classify(self._model, self._about, texts)[:, self._column].tolist()
        return found


def load_reward(folder: Path, value: str, force: bool = False) -> ValueReward:
    """The reward for `value` from the run folder of `jobs.train_values`. Rewards of one folder share one encoder.

    Args:
        force: use a classifier that is no better than its baseline; the reward is then marked as forced.

    Raises:
        UserError: not such a folder, an unknown value, a value without a trained classifier, or a classifier that is no
            better than its baseline and not forced.
    """
    if value not in VALUE_NAMES:
        raise UserError(f"unknown value '{value}': expected one of {', '.join(VALUE_NAMES)}")
    model, about = load_classifier(Path(folder) / FOLLOWS)
    head = about.heads[value]
    if head.verdict == UNTRAINED:
        raise UserError(f"{folder}: no reward for {value}: {head.reason}")
    refused = head.verdict == REFUSED
    if refused and not force:
        raise UserError(f"{folder}: the {value} classifier is refused as a reward: {head.reason}; force uses it anyway")
    return ValueReward(model, about, value, refused)
