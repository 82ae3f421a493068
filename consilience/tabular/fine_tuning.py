"""Teaching a language model a table's rows: supervised fine-tuning under the table's grammar."""

import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from torch.nn.utils import clip_grad_norm_

from consilience.errors import UserError
from consilience.files import atomic_folder, write_json
from consilience.gradients import rate_share, sum_over_workers
from consilience.optimiser_state import STATE_FILE, optimiser_tensors, restore_optimiser
from consilience.ppo.trainer import Metrics
from consilience.tabular.language import BEGIN, END, Ints, RowLanguage
from consilience.tabular.row_model import RowModel, autocast
from consilience.tabular.schema import Value
from consilience.tabular.settings import FineTuneConfig

HISTORY = "fine_tuning.json"

_MAX_GRAD_NORM = 1.0
_TARGET_LAST = 0.5

_ORDER, _SHUFFLE, _HELD_OUT = range(3)


class RowBatches:
    """Rows as padded tokens and, for each token, which others were allowed in its place."""

    def __init__(self, language: RowLanguage, rows: Sequence[Sequence[Value]]) -> None:
        self._language = language
        self._sets: dict[tuple[int, ...], int] = {}
        self._spelt = [
            {place: self._spell(place, language.encode(place, row[place])) for place in language.columns}
            for row in rows
        ]
        self.allowed = torch.zeros(len(self._sets), language.size, dtype=torch.bool)
        for options, number in self._sets.items():
            self.allowed[number, list(options)] = True

    def __len__(self) -> int:
        return len(self._spelt)

    def batch(self, rows: Ints, orders: Ints) -> tuple[Tensor, Tensor]:
        """Tokens (b, l), padded on the right, and for each the number of its options in `allowed`, or -1 where the
        token is a column's name or padding.

        Args:
            rows: (b,) numbers of rows.
            orders: (b, k), for each an order of `language.columns`.
        """
        lines, sets = [], []
        for row, order in zip(rows.tolist(), orders.tolist(), strict=True):
            tokens, numbers = [BEGIN], [-1]
            for place in order:
                line, options = self._spelt[row][place]
                tokens += line
                numbers += options
            lines.append(tokens)
            sets.append(numbers)
        width = max(map(len, lines))
        return _padded(lines, width, END), _padded(sets, width, -1)

    def _spell(self, column: int, word: tuple[int, ...]) -> tuple[list[int], list[int]]:
        options = [self._language.options(column, word[:length]) for length in range(len(word))]
        numbers = [self._sets.setdefault(each, len(self._sets)) for each in options]
        return [self._language.name(column), *word], [-1, *numbers]


def _padded(lines: list[list[int]], width: int, value: int) -> Tensor:
    return torch.tensor([line + [value] * (width - len(line)) for line in lines])


