"""What a column may say: a grammar over a language model's tokens that has exactly the column's values as its words.

Where the grammar leaves a single token there is no choice, and nothing is spelt: a category is told by the tokens that
set it apart from the others, a number by the digits that its range leaves open. The model that learns these words
spends no step on what is certain.
"""

from calendar import monthrange
from collections.abc import Callable, Sequence
from typing import Protocol

from consilience.errors import UserError
from consilience.tabular.schema import ColumnSchema, Value

Tokenise = Callable[[str], Sequence[int]]
"""A text to a language model's token ids."""

Word = tuple[int, ...]
"""Symbols: token ids of the language model, or negative where it has no token that would do."""

_STOP, _NO_NUMBER, _FIRST_MARK = -1, -2, -3
MISSING = " missing"


class ColumnGrammar:
    """The words of one column: tries of categories, digits of numbers and dates within the range that was seen."""

    def __init__(self, column: ColumnSchema, tokenise: Tokenise) -> None:
        self.column = column
        self._full: _Automaton
        if column.empty or column.kind in ("category", "boolean"):
            self._full = _Trie(column, tokenise)
        else:
            self._full = _Dates(column, tokenise) if column.kind == "date" else _Numbers(column, tokenise)
        self._known: dict[Word, tuple[Word, tuple[int, ...]]] = {}

    @property
    def longest(self) -> int:
        """No word is longer."""
        return self._full.longest

    @property
    def symbols(self) -> set[int]:
        """All that its words are made of, and perhaps a few more."""
        return self._full.symbols

    def options(self, word: Word) -> tuple[int, ...]:
        """Symbols that may follow the beginning `word`: two at least, or none where it is whole."""
        return self._follow(word)[1]

    def encode(self, value: Value) -> Word:
        """The word for `value`.

        Raises:
            UserError: the column cannot have it.
        """
        full = self._full.spell(value)
        if full is not None:
            options = [self._full.next(full[:place]) for place in range(len(full))]
            if all(symbol in each for symbol, each in zip(full, options, strict=True)):
                return tuple(symbol for symbol, each in zip(full, options, strict=True) if len(each) > 1)
        raise UserError(f"column '{self.column.name}': {value!r}; expected {self.column.expected}")

    def decode(self, word: Word) -> Value:
        """The value that a whole word stands for."""
        full, options = self._follow(word)
        assert not options, "a whole word"
        return self._full.read(full)

    def _follow(self, word: Word) -> tuple[Word, tuple[int, ...]]:
        """`word` with what is certain filled in, and the options after it."""
        if word not in self._known:
            full = (*self._follow(word[:-1])[0], word[-1]) if word else ()
            while len(options := self._full.next(full)) == 1:
                full = (*full, options[0])
            self._known[word] = full, options
        return self._known[word]


class _Automaton(Protocol):
    symbols: set[int]
    longest: int

    def next(self, full: Word) -> tuple[int, ...]:
        """Symbols that may follow; none where the word is whole."""

    def spell(self, value: Value) -> Word | None:
        """The symbols of a value, none left out; None or an impossible word where there is no such value."""

    def read(self, full: Word) -> Value: ...


class _Trie:
    """Values that are told apart by the tokens of their texts; a missing value is one of them."""

    def __init__(self, column: ColumnSchema, tokenise: Tokenise) -> None:
        values: list[Value] = [*column.categories, *([None] if column.missing or column.empty else [])]
        taken: set[Word] = set()
        self._words: dict[tuple[type, Value], Word] = {}
        self._values: dict[Word, Value] = {}
        self._next: dict[Word, dict[int, None]] = {}
        for place, value in enumerate(values):
            ids = tuple(tokenise(MISSING if value is None else f" {value}"))
            ids = (*ids, _FIRST_MARK - place) if ids in taken else ids  # the tokeniser cannot tell it from another
            taken.add(ids)
            word = (*ids, _STOP)
            self._words[type(value), value], self._values[word] = word, value
            for length, symbol in enumerate(word):
                self._next.setdefault(word[:length], {})[symbol] = None
        self.longest = max(
            sum(len(self._next[word[:length]]) > 1 for length in range(len(word))) for word in self._values
        )
        self.symbols = {symbol for options in self._next.values() if len(options) > 1 for symbol in options}

    def next(self, full: Word) -> tuple[int, ...]:
        return tuple(self._next.get(full, ()))

    def spell(self, value: Value) -> Word | None:
        return self._words.get((type(value), value))

    def read(self, full: Word) -> Value:
        return self._values[full]


