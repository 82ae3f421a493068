"""A chat completion as a judgement: known answers, and nothing read into a reply that does not say it."""

import math
import re

import pytest
from chat_server import completion
from hypothesis import given
from hypothesis import strategies as st

from consilience.lm.openai_reply import Judgement, Reply, read_reply


def positions(*tokens: tuple[str, dict[str, float]]) -> dict[str, object]:
    """Log-probabilities of a reply: the token chosen at each position, and the probabilities there."""
    return {
        "content": [
            {
                "token": token,
                "logprob": math.log(top.get(token, 1e-9)),
                "top_logprobs": [{"token": t, "logprob": math.log(p)} for t, p in top.items()],
            }
            for token, top in tokens
        ]
    }


def judge(
    elicitation: str, content: str | None, *tokens: tuple[str, dict[str, float]], finish: str = "stop"
) -> Judgement:
    logprobs = positions(*tokens) if tokens else None
    reply = Reply.model_validate(completion(content, finish, logprobs=logprobs))
    return read_reply(reply, elicitation)  # type: ignore[arg-type]


def test_yes_no_adds_the_spellings_up_and_renormalises() -> None:
    top = {"Yes": 0.5, " yes": 0.1, "YES": 0.05, "No": 0.2, " no": 0.05, "Not": 0.06, "Y": 0.02}
    found = judge("yes_no", "Yes", ("Yes", top))
    assert found.status == "ok"
    assert found.score == pytest.approx(0.65 / 0.9)
    assert found.answer_mass == pytest.approx(0.9)


def test_yes_no_is_read_at_the_first_token_that_is_not_blank() -> None:
    found = judge("yes_no", "\n No, since", ("\n", {"\n": 1.0}), (" No", {" No": 0.6, " Yes": 0.3}), finish="length")
    assert found.score == pytest.approx(1 / 3)
    assert found.answer_mass == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("content", "token"), [("Nothing", "No"), ("Sorry, yes", "Sorry"), ("Maybe", "Maybe"), ("", "")]
)
def test_yes_no_reads_no_answer_into_another_reply(content: str, token: str) -> None:
    found = judge("yes_no", content, (token, {token: 0.6, "Yes": 0.2, "No": 0.1}))
    assert found.status == "unparsable"
    assert math.isnan(found.score)


def test_scale_is_the_expectation_over_first_tokens() -> None:
    top = {"7": 0.5, "8": 0.2, "10": 0.1, " 2": 0.1, "1": 0.04, "I": 0.06}
    found = judge("scale_0_10", "7", ("7", top))
    assert found.score == pytest.approx((3.5 + 1.6 + 1.0 + 0.2 + 0.04) / 0.94 / 10)
    assert found.answer_mass == pytest.approx(0.94)


def test_scale_splits_one_and_ten_by_the_second_token() -> None:
    tokens = ("1", {"1": 0.8, "9": 0.2}), ("0", {"0": 0.75, ".": 0.25})
    found = judge("scale_0_10", "10", *tokens)
    assert found.score == pytest.approx((0.8 * (0.75 * 10 + 0.25 * 1) + 0.2 * 9) / 10)
    assert found.answer_mass == pytest.approx(1.0)


def test_scale_is_parsed_where_one_may_begin_ten() -> None:
    unknown = judge("scale_0_10", "6", ("6", {"6": 0.7, "1": 0.3}))
    assert unknown.score == 0.6
    assert math.isnan(unknown.answer_mass)
    negligible = judge("scale_0_10", "6", ("6", {"6": 0.998, "1": 0.002}))
    assert negligible.score == pytest.approx(0.599)


def test_a_decimal_is_parsed_though_there_are_log_probabilities() -> None:
    found = judge("scale_0_10", "7.5", ("7", {"7": 0.9, "8": 0.1}), (".", {".": 1.0}), ("5", {"5": 1.0}))
    assert found.score == 0.75