class FineTuner:
    """AdamW on the cross-entropy of the values of rows, among what their columns allow, columns in fresh orders every
    epoch (Borisov et al. 2023); the names of columns are given, not learnt.

    The rate rises linearly, then falls linearly to 0. The weights of the epoch with the least loss on the validation
    rows are kept, and training ends when it has not fallen for `patience` epochs; without validation rows all epochs
    are done. Where torch.distributed is initialised the workers share every batch and sum their gradients, so that n
    workers compute what one would, up to rounding; a resumed run repeats the numbers of an uninterrupted one.

    Attributes:
        history: per epoch `epoch`, `loss` and `loss_validation` (nats per row, None without validation rows) and
            `seconds`.
    """

    def __init__(
        self,
        model: RowModel,
        train: Sequence[Sequence[Value]],
        validation: Sequence[Sequence[Value]],
        config: FineTuneConfig,
        seed: int,
    ) -> None:
        self.model, self.config, self.seed = model, config, seed
        self._train, self._held_out = (RowBatches(model.language, rows) for rows in (train, validation))
        self._rank, self._workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self._parameters = list(model.model.parameters())
        self._optimiser = torch.optim.AdamW(self._parameters, lr=0.0, weight_decay=config.weight_decay, fused=True)
        self._per_epoch = -(-len(train) // config.batch_size)
        self._steps = self._per_epoch * config.epochs
        self._best: dict[str, Tensor] = {}
        self.history: list[Metrics] = []

    @property
    def finished(self) -> bool:
        """Whether there is nothing more to learn."""
        epochs = len(self.history)
        return (
            epochs >= self.config.epochs
            or not self.model.language.columns
            or epochs - self.best >= self.config.patience
        )

    @property
    def best(self) -> int:
        """Number of epochs after which the validation loss was least; 0 = before the first."""
        losses = [entry["loss_validation"] for entry in self.history]
        if not losses or losses[0] is None:
            return len(losses)
        return 1 + int(np.argmin(np.array(losses, dtype=np.float64)))

    def epoch(self) -> Metrics:
        """Every training row once. Returns what `history` records of it."""
        started = time.perf_counter()
        number = len(self.history)
        order = self._random(_SHUFFLE, number).permutation(len(self._train))
        orders = self._orders(self._random(_ORDER, number), len(self._train))
        total = 0.0
        for place in range(self._per_epoch):
            batch = order[place * self.config.batch_size : (place + 1) * self.config.batch_size]
            total += self._descend(batch, orders[batch], number * self._per_epoch + place)
        entry: Metrics = {
            "epoch": number + 1,
            "loss": total / len(self._train),
            "loss_validation": self._validation_loss(),
            "seconds": round(time.perf_counter() - started, 3),
        }
        self.history.append(entry)
        if self.best == len(self.history):
            self._best = {name: value.detach().clone() for name, value in self._weights().items()}
        return entry

    def restore_best(self) -> None:
        """Give the model the weights that did best."""
        if self._best:
            self.model.model.load_state_dict(self._best, strict=False)

    def save(self, folder: Path) -> None:
        """Write weights, best weights, optimiser state and history (safetensors, JSON), whole or not at all."""
        with atomic_folder(folder) as new:
            save_file(self._weights(), new / "weights.safetensors")
            save_file(self._best, new / "best.safetensors")
            save_file(optimiser_tensors(self._optimiser), new / STATE_FILE)
            write_json(new / HISTORY, {"history": self.history})

    def load(self, folder: Path) -> None:
        """Go on from a folder that `save` wrote, with the same rows and settings."""
        self.history = json.loads((folder / HISTORY).read_text(encoding="utf-8"))["history"]
        self.model.model.load_state_dict(load_file(folder / "weights.safetensors"), strict=False)
        self._best = load_file(folder / "best.safetensors", device=str(self.model.device))
        restore_optimiser(self._optimiser, load_file(folder / STATE_FILE))

    def _weights(self) -> dict[str, Tensor]:
        """Each weight once, also where two layers share it."""
        return dict(self.model.model.named_parameters())

    def _random(self, *key: int) -> np.random.Generator:
        return np.random.default_rng((self.seed, *key))

    def _orders(self, random: np.random.Generator, rows: int) -> Ints:
        language = self.model.language
        return language.orders(language.columns, rows, random, _TARGET_LAST)

    def _descend(self, batch: Ints, orders: Ints, step: int) -> float:
        """One optimiser step on the workers' summed gradients. Returns the summed loss of the whole batch."""
        mine = slice(self._rank, None, self._workers)
        total = torch.zeros((), device=self.model.device)
        if len(batch[mine]):
            loss = self._loss(self._train, batch[mine], orders[mine])
            (loss / len(batch)).backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        total = sum_over_workers(self._parameters, total)
        norm = clip_grad_norm_(self._parameters, _MAX_GRAD_NORM)
        if not torch.isfinite(norm):
            raise UserError("fine_tuning: the gradient is not finite; expected a lower learning_rate")
        for group in self._optimiser.param_groups:
            group["lr"] = self.config.learning_rate * rate_share(step, self._steps, self.config.warmup)
        self._optimiser.step()
        self._optimiser.zero_grad()
        return float(total)

    def _loss(self, batches: RowBatches, rows: Ints, orders: Ints) -> Tensor:
        """Summed loss of rows, nats."""
        device = self.model.device
        tokens, sets = (tensor.to(device) for tensor in batches.batch(rows, orders))
        with autocast(self.model.device):
            logits = self.model.model(
                input_ids=tokens[:, :-1], attention_mask=(tokens[:, :-1] != END).long(), use_cache=False
            ).logits
        told = sets[:, 1:] >= 0
        allowed = batches.allowed.to(device)[sets[:, 1:][told]]
        chosen = logits[told].float().masked_fill(~allowed, -torch.inf)
        return cross_entropy(chosen, tokens[:, 1:][told], reduction="sum")

    @torch.no_grad()
    def _validation_loss(self) -> float | None:
        """Nats per row, each row in an order of its own that is the same every epoch."""
        if not len(self._held_out):
            return None
        orders = self._orders(self._random(_HELD_OUT), len(self._held_out))
        total = 0.0
        for start in range(0, len(self._held_out), self.config.batch_size):
            rows = np.arange(start, min(start + self.config.batch_size, len(self._held_out)))
            total += float(self._loss(self._held_out, rows, orders[rows]))
        return total / len(self._held_out)