class _Digits:
    """Words of so many digits, or one symbol for a missing value."""

    def __init__(self, column: ColumnSchema, tokenise: Tokenise, width: int) -> None:
        self.column, self.width = column, width
        self.ids = [tokenise(str(digit))[-1] for digit in range(10)]
        self.signs = {"+": tokenise("+")[-1], "-": tokenise("-")[-1]}
        symbols = [*self.ids, *self.signs.values()]
        if len(set(symbols)) < len(symbols):
            raise UserError("tokeniser: cannot tell digits and signs apart; expected another model")
        first = tokenise(MISSING)[0]
        self.absent = _NO_NUMBER if first in symbols else first
        self.symbols, self.longest = {*symbols, self.absent}, width + 1
        self._digit = {token: str(digit) for digit, token in enumerate(self.ids)}

    def text(self, full: Word) -> str:
        return "".join(self._digit[symbol] for symbol in full)

    def word(self, digits: str) -> Word:
        return tuple(self.ids[int(digit)] for digit in digits)


class _Numbers(_Digits):
    """Digits of like width in units of the column's precision, after a sign where there are negative numbers too."""

    def __init__(self, column: ColumnSchema, tokenise: Tokenise) -> None:
        low, high = (column.steps(float(bound) if column.kind == "float" else bound) for bound in _bounds(column))
        super().__init__(column, tokenise, len(str(max(abs(low), abs(high)))))
        self._ranges = {}
        if high >= 0:
            self._ranges["+"] = (max(low, 0), high)
        if low < 0:
            self._ranges["-"] = (max(-high, 1), -low)

    def next(self, full: Word) -> tuple[int, ...]:
        if not full:
            absent = (self.absent,) if self.column.missing else ()
            return (*absent, *(self.signs[sign] for sign in self._ranges))
        if full[0] == self.absent or len(full) == self.width + 1:
            return ()
        low, high = self._ranges["-" if full[0] == self.signs["-"] else "+"]
        text = self.text(full[1:])
        unit = 10 ** (self.width - len(text) - 1)
        firsts = (int(f"{text}{digit}") * unit for digit in range(10))
        return tuple(self.ids[digit] for digit, first in enumerate(firsts) if first <= high and first + unit > low)

    def spell(self, value: Value) -> Word | None:
        if value is None:
            return (self.absent,)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        steps = self.column.steps(value)
        digits = str(abs(steps)).zfill(self.width)
        return (self.signs["-" if steps < 0 else "+"], *self.word(digits)) if len(digits) == self.width else None

    def read(self, full: Word) -> Value:
        if full[0] == self.absent:
            return None
        magnitude = int(self.text(full[1:]))
        return self.column.number(-magnitude if full[0] == self.signs["-"] else magnitude)


class _Dates(_Digits):
    """The digits of ISO text."""

    def __init__(self, column: ColumnSchema, tokenise: Tokenise) -> None:
        low, high = _bounds(column)
        self._low, self._high = (_only_digits(str(bound)) for bound in (low, high))
        super().__init__(column, tokenise, len(self._low))

    def next(self, full: Word) -> tuple[int, ...]:
        if full and (full[0] == self.absent or len(full) == self.width):
            return ()
        absent = (self.absent,) if self.column.missing and not full else ()
        spans = (_span(self.text(full) + str(digit)) for digit in range(10))
        fits = [span is not None and span[0][: self.width] <= self._high and span[1] >= self._low for span in spans]
        return (*absent, *(token for token, fit in zip(self.ids, fits, strict=True) if fit))

    def spell(self, value: Value) -> Word | None:
        if value is None:
            return (self.absent,)
        digits = _only_digits(str(value))
        return self.word(digits) if len(digits) == self.width else None

    def read(self, full: Word) -> Value:
        if full[0] == self.absent:
            return None
        text = self.text(full)
        date, time = f"{text[:4]}-{text[4:6]}-{text[6:8]}", f"{text[8:10]}:{text[10:12]}:{text[12:14]}"
        fraction = f".{text[14:]}" if len(text) > 14 else ""
        return date if len(text) == 8 else f"{date} {time}{fraction}"


def _bounds(column: ColumnSchema) -> tuple[float, float]:
    assert column.low is not None
    assert column.high is not None
    return column.low, column.high  # type: ignore[return-value]


def _only_digits(text: str) -> str:
    return "".join(character for character in text if character.isdigit())


def _span(digits: str) -> tuple[str, str] | None:
    """The earliest and the latest moment, as 23 digits down to nanoseconds, whose digits begin so; None without any."""
    first, last = "", ""
    for width, least, most in (
        (4, 1, 9999),
        (2, 1, 12),
        (2, 1, 0),
        (2, 0, 23),
        (2, 0, 59),
        (2, 0, 59),
        (9, 0, 10**9 - 1),
    ):
        given, digits = digits[:width], digits[width:]
        if not most:  # the day, whose number depends on the month
            most = monthrange(int(last[:4]), int(last[4:6]))[1]
        low = max(int(given.ljust(width, "0")), least)
        high = min(int(given.ljust(width, "9")), most)
        if low > high:
            return None
        first, last = first + str(low).zfill(width), last + str(high).zfill(width)
    return first, last
