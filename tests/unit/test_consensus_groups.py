"""A consensus per group of annotators, and the tasks on which the groups differ."""

import numpy as np
import pandas as pd
import pytest
from consensus_simulation import matrix_of
from numpy.typing import NDArray

from consilience.consensus import baselines
from consilience.consensus.calibrated import fit_calibrated
from consilience.consensus.groups import contested, group_consensus
from consilience.errors import UserError


def pool(seed: int, annotators: int = 16, tasks: int = 200) -> NDArray[np.float64]:
    random = np.random.default_rng(seed)
    truth = random.beta(0.8, 0.8, tasks)
    gain, noise = random.uniform(0.5, 1.1, (annotators, 1)), random.uniform(0.1, 0.2, (annotators, 1))
    bias = random.normal(0.0, 0.05, (annotators, 1))
    return np.clip(0.5 + bias + gain * (truth - 0.5) + noise * random.normal(size=(annotators, tasks)), 0.0, 1.0)


def halves(annotators: int = 16) -> dict[str, str]:
    return {f"a{m}": "left" if m < annotators // 2 else "right" for m in range(annotators)}


def test_a_group_is_the_calibrated_consensus_of_its_members() -> None:
    scores = pool(0)
    table = group_consensus(matrix_of(scores), halves())
    alone = matrix_of(scores[:8])
    expected = fit_calibrated(alone).predict(alone)
    left = table[table["group"] == "left"]
    np.testing.assert_allclose(left["consensus"], expected.consensus)
    np.testing.assert_allclose(left["sd"], expected.sd)
    assert (left["n_annotators"] == 8).all()
    assert set(table["method"]) == {"calibrated"}


def test_small_groups_get_their_mean_and_are_marked() -> None:
    scores = pool(0)
    scores[14:, 3] = np.nan
    groups = {**{f"a{m}": "large" for m in range(14)}, "a14": "pair", "a15": "pair"}
    table = group_consensus(matrix_of(scores), groups)
    pair = table[table["group"] == "pair"]
    assert set(pair["method"]) == {"mean"}
    assert len(pair) == 199, "no row where nobody of the group scored"
    known = np.delete(np.arange(200), 3)
    np.testing.assert_allclose(pair["consensus"], baselines.mean(matrix_of(scores[14:]))[known])


def test_an_opposed_group_keeps_its_own_view() -> None:
    scores = pool(0)
    scores[12:] = 1.0 - scores[12:]
    groups = {f"a{m}": "minority" if m >= 12 else "majority" for m in range(16)}
    table = group_consensus(matrix_of(scores), groups)
    wide = table.pivot(index="item_id", columns="group", values="consensus")
    assert wide.corr().loc["minority", "majority"] < -0.9


def test_annotators_without_a_group_belong_to_none() -> None:
    table = group_consensus(matrix_of(pool(0)), {f"a{m}": "named" for m in range(5)})
    assert set(table["group"]) == {"named"}
    assert (table["n_annotators"] == 5).all()
    assert contested(table).empty
    with pytest.raises(UserError, match="none of their annotators has a score"):
        group_consensus(matrix_of(pool(0)), {"stranger": "named"})


def test_groups_of_one_population_differ_by_chance_only() -> None:
    p, found = [], 0
    for seed in range(40):
        table = contested(group_consensus(matrix_of(pool(seed, annotators=8, tasks=100)), halves(8)))
        p.append(table["p"])
        found += bool((table["q"] < 0.05).any())
    assert 0.03 < np.mean(np.concatenate(p) < 0.05) < 0.07
    assert found <= 6


def test_what_the_groups_do_differ_on_is_found() -> None:
    scores = pool(1)
    truth = scores.mean(axis=0)
    disputed = np.flatnonzero((truth > 0.35) & (truth < 0.65))[:10]
    scores[:8, disputed] = np.clip(scores[:8, disputed] + 0.25, 0.0, 1.0)
    scores[8:, disputed] = np.clip(scores[8:, disputed] - 0.25, 0.0, 1.0)
    table = contested(group_consensus(matrix_of(scores), halves()))
    assert table["p"].is_monotonic_increasing
    assert set(table["item_id"][:10]) == {str(task) for task in disputed}
    assert (table["q"][:10] < 0.05).all()
    assert (table["highest"][:10] == "left").all()
    assert table["difference"][:10].between(0.2, 0.7).all()


def test_q_of_three_groups_is_cochrans() -> None:
    rows = [("i", "justice", g, c, s) for g, c, s in [("a", 0.2, 0.1), ("b", 0.5, 0.1), ("c", 0.6, 0.2)]]
    table = contested(pd.DataFrame(rows, columns=["item_id", "theory", "group", "consensus", "sd"]))
    # weights 100, 100, 25; centre 85 / 225; Q = 100 * .178^2 + 100 * .122^2 + 25 * .222^2 = 5.8889; p = exp(-Q / 2)
    assert table["p"][0] == pytest.approx(np.exp(-5.888888888888889 / 2))
    assert table.loc[0, ["highest", "lowest"]].tolist() == ["c", "a"]
    assert table["difference"][0] == pytest.approx(0.4)
