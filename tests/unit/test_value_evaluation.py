"""Evaluation of agents and aggregators: measures with known answers, what systems are asked, tables, page."""

import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import bootstrap
from value_runs import question_rows, question_table

from consilience.files import write_json
from consilience.report.value_evaluation import print_evaluation, write_report
from consilience.table_schema import write_table
from consilience.tables import ANSWERS, QUESTIONS
from consilience.theories import VALUE_NAMES, VALUES
from consilience.values.context import shown
from consilience.values.evaluation import Measure, Scores, Slice, bound_rows, flip_rows, slices, win_rows
from consilience.values.evaluation_summary import OVERLAPS, PLAIN, headline, tabulate
from consilience.values.evaluation_tables import EVALUATION
from consilience.values.profile import parse_profile
from consilience.values.questions import questions_of, situations_of
from consilience.values.requests import read_requests, write_requests
from consilience.values.systems import (
    OTHER_REFERENCE,
    alone,
    compared,
    draw_shots,
    flip,
    in_context,
    other_references,
    with_flips,
)

AGENTS = sorted(VALUE_NAMES)
CARE = Measure("reward", "care", forced=False)


# What systems are asked


QUESTION_LIST = questions_of(question_table(question_rows()))
HEARD = {question.question_id: {name: f"{name} says" for name in AGENTS} for question in QUESTION_LIST}


def test_flipping_turns_one_value_alone() -> None:
    profile = parse_profile({"care": 1, "loyalty": 0.5}, "here")
    assert flip(profile, VALUES[1]) == parse_profile({"loyalty": 0.5}, "here")
    assert flip(profile, VALUES[3]) == parse_profile({"care": 1}, "here")
    assert flip(profile, VALUES[0]) == parse_profile({"care": 1, "loyalty": 0.5, "authority": 1}, "here")


def test_every_system_is_asked_every_question() -> None:
    shots = draw_shots(QUESTION_LIST, 2, seed=0)
    assert [len(shots[value]) for value in ("care", "loyalty", "sanctity")] == [2, 2, 0]
    assert draw_shots(QUESTION_LIST, 2, seed=0) == shots
    contexts = ("dynamic", "full")
    asked = alone(QUESTION_LIST, ["base", *AGENTS]) + in_context(QUESTION_LIST, HEARD, contexts, shots)
    assert {(each.question_id, each.system) for each in asked} == {
        (question.question_id, system) for question in QUESTION_LIST for system in compared(AGENTS, contexts)
    }
    prompts = {(each.question_id, each.system): each for each in asked}
    assert prompts["q1", "base_full"].pieces == prompts["q1", "aggregator_full"].pieces
    assert prompts["q1", "aggregator_full"].adapter == "aggregator_full"
    assert prompts["q1", "base_full"].adapter == prompts["q1", "few_shot"].adapter == "base"
    merged = shown(prompts["q1", "prompted"].pieces)
    assert "Write one answer of your own" in merged
    assert "loyalty: loyalty says" in merged
    assert "sanctity" not in merged
    few = shown(prompts["q1", "few_shot"].pieces)
    assert few.startswith("Moral values:\n- Care: ")
    assert few.endswith("\nQuestion: May I take 1 of them?")
    assert few.count("\nAnswer: Take") == len(
        {shot.question_id for value in ("care", "loyalty") for shot in shots[value]}
    )
    for system in ("few_shot", "prompted", "base"):
        assert shown(prompts["q2", system].pieces) == " May I take 2 of them?", "nothing is asked for"


def test_flipped_profiles_are_asked_of_the_aggregators() -> None:
    asked = with_flips(QUESTION_LIST[:2], HEARD, ("dynamic",), ["care", "sanctity"])
    assert [each.system for each in asked] == ["aggregator_dynamic_flip_care"] * 2 + [
        "aggregator_dynamic_flip_sanctity"
    ] * 2
    assert "care says" not in shown(asked[0].pieces), "q0 asked for care"
    assert "sanctity says" in shown(asked[2].pieces)