@pytest.mark.parametrize(
    ("elicitation", "content", "score"),
    [
        ("yes_no", "yes", 1.0),
        ("yes_no", " Yes.\n", 1.0),
        ("yes_no", "NO", 0.0),
        ("scale_0_10", "0", 0.0),
        ("scale_0_10", " 10.\n", 1.0),
        ("scale_0_10", "7.5", 0.75),
        ("scale_0_10", "7.", 0.7),
        ("scale_0_10", "10.0", 1.0),
    ],
)
def test_a_reply_that_is_the_answer_and_nothing_else(elicitation: str, content: str, score: float) -> None:
    found = judge(elicitation, content)
    assert (found.score, found.status) == (score, "ok")
    assert math.isnan(found.answer_mass)


@pytest.mark.parametrize(
    ("elicitation", "content"),
    [
        ("yes_no", "Yes, because"),
        ("yes_no", "yes no"),
        ("yes_no", "yes.."),
        ("yes_no", "1"),
        ("yes_no", None),
        ("yes_no", "ye\u017f"),
        ("scale_0_10", "7/10"),
        ("scale_0_10", "Score: 7"),
        ("scale_0_10", "11"),
        ("scale_0_10", "10.5"),
        ("scale_0_10", "-1"),
        ("scale_0_10", "7,5"),
        ("scale_0_10", "1e1"),
        ("scale_0_10", "\u0667"),
        ("scale_0_10", "nan"),
        ("scale_0_10", ""),
    ],
)
def test_anything_else_is_unparsable(elicitation: str, content: str | None) -> None:
    assert judge(elicitation, content).status == "unparsable"


@pytest.mark.parametrize(
    ("elicitation", "content", "status"),
    [
        ("scale_0_10", "1", "unparsable"),
        ("scale_0_10", "7.5", "unparsable"),
        ("scale_0_10", "7.\n", "ok"),
        ("yes_no", "No", "unparsable"),
        ("yes_no", "No\n", "ok"),
    ],
)
def test_a_reply_cut_off_counts_only_if_the_answer_is_whole(elicitation: str, content: str, status: str) -> None:
    assert judge(elicitation, content, finish="length").status == status


def test_a_refusal_is_refused_whatever_else_it_holds() -> None:
    top = positions(("Yes", {"Yes": 0.9}))
    declined = completion("Yes", logprobs=top, refusal="I cannot help with that.")
    filtered = completion("Yes", "content_filter", logprobs=top)
    for body in (declined, filtered):
        found = read_reply(Reply.model_validate(body), "yes_no")
        assert found.status == "refused"
        assert math.isnan(found.score)


@pytest.mark.parametrize("logprobs", [[], {"tokens": ["Yes"]}, {"content": None}, {"content": [{"token": "Yes"}]}])
def test_log_probabilities_of_another_shape_are_none(logprobs: object) -> None:
    found = read_reply(Reply.model_validate(completion("Yes", logprobs=logprobs)), "yes_no")
    assert (found.score, found.status) == (1.0, "ok")


@given(st.dictionaries(st.sampled_from([str(k) for k in range(11)]), st.floats(1e-6, 1.0), min_size=1))
def test_an_expectation_stays_among_its_numbers(weights: dict[str, float]) -> None:
    total = math.fsum(weights.values())
    top = {token: p / total for token, p in weights.items()}
    best = max(top, key=lambda token: top[token])
    found = judge("scale_0_10", best, (best, top))
    numbers = [int(token) / 10 for token in top]
    assert min(numbers) - 1e-9 <= found.score <= max(numbers) + 1e-9
    if "10" in top or "1" not in top:
        assert found.score == pytest.approx(sum(int(token) * p for token, p in top.items()) / 10)


@given(st.text())
def test_a_parsed_text_is_an_answer_or_missing(text: str) -> None:
    for elicitation, answer in (("yes_no", r"(?i)yes|no"), ("scale_0_10", r"[0-9.]+")):
        found = judge(elicitation, text)
        assert (found.status == "ok") == (not math.isnan(found.score))
        if found.status == "ok":
            assert re.fullmatch(answer, text.strip().removesuffix(".").strip())
            assert 0 <= found.score <= 1
