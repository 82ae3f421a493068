"""Parts that share no text, for chains, rings, and items of their own."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilience.calibration.splits import DEV, DROPPED, TEST, TRAIN, SplitConfig, split_items
from consilience.calibration.tasks import VotedItems
from consilience.errors import UserError


def items_of(texts: list[tuple[str, ...]]) -> VotedItems:
    ids = tuple(str(number) for number in range(len(texts)))
    return VotedItems("dilemmas", ("action_0", "action_1"), ids, tuple(texts), np.ones((len(texts), 2)))


def texts_in(items: VotedItems, rows: np.ndarray) -> set[str]:
    return {text.strip().casefold() for row in rows for text in items.texts[row]}


def test_a_chain_loses_a_pair_at_each_cut() -> None:
    order = np.random.default_rng(0).permutation(400)
    items, split = split_items(items_of([(f"a{k}", f"a{k + 1}") for k in order]), SplitConfig())
    assert split.components == 1
    assert 0 < split.counts[DROPPED] <= 19
    assert sum(split.counts.values()) == 400
    assert abs(split.counts[TEST] - 100) < 10
    assert abs(split.counts[DEV] - 60) < 10
    neighbours = [set(a) & set(b) for a, b in zip(items.texts, items.texts[1:], strict=False)]
    assert all(neighbours), "the walk goes along the chain"
    assert np.bincount(split.block).max() <= 11


def test_rings_and_repeated_texts() -> None:
    ring = [(f"r{k}", f"r{(k + 1) % 30}") for k in range(30)]
    again = [(f"b{k}", f"b{k + 1}") for k in range(60)] + [("B7 ", "b41")]
    items, split = split_items(items_of(ring + again), SplitConfig(arcs=10))
    assert split.components == 2
    parts = {part: texts_in(items, split.rows(part)) for part in (TRAIN, DEV, TEST)}
    assert not parts[TRAIN] & parts[TEST]
    assert not parts[TRAIN] & parts[DEV]
    assert not parts[DEV] & parts[TEST]


def test_items_of_their_own_lose_none() -> None:
    items, split = split_items(items_of([(f"t{k}",) for k in range(40)]), SplitConfig())
    assert split.counts == {TRAIN: 24, DEV: 6, TEST: 10, DROPPED: 0}
    assert len(set(split.block)) == 40
    again, same = split_items(items_of([(f"t{k}",) for k in range(40)]), SplitConfig())
    assert again.ids == items.ids
    assert same.part.tolist() == split.part.tolist()


def test_too_few_items() -> None:
    with pytest.raises(UserError, match="no item in "):
        split_items(items_of([("a", "b"), ("b", "c")]), SplitConfig())


@given(
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), min_size=60, max_size=200),
    st.integers(0, 1000),
)
def test_nothing_leaks(edges: list[tuple[int, int]], seed: int) -> None:
    texts: list[tuple[str, ...]] = [(f"x{a}", f"x{b}") for a, b in edges]
    try:
        items, split = split_items(items_of(texts), SplitConfig(seed=seed, arcs=4, dev=0.25))
    except UserError:
        return
    parts = [texts_in(items, split.rows(part)) for part in (TRAIN, DEV, TEST)]
    assert not parts[0] & parts[1]
    assert not parts[0] & parts[2]
    assert not parts[1] & parts[2]
    assert sorted(items.ids, key=int) == [str(number) for number in range(len(texts))]
