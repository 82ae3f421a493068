"""Training theory tokens and head for one (annotator, theory), in arms that tell what each of the two is worth."""

import copy
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim import AdamW

from consilience.files import write_json
from consilience.gradients import sum_over_workers
from consilience.optimiser_state import optimiser_tensors, restore_optimiser
from consilience.realign.objective import Head, bernoulli_js, cosine_distance
from consilience.realign.reader import Reader
from consilience.realign.settings import TrainingConfig
from consilience.realign.split import Split
from consilience.realign.theory_tokens import TheoryWord

Floats = NDArray[np.float64]
Metrics = dict[str, float | int | str]

HEAD, TOKENS, LAMBDA0 = ARMS = ("head", "tokens", "lambda0")
"""Head only, with the original tokens; head and tokens; the same without the cosine term."""

READ_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Suffix:
    """The last tokens of a prompt with the theory's word in them.

    Attributes:
        constant: (S, width) embeddings, in the model's type; those at `places` are replaced.
        places: positions of the word.
        which: for each place, which of the N tokens stands there.
        originals: (N, width) float32 embeddings of the word's own sub-tokens.
    """

    constant: Tensor
    places: Sequence[int]
    which: Sequence[int]
    originals: Tensor

    def with_rows(self, rows: Tensor) -> Tensor:
        """(S, width) with `rows` (N, width) in the word's place; differentiable in them."""
        index = torch.tensor(self.places, device=rows.device)
        return self.constant.index_copy(0, index, rows[list(self.which)].to(self.constant.dtype))


@dataclass(frozen=True, eq=False)
class Fit:
    """What an arm learned: rows (N, width) float32 and the head."""

    rows: Tensor
    head: Head


class _ArmState:
    """One arm on one split, between epochs."""

    def __init__(self, arm: str, start: Head, suffix: Suffix, config: TrainingConfig) -> None:
        self.arm = arm
        self.head = copy.deepcopy(start)
        self.rows = suffix.originals.clone().requires_grad_(arm != HEAD)
        size = float(suffix.originals.square().mean().sqrt())
        groups = [{"params": list(self.head.parameters()), "lr": config.head_learning_rate}]
        if arm != HEAD:
            groups.append({"params": [self.rows], "lr": config.token_learning_rate * size})
        self.optimiser = AdamW(groups, weight_decay=0.0)
        self.epoch = self.stale = 0
        self.best_js = float("inf")
        self.keep(self.best_js)

    @property
    def parameters(self) -> list[Tensor]:
        return [parameter for group in self.optimiser.param_groups for parameter in group["params"]]

    def keep(self, js: float) -> None:
        self.best_js, self.stale = js, 0
        self.best = Fit(self.rows.detach().clone(), copy.deepcopy(self.head).requires_grad_(False))

    def tensors(self) -> dict[str, Tensor]:
        """Everything that `restore` needs, the counters apart."""
        found = {"rows": self.rows.detach(), "best.rows": self.best.rows}
        found |= {f"head.{name}": value for name, value in self.head.state_dict().items()}
        found |= {f"best.head.{name}": value for name, value in self.best.head.state_dict().items()}
        found |= {f"optimiser.{name}": value for name, value in optimiser_tensors(self.optimiser).items()}
        return {name: value.contiguous().clone() for name, value in found.items()}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        with torch.no_grad():
            self.rows.copy_(tensors["rows"])
        self.head.load_state_dict(_part(tensors, "head."))
        self.best.rows.copy_(tensors["best.rows"])
        self.best.head.load_state_dict(_part(tensors, "best.head."))
        restore_optimiser(self.optimiser, _part(tensors, "optimiser."))


