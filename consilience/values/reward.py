"""The reward of a moral agent: the calibrated probability that a text follows its value."""

from pathlib import Path

from consilience.theories import VALUE_NAMES
from consilience.values.about import About, check_reward
from consilience.values.classifier import ValueClassifier, classify, load_classifier
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
        UserError: see `check_reward` and `load_classifier`.
    """
    forced = check_reward(folder, value, force)
    model, about = load_classifier(folder / FOLLOWS)
    return ValueReward(model, about, value, forced)
