"""Drawing rows from a model of them: always valid, with cached keys and values, what is certain fed along the way."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor
from transformers import DynamicCache

from consilience.errors import UserError
from consilience.tabular.grammar import Word
from consilience.tabular.language import BEGIN, END
from consilience.tabular.row_model import RowModel, autocast
from consilience.tabular.schema import Value


def sample_rows(
    model: RowModel, n: int, given: Mapping[int, Value], seed: Sequence[int], batch_size: int
) -> list[list[Value]]:
    """Draw `n` rows, a batch at a time; see `sample_batch`."""
    sizes = batch_sizes(n, batch_size)
    return [row for number, size in enumerate(sizes) for row in sample_batch(model, size, given, (*seed, number))]


def batch_sizes(n: int, batch_size: int) -> list[int]:
    """Of the batches that make `n` rows."""
    return [min(batch_size, n - start) for start in range(0, n, batch_size)]


@torch.no_grad()
def sample_batch(model: RowModel, size: int, given: Mapping[int, Value], seed: Sequence[int]) -> list[list[Value]]:
    """Draw `size` rows, independent of each other, each with its columns in an order of its own, the target last.

    Args:
        given: column's number to the value that every row has; these columns come first.
        seed: numbers; the same draw the same rows from the same model on the same machine.

    Raises:
        UserError: a column cannot have the value given, or the model's numbers are not finite.
    """
    words = {place: model.language.encode(place, value) for place, value in given.items()}
    told = {place: word for place, word in words.items() if place in model.language.columns}
    return [model.language.row(drawn) for drawn in _Batch(model, size, told, np.random.default_rng(seed)).draw()]


class _Batch:
    """Rows in the making. A row's tokens that the model has not read yet are `pending`; at each pass the rows' pending
    tokens are fed side by side, aligned on the right, and what is missing on the left is masked."""

    def __init__(self, model: RowModel, size: int, given: Mapping[int, Word], random: np.random.Generator) -> None:
        self._model, self._language, self._random = model, model.language, random
        self._cache = DynamicCache()
        self._mask = torch.zeros(size, 0, dtype=torch.long, device=model.device)
        told = self._language.orders(sorted(given), size, random, 0.0)
        to_tell = [place for place in self._language.columns if place not in given]
        self._orders = self._language.orders(to_tell, size, random, 1.0).tolist()
        self._pending = [[BEGIN, *self._language.write(given, order)] for order in told.tolist()]
        self._words: list[dict[int, Word]] = [dict(given) for _ in range(size)]
        self._options = [self._next(row) for row in range(size)]
        self._sets: dict[tuple[int, ...], Tensor] = {}

    def draw(self) -> list[dict[int, Word]]:
        """The words of the columns of each row."""
        with autocast(self._model.device):
            while any(self._options):
                for row, token in enumerate(self._choose(self._feed())):
                    if self._options[row]:
                        self._tell(row, token)
        return self._words

    def _next(self, row: int) -> tuple[int, ...]:
        """Name a row's next column. Returns the tokens that its value may begin with; none where the row is whole."""
        if not self._orders[row]:
            return ()
        place = self._orders[row].pop(0)
        self._words[row][place] = ()
        self._pending[row].append(self._language.name(place))
        return self._language.options(place, ())

    def _tell(self, row: int, token: int) -> None:
        """Go on with the value of a row's last column, or to the next column where it is whole."""
        place, word = next(reversed(self._words[row].items()))
        self._words[row][place] = (*word, token)
        self._pending[row].append(token)
        self._options[row] = self._language.options(place, self._words[row][place]) or self._next(row)

    def _feed(self) -> Tensor:
        """Read what is pending. Returns the logits (b, v) after each row's last token."""
        width = max(map(len, self._pending))
        ids = torch.tensor([[END] * (width - len(line)) + line for line in self._pending], device=self._mask.device)
        lengths = torch.tensor([len(line) for line in self._pending], device=self._mask.device)
        shown = (torch.arange(width, device=self._mask.device) >= width - lengths[:, None]).long()
        positions = (self._mask.sum(1, keepdim=True) + shown.cumsum(1) - 1).clamp(min=0)
        self._mask = torch.cat([self._mask, shown], dim=1)
        logits: Tensor = self._model.model(
            input_ids=ids,
            attention_mask=self._mask,
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        for line in self._pending:
            line.clear()
        return logits.float()

    def _choose(self, logits: Tensor) -> list[int]:
        """Draw a token of each row's options; of a row without any, some token that means nothing."""
        allowed = torch.stack([self._set(each) for each in self._options])
        masked = logits.masked_fill(~allowed, -torch.inf)
        cumulative = masked.softmax(-1).cumsum(-1, dtype=torch.float64)
        if not torch.isfinite(cumulative).all():
            raise UserError("generator: the model's numbers are not finite; expected a lower learning_rate")
        uniforms = torch.from_numpy(self._random.random((len(self._options), 1))).to(logits.device)
        tokens: list[int] = torch.searchsorted(cumulative, uniforms * cumulative[:, -1:], right=True)[:, 0].tolist()
        return tokens

    def _set(self, options: tuple[int, ...]) -> Tensor:
        """Which tokens are allowed, (v,); all where there is no choice to make."""
        if options not in self._sets:
            allowed = torch.full((self._language.size,), not options, device=self._mask.device)
            if options:
                allowed[list(options)] = True
            self._sets[options] = allowed
        return self._sets[options]
