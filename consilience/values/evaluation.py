"""What an evaluation reports (arXiv 2403.12805, tables 1 to 3, figure 4, theorem 1), from one figure per answer.

Every figure is a mean over questions with a 95 % percentile bootstrap. Questions of one situation are resampled
together, and all figures of a slice share their resamples, so that differences are of the same questions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from consilience.intervals import draw_situations, interval, or_none
from consilience.values.answer_settings import BASE
from consilience.values.context import ContextKind
from consilience.values.examples import ALL, HUMAN, PREDICTED
from consilience.values.systems import aggregator_name, flipped_name

Floats = NDArray[np.float64]
Row = dict[str, Any]
Scores = Mapping[tuple[str, str], Floats]
"""(System, measure) to one figure per question, (n,), NaN where there is none."""

DRAWS = 2_000
BERTSCORE = "bertscore_f1"
_TIE = 1e-6  # float32 rounding of equal answers


class Slice:
    """Some of the questions, and `DRAWS` resamples of them.

    Attributes:
        name: all, or where their profiles are from.
        chosen: (n,) which of all questions.
    """

    def __init__(self, name: str, chosen: NDArray[np.bool_], situations: Sequence[str], seed: int) -> None:
        self.name, self.chosen = name, chosen
        theirs = [name for name, is_chosen in zip(situations, chosen.tolist(), strict=True) if is_chosen]
        self._situation, self._weights = draw_situations(theirs, DRAWS, seed)

    def means(self, values: Floats) -> Floats:
        """(1 + DRAWS, k) means of (n, k) figures, the sample's own first; a row with a NaN counts in none of them."""
        rows = values[self.chosen]
        whole = _whole(rows)
        filled = np.where(whole[:, None], rows, 0)
        sums = np.zeros((self._weights.shape[1], rows.shape[1] + 1))
        np.add.at(sums, self._situation, np.column_stack([filled, whole]))
        totals = self._weights @ sums
        with np.errstate(invalid="ignore", divide="ignore"):
            return totals[:, :-1] / totals[:, -1:]

    def count(self, values: Floats) -> int:
        """How many rows of (n, k) figures have them all."""
        return int(_whole(values[self.chosen]).sum())

    def situations(self, values: Floats) -> int:
        """How many situations those rows are of."""
        return len(set(self._situation[_whole(values[self.chosen])].tolist()))

    def figures(self, values: Floats, **named: Floats) -> Row:
        """The figures of (1 + DRAWS,) resampled statistics by name, each with `_low` and `_high`, and `n`.

        Args:
            values: (n, k) that they were computed from. Missing without rows, intervals also with one situation.
        """
        found: Row = {}
        sure = self.situations(values) > 1
        for name, drawn in named.items():
            found[name] = or_none(drawn[0])
            ends = interval(drawn) if sure else None
            found |= {f"{name}_{end}": or_none(getattr(ends, end, None)) for end in ("low", "high")}
        return {**found, "n": self.count(values)}


@dataclass(frozen=True, slots=True)
class Measure:
    """A reward of one value, as it was used.

    Attributes:
        kind: reward (trained against) or judge (never seen in training).
        forced: whether its classifier was refused and is used all the same, which its name then says.
    """

    kind: str
    value: str
    forced: bool

    @property
    def shown(self) -> str:
        """reward, judge, reward_forced or judge_forced."""
        return f"{self.kind}_forced" if self.forced else self.kind

    @property
    def key(self) -> str:
        """The measure's name among `Scores`, such as reward_forced_care."""
        return f"{self.shown}_{self.value}"


def slices(sources: Sequence[str], situations: Sequence[str], seed: int) -> list[Slice]:
    """All questions; and, where profiles are from both, those of people's and those of predicted profiles apart."""
    origin = np.asarray(sources, dtype=object)
    found = [Slice(ALL, np.ones(len(origin), dtype=bool), situations, seed)]
    if len(set(sources)) > 1:
        found += [Slice(name, origin == name, situations, seed) for name in (HUMAN, PREDICTED)]
    return found


def agent_rows(part: Slice, scores: Scores, measures: Sequence[Measure], plain: Sequence[str]) -> list[Row]:
    """Base and agent by the reward of the agent's value, and by the measures `plain` (table 1)."""
    named = [(each.value, each.shown, each.key) for each in measures]
    named += [(value, name, name) for name in plain for value in dict.fromkeys(each.value for each in measures)]
    rows = []
    for value, shown, key in named:
        pair = _columns(scores, [BASE, value], key)
        base, agent = part.means(pair).T
        rows.append({"value": value, "measure": shown, **part.figures(pair, base=base, agent=agent, gain=agent - base)})
    return rows


def overlap_rows(part: Slice, scores: Scores, systems: Sequence[str], measures: Sequence[str]) -> list[Row]:
    """How near each system's answers come to the references (table 2, figure 4)."""
    rows = []
    for measure in measures:
        values = _columns(scores, systems, measure)
        for system, means in zip(systems, part.means(values).T, strict=True):
            figures = part.figures(values, mean=means)
            rows.append({"profiles": part.name, "system": system, "measure": measure, **figures})
    return rows


