"""The language that a table's rows are written in for the model: one token per column name, the words of its values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from consilience.tabular.grammar import ColumnGrammar, Tokenise, Word
from consilience.tabular.schema import TableSchema, Value

Ints = NDArray[np.int64]

BEGIN, END = 0, 1

_MOST_TOKENS = 5_000_000
"""That the states remembered by a constraint are keyed by, 8 bytes each."""


@dataclass(frozen=True, slots=True)
class State:
    """Where a row stands.

    Attributes:
        column: number of the column whose value is being told, None where the next column is to be named.
        word: the beginning of its value.
        told: columns that are named.
    """

    column: int | None = None
    word: Word = ()
    told: frozenset[int] = frozenset()


class RowLanguage:
    """Rows as tokens of a vocabulary of their own: begin, end, one token for each column's name, and the symbols of
    its values. A row is: begin, then for each column its name and its value's word, in any order, end.

    A column with a single value tells nothing and is left out.

    Attributes:
        columns: numbers, in the schema, of the columns that are told.
        target: number of the table's target, None where there is none or it is not told.
        sources: per token of the vocabulary the language model's tokens that it stands for, perhaps none.
    """

    def __init__(self, schema: TableSchema, tokenise: Tokenise) -> None:
        self.schema = schema
        self._grammars = [ColumnGrammar(column, tokenise) for column in schema.columns]
        self.columns = [place for place, grammar in enumerate(self._grammars) if grammar.options(())]
        names = [schema.columns[place].name for place in self.columns]
        self.target = self.columns[names.index(schema.target)] if schema.target in names else None
        self.sources: list[tuple[int, ...]] = [(), ()]
        self._names: dict[int, int] = {}
        for place in self.columns:
            self._names[place] = len(self.sources)
            self.sources.append(tuple(tokenise(f" {schema.columns[place].name} is")))
        self._column_of = {token: place for place, token in self._names.items()}
        self._tokens: dict[int, int] = {}
        self._symbols: dict[int, int] = {}
        for grammar in self._grammars:
            for symbol in sorted(grammar.symbols):
                if symbol not in self._tokens:
                    self._tokens[symbol] = len(self.sources)
                    self._symbols[len(self.sources)] = symbol
                    self.sources.append((symbol,) if symbol >= 0 else ())
        self._options: dict[tuple[int, Word], tuple[int, ...]] = {}

    @property
    def size(self) -> int:
        """Tokens in the vocabulary."""
        return len(self.sources)

    @property
    def longest(self) -> int:
        """Most tokens that a row can take, begin and end included."""
        return 2 + sum(1 + self._grammars[place].longest for place in self.columns)

    def orders(self, columns: Sequence[int], rows: int, random: np.random.Generator, target_last: float) -> Ints:
        """(rows, k) `columns`, in each row in an order drawn at random; in a share `target_last` of rows the target is
        the last of them: what it then depends on is all the others, which is what learners want to know.
        """
        keys = random.random((rows, len(columns)))
        if self.target is not None and self.target in columns:
            keys[random.random(rows) < target_last, list(columns).index(self.target)] = 1.0
        return np.array(columns, dtype=np.int64)[keys.argsort(axis=1)]

    def name(self, column: int) -> int:
        """Token of a column's name."""
        return self._names[column]

    def is_value(self, token: int) -> bool:
        """Whether a token is part of a value."""
        return token in self._symbols

    def options(self, column: int, word: Word) -> tuple[int, ...]:
        """Tokens that may follow in a value that begins with the tokens `word`; none where it is whole."""
        if (column, word) not in self._options:
            symbols = self._grammars[column].options(tuple(self._symbols[token] for token in word))
            self._options[column, word] = tuple(self._tokens[symbol] for symbol in symbols)
        return self._options[column, word]

    def encode(self, column: int, value: Value) -> Word:
        """Tokens of a value.

        Raises:
            UserError: the column cannot have it.
        """
        return tuple(self._tokens[symbol] for symbol in self._grammars[column].encode(value))

    def decode(self, column: int, word: Word) -> Value:
        """The value of a whole word."""
        return self._grammars[column].decode(tuple(self._symbols[token] for token in word))

    def row(self, words: Mapping[int, Word]) -> list[Value]:
        """The cells of a row, all columns of the schema in its order, from the words of those that are told."""
        return [self.decode(place, words.get(place, ())) for place in range(len(self.schema.columns))]

    def write(self, words: Mapping[int, Word], order: Sequence[int]) -> list[int]:
        """The tokens of the columns of `order`, names and values."""
        return [token for place in order for token in (self._names[place], *words[place])]

    def read(self, tokens: Sequence[int]) -> dict[int, Word]:
        """The words of a row by column, from tokens that may begin with padding and end with `END`."""
        words: dict[int, Word] = {}
        place = -1
        for token in tokens:
            if token in self._column_of:
                place = self._column_of[token]
                words[place] = ()
            elif token > END:
                words[place] = (*words[place], token)
        return words

    def start(self) -> State:
        """A row of which nothing is told."""
        return State()

    def follow(self, state: State, token: int) -> State:
        """The state after one more token."""
        if token in self._column_of:
            place = self._column_of[token]
            state = State(place, (), state.told | {place})
        elif token > END and state.column is not None:
            state = State(state.column, (*state.word, token), state.told)
        if state.column is not None and not self.options(state.column, state.word):
            return State(None, (), state.told)
        return state


class RowConstraint:
    """Constrained decoding of rows: a `consilience.ppo.rollout.Constraint`.

    A value keeps to its column's grammar. The next column is any that is not told yet, the target after all others,
    all alike whatever the model thinks: its choice is not the model's. Prompts begin with `BEGIN` and may tell some
    columns.
    """

    def __init__(self, language: RowLanguage) -> None:
        self._language = language
        self._states: dict[tuple[int, ...], State] = {}
        self._tokens = 0

    def __call__(self, prompts: Tensor, responses: Tensor, logits: Tensor) -> Tensor:
        """See `Constraint`. Logits of columns' names are replaced by 0."""
        rows: list[int] = []
        allowed: list[int] = []
        drawn: list[bool] = []
        for row, tokens in enumerate(torch.cat([prompts, responses], dim=1).tolist()):
            state = self._state(tuple(tokens))
            if state.column is not None:
                options: Sequence[int] = self._language.options(state.column, state.word)
            else:
                columns = [column for column in self._language.columns if column not in state.told]
                if len(columns) > 1 and self._language.target in columns:
                    columns.remove(self._language.target)
                options = [self._language.name(column) for column in columns] or [END]
            rows += [row] * len(options)
            allowed += options
            drawn += [state.column is None] * len(options)
        places = torch.tensor([rows, allowed], device=logits.device).unbind()
        result = torch.full_like(logits, -torch.inf)
        result[places] = logits[places].masked_fill(torch.tensor(drawn, device=logits.device), 0.0)
        return result

    def _state(self, tokens: tuple[int, ...]) -> State:
        known = len(tokens)
        while known and tokens[:known] not in self._states:
            known -= 1
        state = self._states[tokens[:known]] if known else self._language.start()
        if self._tokens > _MOST_TOKENS:
            self._states.clear()
            self._tokens = 0
        for length in range(known + 1, len(tokens) + 1):
            state = self._language.follow(state, tokens[length - 1])
            self._states[tokens[:length]] = state
            self._tokens += length
        return state
