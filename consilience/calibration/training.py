"""Tuning a model on people's votes: steps over items, on one process or on several that share them."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import log_softmax

from consilience.calibration.losses import dirichlet_multinomial_nll, soft_cross_entropy
from consilience.calibration.models import AnswerModel, Row
from consilience.calibration.questions import unordered
from consilience.calibration.settings import Loss
from consilience.calibration.tasks import VotedItems
from consilience.errors import UserError
from consilience.files import atomic_folder, write_json
from consilience.gradients import clipped_step, rate_share, sum_over_workers
from consilience.optimiser_state import STATE_FILE, optimiser_tensors, restore_optimiser
from consilience.values.settings import FitConfig

RUN = 8
BEST, LAST, COUNTERS = "best.safetensors", "last.safetensors", "trainer.json"
CONCENTRATION = "log_concentration"


class CalibrationTrainer:
    """AdamW on the mean loss of a batch of items against their votes.

    The loss is the soft cross-entropy, or the Dirichlet-multinomial negative log-likelihood with one concentration for
    all items, learned as its logarithm. Learning rates rise linearly, then fall linearly to 0. Of all epochs the one
    with the least cross-entropy on dev is kept. Items are shuffled in runs of neighbours, so that most actions are read
    once for both of their pairs. Where torch.distributed is initialised the workers share every batch
    and sum their gradients, so n workers compute what one would, up to rounding. The order of items comes from (seed,
    epoch): a resumed run repeats the numbers of an uninterrupted one.

    Attributes:
        step_number: batches done, of `steps`.
        history: per epoch, `epoch`, `loss_train` (mean over its batches), `ce_dev`, `concentration` and `seconds`.
        best: name to value of what was trained, at the best epoch so far; and the log-concentration.
    """

    def __init__(
        self, model: AnswerModel, train: VotedItems, dev: VotedItems, loss: Loss, config: FitConfig, seed: int
    ) -> None:
        """
        Raises:
            UserError: the loss needs counts where the votes are shares.
        """
        if loss == "dirichlet_multinomial" and not train.counted:
            raise UserError("loss 'dirichlet_multinomial' needs counts of votes; expected cross_entropy with shares")
        self.model, self.config, self.seed, self._loss = model, config, seed, loss
        self._rows, self._dev_rows = model.tokenise(train), model.tokenise(dev)
        self._votes, self._dev_votes = (
            torch.tensor(items.votes, dtype=torch.float32, device=model.device) for items in (train, dev)
        )
        self._rank, self._workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self._trained: dict[str, nn.Parameter] = dict(model.trainable)
        fresh = set(model.fresh)
        if loss == "dirichlet_multinomial":
            self._trained[CONCENTRATION] = nn.Parameter(torch.zeros((), device=model.device))
            fresh.add(CONCENTRATION)
        self._parameters = list(self._trained.values())
        groups = [[p for name, p in self._trained.items() if (name in fresh) == new] for new in (False, True)]
        self._rates = (config.learning_rate, config.head_learning_rate)
        self._optimiser = torch.optim.AdamW(
            [{"params": group} for group in groups], lr=0.0, weight_decay=config.weight_decay, fused=True
        )
        self._per_epoch = -(-len(self._rows) // config.batch_size)
        self.steps = self._per_epoch * config.epochs
        self.step_number = 0
        self.history: list[dict[str, float | None]] = []
        self.best: dict[str, Tensor] = {}
        self._epoch_loss, self._epoch_seconds, self._least = 0.0, 0.0, float("inf")

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.step_number >= self.steps

    def step(self) -> dict[str, float]:
        """One batch, and at the end of an epoch the dev items. Returns `step` and `loss`."""
        started = time.perf_counter()
        epoch, place = divmod(self.step_number, self._per_epoch)
        order = _shuffled_runs(len(self._rows), np.random.default_rng((self.seed, epoch)))
        loss = self._descend(order[place * self.config.batch_size : (place + 1) * self.config.batch_size])
        self.step_number += 1
        self._epoch_loss += loss / self._per_epoch
        if self.step_number % self._per_epoch == 0:
            self._end_epoch(epoch, started)
        else:
            self._epoch_seconds += time.perf_counter() - started
        return {"step": self.step_number, "loss": loss}

    def save(self, folder: Path) -> None:
        """Write what is trained, its best state, optimiser and counters (safetensors, JSON), whole or not at all."""
        with atomic_folder(folder) as new:
            save_file({name: p.detach().contiguous() for name, p in self._trained.items()}, new / LAST)
            save_file(self.best, new / BEST)
            save_file(optimiser_tensors(self._optimiser), new / STATE_FILE)
            counters = {
                "step_number": self.step_number,
                "history": self.history,
                "epoch": [self._epoch_loss, self._epoch_seconds, self._least if self.history else None],
            }
            write_json(new / COUNTERS, counters)

    def load(self, folder: Path) -> None:
        """Go on from a folder that `save` wrote, with the same items and settings."""
        counters: dict[str, Any] = json.loads((folder / COUNTERS).read_text(encoding="utf-8"))
        put(self._trained, load_file(folder / LAST))
        self.best = load_file(folder / BEST)
        restore_optimiser(self._optimiser, load_file(folder / STATE_FILE))
        self.step_number, self.history = counters["step_number"], counters["history"]
        self._epoch_loss, self._epoch_seconds, least = counters["epoch"]
        self._least = float("inf") if least is None else least

    def _log_p(self, rows: list[Row]) -> Tensor:
        logits, _ = self.model.forward(rows)
        return log_softmax(unordered(logits), dim=-1)

    def _loss_of(self, log_p: Tensor, votes: Tensor) -> Tensor:
        """(b,)"""
        if self._loss == "cross_entropy":
            return soft_cross_entropy(log_p, votes)
        return dirichlet_multinomial_nll(log_p, votes, self._trained[CONCENTRATION])

    def _descend(self, batch: NDArray[np.int64]) -> float:
        """One optimiser step on the workers' summed gradients. Returns the mean loss of the whole batch."""
        mine = batch[self._rank :: self._workers]
        rows = [self._rows[index] for index in mine]
        total = torch.zeros((), device=self.model.device)
        for part in self.model.batches(rows):
            votes = self._votes[torch.from_numpy(mine[part]).to(self._votes.device)]
            loss = self._loss_of(self._log_p([rows[place] for place in part]), votes).sum() / len(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        total = sum_over_workers(self._parameters, total)
        share = rate_share(self.step_number, self.steps, self.config.warmup)
        clipped_step(self._optimiser, [rate * share for rate in self._rates])
        return float(total)

    def _end_epoch(self, epoch: int, started: float) -> None:
        ce = self._dev_cross_entropy()
        if ce < self._least:
            self._least = ce
            self.best = {name: p.detach().clone().contiguous() for name, p in self._trained.items()}
        concentration = self._trained.get(CONCENTRATION)
        entry: dict[str, float | None] = {
            "epoch": epoch + 1,
            "loss_train": self._epoch_loss,
            "ce_dev": ce,
            "concentration": None if concentration is None else float(concentration.detach().exp()),
            "seconds": round(self._epoch_seconds + time.perf_counter() - started, 3),
        }
        self.history.append(entry)
        self._epoch_loss, self._epoch_seconds = 0.0, 0.0

    def _dev_cross_entropy(self) -> float:
        """Mean over the dev items, shared by the workers."""
        rows = self._dev_rows[self._rank :: self._workers]
        votes = self._dev_votes[self._rank :: self._workers]
        total = torch.zeros((), dtype=torch.float64, device=self.model.device)
        with torch.no_grad():
            for part in self.model.batches(rows):
                total += soft_cross_entropy(self._log_p([rows[place] for place in part]), votes[part]).double().sum()
        if self._workers > 1:
            dist.all_reduce(total)
        return float(total) / len(self._dev_rows)


def _shuffled_runs(n: int, random: np.random.Generator) -> NDArray[np.int64]:
    """0 to n - 1, neighbours in runs that begin elsewhere each time, the runs in random order."""
    runs = np.split(np.arange(n), np.arange(random.integers(1, RUN + 1), n, RUN))
    return np.concatenate([runs[place] for place in random.permutation(len(runs))])


def put(parameters: Mapping[str, nn.Parameter], values: Mapping[str, Tensor]) -> None:
    """Copy `values` into the parameters of the same names."""
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(values[name])
