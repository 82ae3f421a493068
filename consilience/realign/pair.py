"""One (annotator, theory) to realign, and the trainer made of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from consilience.lm.annotators import TransformersAnnotator
from consilience.lm.language_model import LanguageModel
from consilience.lm.prompts import Prompts
from consilience.realign.reader import FullReader, Reader, SuffixReader
from consilience.realign.settings import TrainingConfig
from consilience.realign.split import Split
from consilience.realign.theory_tokens import TheoryWord, embed, find_word
from consilience.realign.training import ARMS, PairTrainer, Suffix
from consilience.theories import pick_theories


@dataclass(frozen=True, eq=False)
class Pair:
    """What is trained: an annotator under a theory, on items with a frozen target.

    Attributes:
        annotator: its model, persona and elicitation.
        theory: name.
        texts: n dilemmas.
        targets: (n,) consensus of the others, 0..1.
        splits: see `split.split_items`.
        seed: of heads and batches.
    """

    annotator: TransformersAnnotator
    theory: str
    texts: Sequence[str]
    targets: NDArray[np.float64]
    splits: Sequence[Split]
    seed: int = 0


def locate(model: LanguageModel, pair: Pair) -> tuple[Prompts, TheoryWord]:
    """The annotator's prompts, and where the theory's word stands in them.

    Raises:
        UserError: see `theory_tokens.find_word`.
    """
    prompts = Prompts(model.tokeniser, pair.annotator.elicitation, pair.annotator.persona)
    (theory,) = pick_theories([pair.theory])
    return prompts, find_word(model.tokeniser, prompts, theory)


@dataclass(frozen=True, eq=False)
class Readable:
    """A pair's prompts, ready to be read by one of several workers.

    Attributes:
        reader: of the items `mine`, the others being other workers'.
        suffix: the end of the prompts, from the theory's word on: what stands before it is prefix, and cached.
        word: the theory's word.
        mine: positions of items.
    """

    reader: Reader
    suffix: Suffix
    word: TheoryWord
    mine: Sequence[int]


def make_readable(
    model: LanguageModel, pair: Pair, scratch: Path, cache_bytes: float, rank: int = 0, workers: int = 1
) -> Readable:
    """Compute the prefix cache of every `workers`-th item, from item `rank` on.

    A cache of more than `cache_bytes` bytes is a file in the folder `scratch`.
    """
    prompts, word = locate(model, pair)
    first = word.places[0]
    mine = range(rank, len(pair.texts), workers)
    prefixes: list[list[int]] = [[] for _ in pair.texts]
    for item in mine:
        prefixes[item] = [*prompts.prefix(pair.texts[item]), *word.suffix[:first]]
    suffix = Suffix(
        constant=embed(model.model, word.suffix[first:]),
        places=[place - first for place in word.places],
        which=word.which,
        originals=embed(model.model, word.ids).float(),
    )
    reader: Reader
    if model.packs:
        reader = SuffixReader(model.model, prefixes, mine, cache_bytes, scratch)
    else:
        reader = FullReader(model.model, prefixes)
    return Readable(reader, suffix, word, mine)


def build_trainer(
    readable: Readable,
    pair: Pair,
    config: TrainingConfig,
    arms: Sequence[str] = ARMS,
    splits: int | None = None,
) -> PairTrainer:
    """The trainer of a pair, for all its splits or the first `splits`."""
    return PairTrainer(
        readable.reader,
        readable.suffix,
        readable.word,
        pair.targets,
        pair.splits[:splits],
        config,
        pair.seed,
        readable.mine,
        arms,
    )
