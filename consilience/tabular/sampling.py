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
    """Draw `size` rows, whose columns stand in an order drawn at random for the batch.

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
        first = [BEGIN, *self._language.write(given, random.permutation(sorted(given)).tolist())]
        self._pending = [list(first) for _ in range(size)]
        self._words: list[dict[int, Word]] = [dict(given) for _ in range(size)]
        self._sets: dict[tuple[int, ...], Tensor] = {}

    def draw(self) -> list[dict[int, Word]]:
        """The words of the columns of each row."""
        open_columns = [place for place in self._language.columns if place not in self._words[0]]
        with autocast(self._model.device):
            for place in self._random.permutation(open_columns).tolist():
                self._tell(place)
        return self._words

    def _tell(self, place: int) -> None:
        """Draw the value of a column in all rows."""
        for words, pending in zip(self._words, self._pending, strict=True):
            words[place] = ()
            pending.append(self._language.name(place))
        while True:
            options = [self._language.options(place, words[place]) for words in self._words]
            if not any(options):
                return
            tokens = self._choose(self._feed(), options)
            for row, token in enumerate(tokens):
                if options[row]:
                    self._words[row][place] = (*self._words[row][place], token)
                    self._pending[row].append(token)

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

    def _choose(self, logits: Tensor, options: Sequence[tuple[int, ...]]) -> list[int]:
        """Draw a token of each row's options; of a row without any, some token that means nothing."""
        allowed = torch.stack([self._set(each) for each in options])
        masked = logits.masked_fill(~allowed, -torch.inf)
        cumulative = masked.softmax(-1).cumsum(-1, dtype=torch.float64)
        if not torch.isfinite(cumulative).all():
            raise UserError("generator: the model's numbers are not finite; expected a lower learning_rate")
        uniforms = torch.from_numpy(self._random.random((len(options), 1))).to(logits.device)
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