def win_rows(part: Slice, scores: Scores, systems: Sequence[str]) -> list[Row]:
    """How often each system's BERTScore is above another's for the same question, ties counted half (table 3)."""
    values = _columns(scores, systems, BERTSCORE)
    rows = []
    for left, system in enumerate(systems):
        others = [right for right in range(len(systems)) if right != left]
        gap = values[:, [left]] - values[:, others]
        tied = np.where(np.isnan(gap), np.nan, np.abs(gap) <= _TIE)
        won = np.where(tied == 1, 0.5, np.where(np.isnan(gap), np.nan, gap > 0))
        ties = part.means(tied)[0]
        for place, (right, means) in enumerate(zip(others, part.means(won).T, strict=True)):
            figures = part.figures(won, win_rate=means)
            tie = {"ties": or_none(ties[place])}
            rows.append({"profiles": part.name, "system": system, "other": systems[right], **figures, **tie})
    return rows


def flip_rows(
    part: Slice,
    scores: Scores,
    contexts: Sequence[ContextKind],
    measures: Sequence[Measure],
    asked: Mapping[str, Floats],
) -> list[Row]:
    """What asking an aggregator for a value does to that value's reward, all else in the profile being equal.

    Args:
        asked: value to (n,) weights that the profiles give it.

    Returns:
        rows with the mean reward `without` and `asked` for it, and their `shift`, asked less without.
    """
    rows = []
    for context in contexts:
        for measure in measures:
            own, flipped = aggregator_name(context), flipped_name(context, measure.value)
            if (flipped, measure.key) not in scores:
                continue
            pair = _columns(scores, [own, flipped], measure.key)
            was_asked = (asked[measure.value] > 0)[:, None]
            ordered = np.where(was_asked, pair[:, ::-1], pair)
            off, on = part.means(ordered).T
            figures = part.figures(ordered, without=off, asked=on, shift=on - off)
            rows.append(
                {"profiles": part.name, "context": context, "value": measure.value, "measure": measure.shown, **figures}
            )
    return rows


def bound_rows(
    part: Slice,
    scores: Scores,
    contexts: Sequence[ContextKind],
    measures: Sequence[Measure],
    agents: Sequence[str],
    asked: Mapping[str, Floats],
) -> list[Row]:
    """Theorem 1's inequality: where a value is asked for, the aggregator's expected reward is no less than the least
    of its agents' (but for an error term that the paper bounds by the aggregator's sharpness).

    Its agents are those it hears: all in a full context, in a dynamic one those of the values that the profile asks
    for. Questions that hear the same agents have a least of their own, the least of these agents' means over them, and
    `least` is the mean of these over all questions. The least of several means is itself chosen by chance, in each
    resample anew. The theorem's proof is heuristic, so this is a check on data and no more.

    Args:
        asked: value to its weight in each question's profile, (n,).

    Returns:
        rows with the mean reward of the `aggregator`, of the value's own agent (`own`), the `least` and whose it is for
        most questions (`least_agent`), the `margin`, aggregator less least, and the `verdict`: holds where no part of
        the margin's interval is below 0, fails where all of it is, else open.
    """
    rows = []
    for context in contexts:
        for measure in measures:
            values = _columns(scores, [aggregator_name(context), *agents], measure.key)
            asked_for = asked[measure.value] > 0
            values = np.where(asked_for[:, None], values, np.nan)
            heard = np.column_stack([asked[agent] > 0 if context == "dynamic" else asked_for for agent in agents])
            means = part.means(values)
            tuned, own = means[:, 0], means[:, 1 + list(agents).index(measure.value)]
            least, shares = _least(part, np.where(_whole(values)[:, None], values[:, 1:], np.nan), heard)
            figures = part.figures(values, aggregator=tuned, own=own, least=least, margin=tuned - least)
            known = figures["n"] > 0
            rows.append(
                {
                    "profiles": part.name,
                    "context": context,
                    "value": measure.value,
                    "measure": measure.shown,
                    **figures,
                    "least_agent": agents[int(shares.argmax())] if known else None,
                    "verdict": _verdict(figures["margin_low"], figures["margin_high"]),
                }
            )
    return rows


def _least(part: Slice, rewards: Floats, heard: NDArray[np.bool_]) -> tuple[Floats, Floats]:
    """The least of the agents that are heard.

    Args:
        rewards: (n, k) of the agents; a row with a NaN counts nowhere.
        heard: (n, k) which agents; in a row that counts, at least one.

    Returns:
        (1 + DRAWS,) means over questions; (k,) share of the questions for which each agent is the least.
    """
    counts = _whole(rewards)
    total = 0 * part.means(rewards)[:, 0]
    shares = np.zeros(rewards.shape[1])
    for group in sorted({tuple(row) for row in heard[counts & part.chosen].tolist()}):
        own = (heard == group).all(axis=1)
        share = part.means(np.where(counts, own, np.nan)[:, None])[:, 0]
        means = part.means(np.where(own[:, None], rewards, np.nan))[:, list(group)]
        total += np.where(share > 0, share * means.min(axis=1), 0)
        shares[np.flatnonzero(group)[means[0].argmin()]] += share[0]
    return total, shares


def _whole(rows: Floats) -> NDArray[np.bool_]:
    """(n,) whether a row has no NaN."""
    return np.asarray(np.isfinite(rows).all(axis=1))


def _columns(scores: Scores, systems: Sequence[str], measure: str) -> Floats:
    """(n, s)"""
    return np.column_stack([scores[system, measure] for system in systems])


def _verdict(low: float | None, high: float | None) -> str:
    if low is not None and low >= 0:
        return "holds"
    return "fails" if high is not None and high < 0 else "open"
