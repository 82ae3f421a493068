"""Items whose votes can be learned from a word: people mind some verbs."""

import numpy as np
from value_models import BAD, GOOD

from consilience.calibration.tasks import BINARY, VotedItems


def voted_pairs(n: int, seed: int) -> VotedItems:
    """A good and a bad verb in either place; four of five people find the bad one less ethical."""
    random = np.random.default_rng(seed)
    texts, votes = [], []
    for number in range(n):
        bad = int(random.integers(2))
        verbs = [random.choice(GOOD), random.choice(BAD)]
        texts.append(tuple(f"I {verb} my brother on day {number}" for verb in (verbs if bad else verbs[::-1])))
        votes.append([1.0, 4.0] if bad else [4.0, 1.0])
    return VotedItems("dilemmas", ("action_0", "action_1"), _ids(n), tuple(texts), np.array(votes))


def voted_texts(n: int, seed: int) -> VotedItems:
    """A good or a bad verb; four of five people accept the good ones."""
    random = np.random.default_rng(seed)
    bad = random.integers(0, 2, n)
    texts = tuple((f"I {random.choice(BAD if is_bad else GOOD)} my brother",) for is_bad in bad)
    return VotedItems("texts", BINARY, _ids(n), texts, np.where(bad[:, None] == 1, [1.0, 4.0], [4.0, 1.0]))


def _ids(n: int) -> tuple[str, ...]:
    return tuple(map(str, range(n)))
