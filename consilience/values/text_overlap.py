"""ROUGE: how many words an answer shares with a reference, in runs of n and in order (Lin 2004).

Words are runs of letters and digits, in lower case and not stemmed; every figure is the F1 of precision and recall.
The package rouge-score is not used: by itself it knows the letters a to z only, and it parts sentences by data of NLTK.
"""

import re
from collections import Counter
from collections.abc import Sequence

ROUGE = ("rouge_1", "rouge_2", "rouge_l", "rouge_lsum")

_WORD = re.compile(r"[^\W_]+")
_SENTENCE_END = re.compile(r"\n+|(?<=[.!?])\s+")


def rouge(text: str, reference: str) -> tuple[float, float, float, float]:
    """ROUGE-1, -2, -L and -Lsum of `text`, each in [0, 1]; 0 where either side has no word (or pair of words)."""
    ours, theirs = words(text), words(reference)
    return (
        rouge_n(ours, theirs, 1),
        rouge_n(ours, theirs, 2),
        f1(len(common_subsequence(theirs, ours)), len(ours), len(theirs)),
        rouge_lsum(text, reference),
    )


def rouge_n(ours: Sequence[str], theirs: Sequence[str], n: int) -> float:
    """Runs of `n` words that both have; one that occurs several times counts as often as both have it."""
    left, right = (Counter(ngrams(side, n)) for side in (ours, theirs))
    return f1((left & right).total(), left.total(), right.total())


def rouge_lsum(text: str, reference: str) -> float:
    """Summary-level ROUGE-L (Lin 2004, section 3.2).

    For every sentence of the reference, the words that stand in a longest common subsequence with any sentence of the
    text are united; a word counts no more often than each side has it. Sentences end at a line break, or at a full
    stop, question or exclamation mark before a space.
    """
    ours, theirs = (
        [found for part in _SENTENCE_END.split(side) if (found := words(part))] for side in (text, reference)
    )
    shared: Counter[str] = Counter()
    for sentence in theirs:
        places = {place for other in ours for place in common_subsequence(sentence, other)}
        shared.update(sentence[place] for place in places)
    left, right = (Counter(word for sentence in side for word in sentence) for side in (ours, theirs))
    return f1((shared & left & right).total(), left.total(), right.total())


def words(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return _WORD.findall(text.lower())


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of `n` words, in order."""
    return list(zip(*(words[start:] for start in range(n)), strict=False))


def repetition(words: Sequence[str]) -> float | None:
    """Share of the runs of three words that a text has used before, in [0, 1]; None where it has none."""
    found = ngrams(words, 3)
    return 1 - len(set(found)) / len(found) if found else None


def f1(shared: int, ours: int, theirs: int) -> float:
    """Harmonic mean of precision, `shared` of `ours`, and recall, `shared` of `theirs`; 0 where nothing is shared."""
    return 2 * shared / (ours + theirs) if shared else 0.0


def common_subsequence(first: Sequence[str], second: Sequence[str]) -> list[int]:
    """Places in `first` of a longest subsequence that `second` has too, ascending."""
    lengths = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for row, word in enumerate(first):
        above, below = lengths[row], lengths[row + 1]
        for column, other in enumerate(second):
            below[column + 1] = above[column] + 1 if word == other else max(above[column + 1], below[column])
    places = []
    row, column = len(first), len(second)
    while row and column:
        if first[row - 1] == second[column - 1]:
            row, column = row - 1, column - 1
            places.append(row)
        elif lengths[row - 1][column] >= lengths[row][column - 1]:
            row -= 1
        else:
            column -= 1
    return places[::-1]
