"""Answer tokens and the scores they make, by hand."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from consilience.errors import UserError
from consilience.lm.answers import find_answers


def speller(*words: str) -> Callable[[str], list[int]]:
    """Longest match first; words are tokens 100, 101, ..., other characters their code."""

    def encode(text: str) -> list[int]:
        tokens = []
        while text:
            word = max((word for word in words if text.startswith(word)), key=len, default=None)
            tokens.append(ord(text[0]) if word is None else 100 + words.index(word))
            text = text[len(word or text[0]) :]
        return tokens

    return encode


TENS = tuple(str(number) for number in range(11))
DIGITS = TENS[:10]
SPACED = tuple(f" {number}" for number in range(11))


def log(*probabilities: float) -> np.ndarray:
    return np.log(np.array(probabilities))


def test_all_spellings_of_one_token_count() -> None:
    answers = find_answers(speller("yes", " yes", "Yes", "no", " No"), "yes_no", chat=True)
    assert answers.values == {100: 1.0, 101: 1.0, 102: 1.0, 103: 0.0, 104: 0.0}
    assert (answers.ending, answers.positions, answers.tokens) == ([], 1, [100, 101, 102, 103, 104])
    score, mass = answers.score(log(0.1, 0.2, 0.06, 0.03, 0.01)[None])
    assert mass == pytest.approx(0.4)
    assert score == pytest.approx(0.36 / 0.4)


def test_ten_as_one_token() -> None:
    for chat in (True, False):
        answers = find_answers(speller(*TENS, *SPACED), "scale_0_10", chat)
        assert (len(answers.values), answers.ending, answers.positions) == (22, [], 1)
        assert answers.values[110] == answers.values[121] == 1.0
    bare = find_answers(speller(*TENS, *SPACED[:5]), "scale_0_10", chat=True)
    assert list(bare.values.values()) == [number / 10 for number in range(11)]


def test_ten_in_two_tokens_is_read_at_two_positions() -> None:
    answers = find_answers(speller(*DIGITS), "scale_0_10", chat=True)
    assert (answers.ending, answers.positions, answers.ten) == ([101], 2, (101, 100))
    first = [0.02, 0.4, 0, 0, 0, 0, 0, 0.1, 0, 0.08]
    with np.errstate(divide="ignore"):
        rows = np.stack([log(*first, 0.5), log(*[0.0] * 10, 0.75)])
    score, mass = answers.score(rows)
    assert mass == pytest.approx(0.6)
    assert score == pytest.approx((0.1 * 0.1 + 1.0 * 0.3 + 0.7 * 0.1 + 0.9 * 0.08) / 0.6)


def test_a_space_of_its_own_leads_where_the_answer_follows_a_colon() -> None:
    encode = speller(*DIGITS, " ")
    assert find_answers(encode, "scale_0_10", chat=True).ending == [101]
    plain = find_answers(encode, "scale_0_10", chat=False)
    assert (plain.lead, plain.ending, plain.positions) == ((110,), [110, 101], 2)
    assert find_answers(speller(*TENS, " "), "scale_0_10", chat=False).ending == [111]


def test_a_tokeniser_without_the_answers_is_refused() -> None:
    with pytest.raises(UserError, match="no single token for yes or no"):
        find_answers(speller("yes", "n"), "yes_no", chat=True)
    with pytest.raises(UserError, match="no single tokens for 0 to 9"):
        find_answers(lambda text: [1, 2], "scale_0_10", chat=True)
    with pytest.raises(UserError, match="writes 10 in neither one token nor two"):
        find_answers(lambda text: [200] * 3 if "10" in text else [ord(text[-1])], "scale_0_10", chat=True)


@given(st.lists(st.floats(1e-12, 1.0), min_size=11, max_size=11), st.floats(0.0, 1.0), st.floats(1e-9, 1.0))
def test_a_score_is_an_expectation(weights: list[float], zero: float, total: float) -> None:
    answers = find_answers(speller(*DIGITS), "scale_0_10", chat=True)
    first = np.array(weights[:10]) / sum(weights) * total
    with np.errstate(divide="ignore"):
        score, mass = answers.score(np.log(np.stack([[*first, 1.0], [*first, zero]])))
    shares = {number: first[number] for number in range(10)}
    shares[1], shares[10] = first[1] * (1 - zero), first[1] * zero
    expected = sum(number / 10 * share for number, share in shares.items()) / sum(shares.values())
    assert score == pytest.approx(expected, abs=1e-12)
    assert mass == pytest.approx(first.sum())
    assert 0 <= score <= 1


def test_no_mass_is_no_score() -> None:
    score, mass = find_answers(speller("yes", "no"), "yes_no", chat=True).score(np.array([[-np.inf, -np.inf]]))
    assert np.isnan(score)
    assert mass == 0