def test_requests_come_back_as_they_were(tmp_path: Path) -> None:
    asked = in_context(QUESTION_LIST, HEARD, ("full",), draw_shots(QUESTION_LIST, 1, 0))
    path = tmp_path / "requests.parquet"
    batches = write_requests(path, asked, batch_size=5)
    assert batches == -(-len(asked) // 5)
    found = [request for batch in range(batches) for request in read_requests(path, batch)]
    assert {(each.question_id, each.system): each for each in found} == {
        (each.question_id, each.system): each for each in asked
    }
    first = path.read_bytes()
    write_requests(path, asked, batch_size=5)
    assert path.read_bytes() == first, "the same requests have the same digest"


# Figures


def whole(count: int, situations: list[str] | None = None) -> Slice:
    return Slice("all", np.ones(count, dtype=bool), situations or [str(k) for k in range(count)], seed=0)


def test_intervals_are_those_of_the_bootstrap() -> None:
    values = np.random.default_rng(1).normal(size=300)
    part = whole(300)
    found = part.figures(values[:, None], mean=part.means(values[:, None])[:, 0])
    scipy = bootstrap((values,), np.mean, method="percentile", rng=2).confidence_interval
    assert found["mean"] == pytest.approx(values.mean())
    assert (found["mean_low"], found["mean_high"]) == pytest.approx((scipy.low, scipy.high), abs=0.02)
    twice = whole(600, [str(k % 300) for k in range(600)])
    doubled = np.tile(values, 2)[:, None]
    again = twice.figures(doubled, mean=twice.means(doubled)[:, 0])
    assert again["n"] == 600
    width = found["mean_high"] - found["mean_low"]
    assert again["mean_high"] - again["mean_low"] == pytest.approx(width, rel=0.1), "copies are no new evidence"


def test_what_is_missing_is_left_out() -> None:
    values = np.array([[1.0, 2.0], [np.nan, 9.0], [3.0, 4.0]])
    part = whole(3)
    assert part.means(values)[0] == pytest.approx([2, 3])
    found = part.figures(values, mean=part.means(values)[:, 0])
    assert found["n"] == 2
    nothing = np.full((3, 1), np.nan)
    assert part.figures(nothing, mean=part.means(nothing)[:, 0]) == {
        "mean": None, "mean_low": None, "mean_high": None, "n": 0,
    }  # fmt: skip
    alone_ = whole(3, ["s", "s", "s"])
    assert alone_.figures(values, mean=alone_.means(values)[:, 0])["mean_low"] is None, "one situation says nothing"


@given(st.lists(st.tuples(*[st.sampled_from([0.1, 0.5, 0.9])] * 3), min_size=2, max_size=6))
def test_win_rates_of_a_pair_sum_to_one(rows: list[tuple[float, ...]]) -> None:
    values = np.array(rows)
    scores = {(name, "bertscore_f1"): values[:, place] for place, name in enumerate("abc")}
    found = {(row["system"], row["other"]): row for row in win_rows(whole(len(rows)), scores, list("abc"))}
    assert len(found) == 6
    for (system, other), row in found.items():
        assert row["win_rate"] + found[other, system]["win_rate"] == pytest.approx(1)
        gap = values[:, "abc".index(system)] - values[:, "abc".index(other)]
        assert row["win_rate"] == pytest.approx(np.mean((gap > 0) + 0.5 * (gap == 0)))
        assert row["ties"] == pytest.approx(np.mean(gap == 0))


def test_a_flip_is_counted_towards_the_value() -> None:
    scores: Scores = {
        ("aggregator_full", "reward_care"): np.array([0.9, 0.2, 0.5]),
        ("aggregator_full_flip_care", "reward_care"): np.array([0.4, 0.3, np.nan]),
    }
    asked = {"care": np.array([1.0, 0.0, 0.5])}
    (row,) = flip_rows(whole(3), scores, ["full"], [CARE, Measure("reward", "loyalty", False)], asked)
    assert row["without"] == pytest.approx((0.4 + 0.2) / 2)
    assert row["asked"] == pytest.approx((0.9 + 0.3) / 2)
    assert row["shift"] == pytest.approx(0.3)
    assert row["n"] == 2


def test_the_bound_is_the_least_agent_where_the_value_is_asked_for() -> None:
    count = 40
    scores: Scores = {
        ("aggregator_full", "reward_care"): np.r_[np.full(20, 0.5), np.zeros(20)],
        ("care", "reward_care"): np.r_[np.full(20, 0.9), np.zeros(20)],
        ("loyalty", "reward_care"): np.r_[np.full(20, 0.4), np.ones(20)],
    }
    asked = {"care": np.r_[np.ones(20), np.zeros(20)]}
    (row,) = bound_rows(whole(count), scores, ["full"], [CARE], ["care", "loyalty"], asked)
    assert (row["aggregator"], row["own"], row["least"]) == pytest.approx((0.5, 0.9, 0.4))
    assert row["margin"] == pytest.approx(0.1)
    assert (row["least_agent"], row["verdict"], row["n"]) == ("loyalty", "holds", 20)
    scores = {**scores, ("aggregator_full", "reward_care"): np.full(count, 0.1)}
    (row,) = bound_rows(whole(count), scores, ["full"], [CARE], ["care", "loyalty"], asked)
    assert row["verdict"] == "fails"
    (row,) = bound_rows(whole(count), scores, ["full"], [CARE], ["care", "loyalty"], {"care": np.zeros(count)})
    assert (row["verdict"], row["least_agent"], row["n"]) == ("open", None, 0)


def test_in_a_dynamic_context_the_bound_is_of_the_agents_that_are_heard() -> None:
    """Care alone is heard by the first twenty, care and loyalty by the others: 0.9 and 0.4; fairness, at 0, by none."""
    count = 40
    scores: Scores = {
        ("aggregator_dynamic", "reward_care"): np.full(count, 0.5),
        ("care", "reward_care"): np.full(count, 0.9),
        ("fairness", "reward_care"): np.zeros(count),
        ("loyalty", "reward_care"): np.full(count, 0.4),
    }
    asked = {"care": np.ones(count), "fairness": np.zeros(count), "loyalty": np.r_[np.zeros(10), np.ones(30)]}
    (row,) = bound_rows(whole(count), scores, ["dynamic"], [CARE], ["care", "fairness", "loyalty"], asked)
    assert row["least"] == pytest.approx((10 * 0.9 + 30 * 0.4) / 40)
    assert row["margin"] == pytest.approx(0.5 - row["least"])
    assert row["least_low"] < row["least"] < row["least_high"]
    assert (row["least_agent"], row["verdict"], row["n"]) == ("loyalty", "open", count)
    full = {("aggregator_full", "reward_care"): np.full(count, 0.5), **scores}
    (row,) = bound_rows(whole(count), full, ["full"], [CARE], ["care", "fairness", "loyalty"], asked)
    assert (row["least"], row["least_agent"], row["verdict"]) == (0, "fairness", "holds")


def test_the_floor_is_of_another_situation() -> None:
    """q0 to q3 are of situation s0, q4 and q5 of s1."""
    situations = situations_of(question_table(question_rows()))
    assert len(set(situations)) == 2
    others = other_references(QUESTION_LIST, situations)
    assert others == {
        **dict.fromkeys(("q0", "q1", "q2", "q3"), "Take 1, not more."),
        **dict.fromkeys(("q4", "q5"), "Take 0, not more."),
    }
    assert other_references(QUESTION_LIST, ["s"] * 6) == {}


def test_the_same_words_are_the_same_situation() -> None:
    rows = question_rows(4)
    changes = (
        {"situation": "a"},
        {"situation": "b", "text": "x"},
        {"situation": None, "text": "x"},
        {"situation": "b"},
    )
    found = situations_of(question_table([row | change for row, change in zip(rows, changes, strict=True)]))
    assert found[1] == found[2] == found[3] != found[0]


def test_profiles_from_people_stand_apart() -> None:
    found = slices(["human", "predicted", "human"], ["a", "b", "c"], 0)
    assert [(part.name, int(part.chosen.sum())) for part in found] == [("all", 3), ("human", 2), ("predicted", 1)]
    assert [part.name for part in slices(["human"], ["a"], 0)] == ["all"]


# Tables, page, terminal


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("evaluation")
    questions = question_table([row for row in question_rows(24) if row["split"] == "test"])
    contexts, count = ("dynamic", "full"), questions.num_rows
    random = np.random.default_rng(0)
    systems = compared(AGENTS, contexts)
    measures = [Measure(kind, value, value == "loyalty") for kind in ("reward", "judge") for value in AGENTS]
    scores = {(system, name): random.random(count) for system in (*systems, OTHER_REFERENCE) for name in OVERLAPS}
    scores |= {(system, name): random.random(count) for system in ("base", *AGENTS) for name in PLAIN}
    scored = ["base", *AGENTS, *(f"aggregator_{c}{f}" for c in contexts for f in ("", *(f"_flip_{v}" for v in AGENTS)))]
    scores |= {(system, measure.key): random.random(count) for system in scored for measure in measures}
    tables = tabulate(questions, scores, measures, AGENTS, contexts, seed=0)
    for schema in EVALUATION:
        write_table(
            pa.Table.from_pylist(tables[schema.name], schema=schema.arrow), folder / f"{schema.name}.parquet", schema
        )
    write_table(questions, folder / "questions.parquet", QUESTIONS)
    names = questions.column("question_id").to_pylist()
    rows = [{"question_id": name, "system": s, "text": "<script>x</script>"} for s in systems for name in names]
    write_table(pa.Table.from_pylist(rows), folder / "answers.parquet", ANSWERS)
    summary = {"questions": count, "bertscore_encoder": "tiny, layer 2", **headline(tables, contexts)}
    write_json(folder / "summary.json", summary)
    manifest = {
        "job": "evaluate",
        "started": "2030-01-01T00:00:00+00:00",
        "code": "1",
        "config": {},
        "notes": ["A note."],
    }
    write_json(folder / "manifest.json", manifest)
    return folder


def test_the_headline_names_what_was_forced(run: Path) -> None:
    summary = json.loads((run / "summary.json").read_text())
    for key in (
        "reward_gain_care", "reward_forced_gain_loyalty_low", "judge_agent_sanctity", "bertscore_aggregator_dynamic",
        "rouge_l_few_shot", "win_rate_base", "win_rate_aggregator_full_over_prompted", "reward_shift_full_care",
        "reward_forced_margin_dynamic_loyalty", "bertscore_other_reference", "words_gain_care",
    ):  # fmt: skip
        assert isinstance(summary[key], float), key
    assert "reward_gain_loyalty" not in summary
    assert "win_rate_other_reference" not in summary
    rates = [figure for key, figure in summary.items() if key.startswith("win_rate_") and "_over_" not in key]
    assert np.mean(rates) == pytest.approx(0.5), "what one wins another loses"


def test_the_page_shows_every_table_and_runs_nothing(run: Path) -> None:
    page = write_report(run).read_text()
    for told in (
        "Does an agent follow its value?", "tiny, layer 2", "reward (forced)", "Profiles from people",
        "base told to merge", "another question&#39;s reference", "the machinery, not the morals", "A note.",
    ):  # fmt: skip
        assert told in page
    assert "<script" not in page
    assert page.count("<table>") == 1 + 3 + 3 + 1 + 1


def test_the_terminal_shows_all_five_tables(run: Path) -> None:
    out = io.StringIO()
    print_evaluation(run, Console(file=out, width=160))
    said = out.getvalue()
    for told in (
        "Base and agents",
        "Nearness to the reference",
        "Win rates",
        "Asking an aggregator",
        "Theorem 1",
        "A note.",
    ):
        assert told in said
    assert "reward (forced)" in said
