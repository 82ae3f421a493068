"""Which items are trained on, which choose the epoch, and which judge: always whole items, never rows."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from consilience.errors import UserError
from consilience.realign.settings import SplitConfig

LEAST_ITEMS = 10


@dataclass(frozen=True, eq=False)
class Split:
    """Positions of items. `test` may be empty: then nothing is judged, and the fit is for use."""

    train: NDArray[np.int64]
    dev: NDArray[np.int64]
    test: NDArray[np.int64]


def split_items(items: int, config: SplitConfig, seed: int) -> list[Split]:
    """80/10/10, or with few items one split per fold and a last one that holds nothing out.

    In cross-fitting every item is in the test part of exactly one fold; the last split's fit is the one to use on new
    items.

    Raises:
        UserError: fewer than 10 items.
    """
    if items < LEAST_ITEMS:
        raise UserError(f"{items} items with a target; expected at least {LEAST_ITEMS} to realign on")
    order = np.random.default_rng(seed).permutation(items)
    if items >= config.cross_fit_below:
        return [_split(order[items // 10 :], items // 10, order[: items // 10])]
    folds = np.array_split(order, min(config.folds, items))
    rests = [np.concatenate([fold for other, fold in enumerate(folds) if other != k]) for k in range(len(folds))]
    splits = [_split(rest, max(1, items // 10), fold) for rest, fold in zip(rests, folds, strict=True)]
    return [*splits, _split(order, max(1, items // 10), order[:0])]


def _split(rest: NDArray[np.int64], dev: int, test: NDArray[np.int64]) -> Split:
    return Split(train=np.sort(rest[dev:]), dev=np.sort(rest[:dev]), test=np.sort(test))
