"""The runs of train_values that answers are scored by: the reward, and perhaps a judge that is independent of it."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from consilience.errors import UserError
from consilience.files import digest_file
from consilience.values.about import ABOUT, check_reward
from consilience.values.examples import FOLLOWS
from consilience.values.question_data import split_settings

REWARD, JUDGE = KINDS = ("reward", "judge")


def by_kind(rewards: Path, judge: Path | None) -> dict[str, Path]:
    """Run folders by what they are here."""
    return {REWARD: rewards, **({JUDGE: judge} if judge else {})}


def check_classifiers(folders: Mapping[str, Path], values: Sequence[str], force: bool) -> None:
    """Check that `folders` (see `by_kind`) can score answers for all `values`.

    Raises:
        UserError: not such a run, the judge is the reward, or a classifier is refused and not forced.
    """
    for folder in folders.values():
        split_settings(folder)
    judge = folders.get(JUDGE)
    if judge is not None and judge.resolve() == folders[REWARD].resolve():
        raise UserError(f"judge {judge}: the run that gives the rewards; expected another, which is independent")
    for folder in folders.values():
        for value in values:
            check_reward(folder, value, force)


def classifier_loaders(
    folders: Mapping[str, Path], values: Sequence[str], force: bool
) -> dict[str, dict[str, Callable[[], Any]]]:
    """Kind to value to what loads its classifier, on any node that sees the folders."""
    from consilience.values.reward import load_reward  # torch takes seconds to import, and a dry run needs none of it

    return {
        kind: {value: partial(load_reward, folder.absolute(), value, force) for value in values}
        for kind, folder in folders.items()
    }


def classifier_digests(folders: Mapping[str, Path]) -> list[str]:
    """Of what `classifier_loaders` load, in the order of the kinds."""
    return [digest_file(folder / FOLLOWS / ABOUT) for folder in folders.values()]
