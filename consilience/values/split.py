"""Which part a situation is in: the one place that parts training from test, for classifiers and questions alike.

A situation is what must not stand on two sides: a norm of Moral Stories with all its stories, a comment, a situation of
Social Chemistry. In the public corpora its name alone decides, whatever else is in the data, so that a question about a
norm, a reward and the reward's judge are on the same side without knowing of one another.
"""

from hashlib import blake2b

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from consilience.datasets import mfrc, moral_stories, social_chemistry
from consilience.errors import UserError
from consilience.theories import VALUE_NAMES

TRAIN, VALIDATION, TEST = SPLITS = ("train", "validation", "test")
FOLDS = 5

_BY_NAME = (mfrc.SOURCE, moral_stories.SOURCE, social_chemistry.SOURCE)


def situation_key(situation: str) -> str:
    """The name of a situation: case, spaces at its ends and a final full stop make no other one of it."""
    return situation.strip().casefold().rstrip(". ")


def part_of(situation: str, folds: int = FOLDS, seed: int = 0) -> str:
    """The part of a situation by its key: one of `folds` is for test, one for validation, all others for training."""
    named = f"{seed}/{situation_key(situation)}"
    fold = int.from_bytes(blake2b(named.encode(), digest_size=8).digest(), "big") % folds
    return {0: TEST, 1: VALIDATION}.get(fold, TRAIN)


def split_by_situation(examples: pd.DataFrame, folds: int, seed: int) -> pd.DataFrame:
    """Add column `split`: whole situations go to train, validation (one fold) or test (one fold), never rows.

    Situations of the public corpora go where `part_of` says. Those of tables of one's own, which may be small, are
    dealt to the folds in random order, those of the rarest value first, so that every part has its share of each value.
    A text of validation or test that stands in an earlier part too, in another situation, is left out.

    Args:
        examples: table `value_examples`.

    Raises:
        UserError: fewer situations of one's own than folds.
    """
    public = examples["source"].isin(_BY_NAME).to_numpy()
    parts = np.empty(len(examples), dtype=object)
    parts[public] = [part_of(name, folds, seed) for name in examples.loc[public, "situation"]]
    if not public.all():
        parts[~public] = _deal(examples[~public], folds, seed)
    split = examples.assign(split=parts)
    text = split["text"].str.casefold()
    in_train = set(text[split["split"] == TRAIN])
    in_validation = set(text[split["split"] == VALIDATION])
    seen = (split["split"] != TRAIN) & text.isin(in_train)
    seen |= (split["split"] == TEST) & text.isin(in_validation)
    return split[~seen].reset_index(drop=True)


def _deal(examples: pd.DataFrame, folds: int, seed: int) -> NDArray[np.object_]:
    """(n,) part of each row."""
    situation, names = pd.factorize(examples["situation"])
    if len(names) < folds:
        raise UserError(f"{len(names)} situations; expected at least {folds}, one per fold")
    order = np.lexsort((np.random.default_rng(seed).permutation(len(names)), _rarest(examples, situation, len(names))))
    fold = np.empty(len(names), dtype=np.int64)
    fold[order] = np.arange(len(names)) % folds
    parts = np.full(folds, TRAIN, dtype=object)
    parts[:2] = TEST, VALIDATION
    dealt: NDArray[np.object_] = parts[fold[situation]]
    return dealt


def _rarest(examples: pd.DataFrame, situation: NDArray[np.int64], situations: int) -> NDArray[np.int64]:
    """(situations,) rank, from 0, of the rarest value with a positive label in each situation; 5 where none has."""
    positive = examples[list(VALUE_NAMES)].to_numpy(dtype=float) == 1
    by_rarity = np.argsort(positive.sum(axis=0), kind="stable")
    found = np.zeros((situations, len(VALUE_NAMES) + 1), dtype=bool)
    found[:, -1] = True
    rows, columns = np.nonzero(positive[:, by_rarity])
    found[situation[rows], columns] = True
    return found.argmax(axis=1)
