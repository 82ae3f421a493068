"""Training, dev and test items that share no action.

Items are the edges of a graph whose nodes are texts. In Scruples' DILEMMAS the graph is a chain, so the nodes, in the
order of a walk, are cut into arcs; each arc belongs to one part, and the pairs at the cuts belong to none.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from consilience.calibration.tasks import VotedItems
from consilience.config import Config
from consilience.errors import UserError

TRAIN, DEV, TEST, DROPPED = "train", "dev", "test", "dropped"
BLOCK = 10


class SplitConfig(Config):
    """How items are dealt to training, dev and test."""

    dev: float = Field(0.15, gt=0, lt=1, description="share of the texts")
    test: float = Field(0.25, gt=0, lt=1, description="share of the texts")
    arcs: int = Field(20, ge=3, description="stretches of a chain of pairs that are dealt as a whole")
    seed: int = Field(0, ge=0, description="of the deal, so that another seed of training is judged on the same items")

    @model_validator(mode="after")
    def _leaves_training(self) -> "SplitConfig":
        if round(self.dev * self.arcs) < 1 or round(self.test * self.arcs) < 1:
            raise ValueError(f"{self.arcs} arcs are too few for a dev of {self.dev} and a test of {self.test}")
        if round(self.dev * self.arcs) + round(self.test * self.arcs) >= self.arcs:
            raise ValueError("dev and test leave nothing to train on; expected less than 1 together")
        return self


@dataclass(frozen=True, eq=False)
class Split:
    """Parts of n items, in the order of a walk over their texts.

    Attributes:
        part: (n,) object, train, dev, test or dropped.
        block: (n,) int, neighbours on the walk: what is resampled together, since neighbours share an action.
        components: connected components of the graph of texts.
    """

    part: NDArray[np.object_]
    block: NDArray[np.int64]
    components: int

    def rows(self, part: str) -> NDArray[np.int64]:
        """Items of a part."""
        return np.flatnonzero(self.part == part)

    @property
    def counts(self) -> dict[str, int]:
        """Items in each part."""
        return {part: int(np.sum(self.part == part)) for part in (TRAIN, DEV, TEST, DROPPED)}


def split_items(items: VotedItems, config: SplitConfig) -> tuple[VotedItems, Split]:
    """The items in the order of a walk, and their parts: no text, whatever its id, stands in two of them.

    Texts are compared without regard to case and surrounding space.

    Raises:
        UserError: a part comes out empty.
    """
    named = [tuple(text.strip().casefold() for text in texts) for texts in items.texts]
    random = np.random.default_rng(config.seed)
    walk, components = _walk(named, random)
    place = {text: position for position, text in enumerate(walk)}
    met = np.array([min(place[text] for text in texts) for texts in named], dtype=np.int64)
    order = np.argsort(met, kind="stable")
    dev, test = round(config.dev * config.arcs), round(config.test * config.arcs)
    deal = np.array([DEV] * dev + [TEST] * test + [TRAIN] * (config.arcs - dev - test), dtype=object)
    random.shuffle(deal)
    part = np.empty(len(named), dtype=object)
    for row, item in enumerate(order):
        parts = {deal[place[text] * config.arcs // len(walk)] for text in named[item]}
        part[row] = parts.pop() if len(parts) == 1 else DROPPED
    paired = any(len(set(texts)) > 1 for texts in named)
    split = Split(part, met[order] // BLOCK if paired else met[order], components)
    for name in (TRAIN, DEV, TEST):
        if not split.counts[name]:
            raise UserError(f"split: no item in {name}; expected more items than {len(named)}, or other shares")
    return items.take(order), split


def _walk(items: Sequence[tuple[str, ...]], random: np.random.Generator) -> tuple[list[str], int]:
    """All texts, each after a neighbour where it has one not yet seen, and the number of components."""
    neighbours: dict[str, list[str]] = {}
    for item in items:
        for text in item:
            neighbours.setdefault(text, []).extend(other for other in item if other != text)
    starts = list(neighbours)
    random.shuffle(starts)
    # An end of a chain before its middle, from which the walk would go one way and come back for the other.
    starts.sort(key=lambda text: len(neighbours[text]))
    walk: list[str] = []
    seen: set[str] = set()
    components = 0
    for start in starts:
        components += start not in seen
        stack = [start]
        while stack:
            text = stack.pop()
            if text not in seen:
                seen.add(text)
                walk.append(text)
                stack.extend(neighbours[text])
    return walk, components
