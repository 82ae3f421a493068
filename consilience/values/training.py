"""Training a value classifier: steps over labelled texts, on one process or on several that share them."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch.nn.functional import binary_cross_entropy_with_logits

from consilience.errors import UserError
from consilience.files import atomic_folder, write_json
from consilience.gradients import clipped_step, rate_share, sum_over_workers
from consilience.optimiser_state import STATE_FILE, optimiser_tensors, restore_optimiser
from consilience.theories import VALUE_NAMES
from consilience.values.about import WEIGHTS
from consilience.values.classifier import ValueClassifier
from consilience.values.settings import FitConfig
from consilience.values.split import TRAIN


class ClassifierTrainer:
    """AdamW on the mean binary cross-entropy over the known labels of a batch; an unknown label counts for nothing.

    Learning rates rise linearly, then fall linearly to 0. Where torch.distributed is initialised the workers share
    every batch and sum their gradients, so n workers compute what one would, up to rounding. The order of texts comes
    from (seed, epoch): a resumed run repeats the numbers of an uninterrupted one.

    Attributes:
        step_number: batches done, of `steps`.
        history: per epoch, `epoch`, `loss_train` (mean over its batches) and `seconds`.
    """

    def __init__(self, model: ValueClassifier, examples: pd.DataFrame, config: FitConfig, seed: int) -> None:
        """
        Args:
            examples: those with `split` train are trained on.

        Raises:
            UserError: there are none.
        """
        train = examples[examples["split"] == TRAIN]
        if train.empty:
            raise UserError("no texts to train on; expected some examples")
        self.model, self.config, self.seed = model, config, seed
        self._rows = model.tokenise(train["text"].tolist())
        self._labels = torch.tensor(train[list(VALUE_NAMES)].to_numpy(dtype=np.float32), device=model.device)
        self._rank, self._workers = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        encoder = [p for p in model.encoder.parameters() if p.requires_grad]
        heads = list(model.heads.parameters())
        self._rates = (config.learning_rate, config.head_learning_rate)
        self._optimiser = torch.optim.AdamW(
            [{"params": encoder}, {"params": heads}], lr=0.0, weight_decay=config.weight_decay, fused=True
        )
        self._parameters = encoder + heads
        self._per_epoch = -(-len(self._rows) // config.batch_size)
        self.steps = self._per_epoch * config.epochs
        self.step_number = 0
        self.history: list[dict[str, float]] = []
        self._epoch_loss, self._epoch_seconds = 0.0, 0.0

    @property
    def finished(self) -> bool:
        """Whether all epochs are done."""
        return self.step_number >= self.steps

    def step(self) -> dict[str, float]:
        """One batch. Returns `step` and `loss`."""
        started = time.perf_counter()
        epoch, place = divmod(self.step_number, self._per_epoch)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self._rows))
        batch = order[place * self.config.batch_size : (place + 1) * self.config.batch_size]
        loss = self._descend(batch)
        self.step_number += 1
        self._epoch_loss += loss / self._per_epoch
        self._epoch_seconds += time.perf_counter() - started
        if self.step_number % self._per_epoch == 0:
            seconds = round(self._epoch_seconds, 3)
            self.history.append({"epoch": epoch + 1, "loss_train": self._epoch_loss, "seconds": seconds})
            self._epoch_loss, self._epoch_seconds = 0.0, 0.0
        return {"step": self.step_number, "loss": loss}

    def logits(self, texts: list[str]) -> NDArray[np.float64]:
        """(n, 5) logits of texts, shared by the workers and gathered."""
        found = np.zeros((len(texts), len(VALUE_NAMES)))
        found[self._rank :: self._workers] = self.model.logits(texts[self._rank :: self._workers])
        if self._workers == 1:
            return found
        total = torch.from_numpy(found).to(self.model.device)
        dist.all_reduce(total)
        return total.cpu().numpy()

    def save(self, folder: Path) -> None:
        """Write weights, optimiser state and counters (safetensors, JSON) as `folder`, whole or not at all."""
        with atomic_folder(folder) as new:
            save_file(self.model.state_dict(), new / WEIGHTS)
            save_file(optimiser_tensors(self._optimiser), new / STATE_FILE)
            counters = {
                "step_number": self.step_number,
                "history": self.history,
                "epoch": [self._epoch_loss, self._epoch_seconds],
            }
            write_json(new / "trainer.json", counters)

    def load(self, folder: Path) -> None:
        """Go on from a folder that `save` wrote, with the same examples and settings."""
        counters: dict[str, Any] = json.loads((folder / "trainer.json").read_text(encoding="utf-8"))
        self.model.load_state_dict(load_file(folder / WEIGHTS))
        restore_optimiser(self._optimiser, load_file(folder / STATE_FILE))
        self.step_number, self.history = counters["step_number"], counters["history"]
        self._epoch_loss, self._epoch_seconds = counters["epoch"]

    def _descend(self, batch: NDArray[np.int64]) -> float:
        """One optimiser step on the workers' summed gradients. Returns the loss of the whole batch."""
        known = ~self._labels[torch.from_numpy(batch).to(self._labels.device)].isnan()
        mine = batch[self._rank :: self._workers]
        total = torch.zeros((), device=self.model.device)
        if len(mine):
            labels = self._labels[torch.from_numpy(mine).to(self._labels.device)]
            logits = self.model([self._rows[index] for index in mine])
            terms = binary_cross_entropy_with_logits(logits, labels.nan_to_num(), reduction="none")
            loss = (terms * ~labels.isnan()).sum() / known.sum()
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        total = sum_over_workers(self._parameters, total)
        share = rate_share(self.step_number, self.steps, self.config.warmup)
        clipped_step(self._optimiser, [rate * share for rate in self._rates])
        return float(total)