class PairTrainer:
    """All arms on all splits, one epoch at a time.

    On every split a head is warmed up on the original tokens; each arm starts from it, sees the same batches for as
    many epochs, and keeps the epoch with the least JS on dev. So arms differ in what may move and in nothing else. The
    hidden states of the arm "head" are constants and computed once.

    Where torch.distributed is initialised, each worker reads its own items of every batch and gradients are summed, so
    that n workers compute what one would, up to rounding. All chance comes from (seed, split, epoch): a resumed run
    repeats the numbers of an uninterrupted one.

    Args:
        reader: reads the items `mine`.
        suffix: the end of their prompts.
        word: the theory's word, kept for who uses the fit.
        targets: (n,) consensus of every item, 0..1; frozen.
        splits: see `split.split_items`; the last one's fit is the one for use.
        config: how to train.
        seed: of heads and batches.
        mine: positions of the items that this worker reads; together the workers' are all items.
        arms: which arms to run.

    Attributes:
        predictions: for each arm (n,) scores of items that were held out; NaN where none was.
        scores: (n,) scores of "tokens" for every item: of the fit for use where the item was not held out.
        history: metrics of every epoch.
    """

    def __init__(
        self,
        reader: Reader,
        suffix: Suffix,
        word: TheoryWord,
        targets: Floats,
        splits: Sequence[Split],
        config: TrainingConfig,
        seed: int,
        mine: Sequence[int],
        arms: Sequence[str] = ARMS,
    ) -> None:
        self._reader, self._suffix, self._config, self._seed = reader, suffix, config, seed
        self.word = word
        self._wanted = arms
        self._device = suffix.originals.device
        self._targets = torch.tensor(targets, dtype=torch.float32, device=self._device)
        self._splits = list(splits)
        self._mine = set(mine)
        self._share = 1.0 / (dist.get_world_size() if dist.is_initialized() else 1)
        with torch.no_grad(), self.reading():
            self._base = self._gather(list(range(len(targets))), suffix.originals)
        self.predictions = {arm: np.full(len(targets), np.nan) for arm in ARMS}
        self.scores = np.full(len(targets), np.nan)
        self.history: list[Metrics] = []
        self.fits: dict[str, Fit] = {}
        self._plan = [(split, arm) for split in range(len(splits)) for arm in self._arms(split)]
        self._state: _ArmState | None = None
        self._starts: dict[int, Head] = {}
        self._begin()

    def reading(self) -> AbstractContextManager[None]:
        """The block in which `step` is to be called: the model attends as the reader needs it."""
        return self._reader.attending()

    @property
    def finished(self) -> bool:
        """Whether all arms have run on all splits."""
        return not self._plan

    @property
    def step_items(self) -> int:
        """How many items the next step trains on."""
        return len(self._splits[self._plan[0][0]].train)

    @property
    def epochs_done(self) -> tuple[int, int]:
        """Epochs so far, and all at most: an arm that stops early counts as whole."""
        arms = sum(len(self._arms(split)) for split in range(len(self._splits)))
        now = self._state.epoch if self._state is not None else 0
        return (arms - len(self._plan)) * self._config.epochs + now, arms * self._config.epochs

    @property
    def fit(self) -> Fit:
        """Rows and head for use."""
        return self.fits[TOKENS]

    def step(self) -> Metrics:
        """One epoch of the arm at hand."""
        assert self._state is not None, "finished"
        (split, arm), state = self._plan[0], self._state
        part = self._splits[split]
        js_train = self._epoch(state, part, split)
        js_dev = self._js(state.rows, state.head, part.dev, frozen=arm == HEAD)
        state.epoch += 1
        if js_dev < state.best_js:
            state.keep(js_dev)
        else:
            state.stale += 1
        distance = float(cosine_distance(state.rows.detach(), self._suffix.originals))
        metrics: Metrics = {
            "split": split,
            "arm": arm,
            "epoch": state.epoch,
            "js_train": js_train,
            "js_dev": js_dev,
            "cosine_distance": distance,
        }
        self.history.append(metrics)
        if state.epoch >= self._config.epochs or state.stale >= self._config.patience:
            self._conclude(split, arm, state.best)
        return metrics

    def _arms(self, split: int) -> list[str]:
        """With lambda = 0 the last two arms are one; where nothing is held out, only "tokens" is of use."""
        left_out = {HEAD, LAMBDA0} if not len(self._splits[split].test) else set()
        left_out |= set() if self._config.cosine_weight else {LAMBDA0}
        return [arm for arm in self._wanted if arm not in left_out]

    def _begin(self) -> None:
        """Set up the arm that comes next; its own starting point is the first candidate for the best epoch."""
        if self.finished:
            self._state = None
            return
        split, arm = self._plan[0]
        if split not in self._starts:
            self._starts = {split: self._warm_head(split)}
        self._state = _ArmState(arm, self._starts[split], self._suffix, self._config)
        self._state.keep(self._js(self._suffix.originals, self._starts[split], self._splits[split].dev, frozen=True))

    def _warm_head(self, split: int) -> Head:
        """A head trained on the original tokens for `warmup_epochs`: the epoch with the least JS on dev."""
        part = self._splits[split]
        generator = torch.Generator().manual_seed(self._seed)
        head = Head(self._base.shape[1], self._config.head, generator).to(self._device)
        head.fit_scale(self._base[part.train])
        optimiser = AdamW(head.parameters(), lr=self._config.head_learning_rate, weight_decay=0.0)
        best, best_js = copy.deepcopy(head), self._js(self._suffix.originals, head, part.dev, frozen=True)
        for epoch in range(-self._config.warmup_epochs, 0):
            for batch in self._batches(part, split, epoch):
                optimiser.zero_grad()
                bernoulli_js(head(self._base[batch]), self._targets[batch]).mean().backward()  # type: ignore[no-untyped-call]
                optimiser.step()
            js = self._js(self._suffix.originals, head, part.dev, frozen=True)
            if js < best_js:
                best, best_js = copy.deepcopy(head), js
        return best

    def _epoch(self, state: _ArmState, part: Split, split: int) -> float:
        """Train; returns the mean JS of the epoch."""
        frozen = state.arm == HEAD
        weight = self._config.cosine_weight if state.arm == TOKENS else 0.0
        total = 0.0
        for batch in self._batches(part, split, state.epoch):
            state.optimiser.zero_grad()
            read = batch if frozen else [item for item in batch if item in self._mine]
            js = torch.zeros((), device=self._device)
            if read:
                js = bernoulli_js(state.head(self._states(read, state.rows, frozen)), self._targets[read]).sum()
            loss = js / len(batch)
            if weight:
                loss = loss + self._share * weight * cosine_distance(state.rows, self._suffix.originals)
            if loss.requires_grad:
                loss.backward()  # type: ignore[no-untyped-call]
            js = js.detach()
            if not frozen:
                js = sum_over_workers(state.parameters, js)
            state.optimiser.step()
            total += float(js)
        return total / len(part.train)

    def _batches(self, part: Split, split: int, epoch: int) -> list[list[int]]:
        order = np.random.default_rng([self._seed, split, epoch + 1_000]).permutation(part.train)
        return [
            order[start : start + self._config.batch_size].tolist()
            for start in range(0, len(order), self._config.batch_size)
        ]

    def _states(self, items: Sequence[int], rows: Tensor, frozen: bool) -> Tensor:
        return self._base[items] if frozen else self._reader.states(items, self._suffix.with_rows(rows))

    def _gather(self, items: Sequence[int], rows: Tensor) -> Tensor:
        """(len(items), width) states of items, read by whichever worker has them. No gradients."""
        mine = [(place, item) for place, item in enumerate(items) if item in self._mine]
        states = torch.zeros(len(items), rows.shape[1], device=self._device)
        suffix = self._suffix.with_rows(rows)
        for start in range(0, len(mine), READ_AT_ONCE):
            places, read = zip(*mine[start : start + READ_AT_ONCE], strict=True)
            states[list(places)] = self._reader.states(read, suffix)
        if dist.is_initialized():
            dist.all_reduce(states)
        return states

    @torch.no_grad()
    def _predict(self, rows: Tensor, head: Head, items: Sequence[int], frozen: bool) -> Tensor:
        return head(self._base[items] if frozen else self._gather(items, rows.detach()))

    def _js(self, rows: Tensor, head: Head, items: NDArray[np.int64], frozen: bool) -> float:
        chosen = items.tolist()
        return float(bernoulli_js(self._predict(rows, head, chosen, frozen), self._targets[chosen]).mean())

    def _conclude(self, split: int, arm: str, best: Fit) -> None:
        part = self._splits[split]
        self.fits[arm] = best
        if len(part.test):
            found = self._predict(best.rows, best.head, part.test.tolist(), arm == HEAD)
            self.predictions[arm][part.test] = found.cpu().double().numpy()
            if arm == TOKENS and not self._config.cosine_weight:
                self.predictions[LAMBDA0][part.test] = self.predictions[TOKENS][part.test]
        self._plan.pop(0)
        if self.finished:
            held_out = self.predictions[TOKENS]
            rest = np.flatnonzero(np.isnan(held_out))
            self.scores = held_out.copy()
            if len(rest):
                found = self._predict(self.fit.rows, self.fit.head, rest.tolist(), frozen=False)
                self.scores[rest] = found.cpu().double().numpy()
        self._begin()

    def save(self, folder: Path) -> None:
        """Write all that `load` needs into `folder`: `trainer.safetensors`, `trainer.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"predictions.{arm}": torch.tensor(values) for arm, values in self.predictions.items()}
        tensors["scores"] = torch.tensor(self.scores)
        for arm, fit in self.fits.items():
            tensors[f"fits.{arm}.rows"] = fit.rows
            tensors |= {f"fits.{arm}.head.{name}": value for name, value in fit.head.state_dict().items()}
        counters = None
        if self._state is not None:
            tensors |= {f"state.{name}": value for name, value in self._state.tensors().items()}
            counters = [self._state.epoch, self._state.stale, self._state.best_js]
        save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "trainer.safetensors")
        write_json(folder / "trainer.json", {"left": len(self._plan), "counters": counters, "history": self.history})

    def load(self, folder: Path) -> None:
        """Go on where `save` was called, in a trainer made with the same arguments."""
        tensors = load_file(folder / "trainer.safetensors", device=str(self._device))
        kept = json.loads((folder / "trainer.json").read_text(encoding="utf-8"))
        self.history = kept["history"]
        self.predictions = {arm: tensors[f"predictions.{arm}"].cpu().numpy() for arm in ARMS}
        self.scores = tensors["scores"].cpu().numpy()
        for arm in ARMS:
            if f"fits.{arm}.rows" in tensors:
                head = Head(self._base.shape[1], self._config.head).to(self._device).requires_grad_(False)
                head.load_state_dict(_part(tensors, f"fits.{arm}.head."))
                self.fits[arm] = Fit(tensors[f"fits.{arm}.rows"], head)
        self._plan = self._plan[len(self._plan) - kept["left"] :]
        self._begin()
        if self._state is not None:
            self._state.epoch, self._state.stale, self._state.best_js = kept["counters"]
            self._state.restore(_part(tensors, "state."))


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
