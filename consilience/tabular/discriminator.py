"""Telling real rows from generated ones by their text: a text encoder with one linear head on its mean state."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.nn.utils import clip_grad_norm_
from torch.nn.utils.rnn import pad_sequence

from consilience.files import atomic_path
from consilience.gradients import rate_share
from consilience.tabular.codec import RowCodec
from consilience.tabular.row_model import autocast
from consilience.tabular.schema import Value
from consilience.tabular.settings import DiscriminatorConfig
from consilience.values.calibration import fit_temperature
from consilience.values.encoder import load_encoder

Floats = NDArray[np.float64]
Rows = Sequence[Sequence[Value]]

_TOKENS_PER_BATCH = 8_192
_WARMUP = 0.1
_MAX_GRAD_NORM = 1.0
_WEIGHTS = "discriminator.safetensors"


class Discriminator(nn.Module):
    """log D / (1 - D), D the probability that a row is real, calibrated on rows that it was not trained on.

    A text longer than `max_tokens` of the encoder's settings is cut; with columns in random order each is read at
    times. Dropout is off.
    """

    temperature: Tensor

    def __init__(self, config: DiscriminatorConfig) -> None:
        """The encoder as it comes and a head of zeros, on the GPU where there is one.

        Raises:
            UserError: see `load_encoder`.
        """
        super().__init__()
        self.config = config
        self.encoder, self._tokeniser = load_encoder(config.encoder)
        self.head = nn.Linear(int(self.encoder.config.hidden_size), 1)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.register_buffer("temperature", torch.ones(()))
        self.to("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def device(self) -> torch.device:
        return self.head.weight.device

    def forward(self, texts: Sequence[str]) -> Tensor:
        """(b,) float32 logits, not calibrated."""
        ids = self._tokeniser(list(texts), truncation=True, max_length=self.config.encoder.max_tokens)["input_ids"]
        tensors = [torch.tensor(row, device=self.device) for row in ids]
        padded = pad_sequence(tensors, batch_first=True, padding_value=self._tokeniser.pad_token_id or 0)
        lengths = torch.tensor([len(row) for row in ids], device=self.device)
        mask = (torch.arange(padded.shape[1], device=self.device) < lengths[:, None]).long()
        with autocast(self.device):
            states = self.encoder(input_ids=padded, attention_mask=mask).last_hidden_state.float()
        mean = (states * mask[:, :, None]).sum(1) / lengths[:, None]
        logits: Tensor = self.head(mean)[:, 0]
        return logits

    @torch.no_grad()
    def logits(self, texts: Sequence[str]) -> Floats:
        """(n,) calibrated logits, positive where a row looks real; equal texts have equal ones."""
        # Read once each: in batches of other lengths the same text is rounded otherwise, and ties would fall by batch.
        distinct = list(dict.fromkeys(texts))
        found = np.empty(len(distinct))
        for batch in _batches([len(text) for text in distinct]):
            found[batch] = (self([distinct[place] for place in batch]) / self.temperature).double().cpu().numpy()
        places = {text: place for place, text in enumerate(distinct)}
        return found[[places[text] for text in texts]]

    def fit(self, codec: RowCodec, real: Rows, generated: Rows, seed: int) -> None:
        """Learn to tell `real` from `generated`, each class of the same weight, columns in fresh orders every epoch."""
        rows, labels = [*real, *generated], np.repeat([1.0, 0.0], [len(real), len(generated)])
        weights = np.where(labels == 1, 0.5 / len(real), 0.5 / len(generated)) * len(rows)
        parameters = list(self.parameters())
        optimiser = torch.optim.AdamW(parameters, lr=0.0, weight_decay=0.01, fused=True)
        per_epoch = -(-len(rows) // self.config.batch_size)
        steps = per_epoch * self.config.epochs
        for step in range(steps):
            epoch, place = divmod(step, per_epoch)
            if not place:
                random = np.random.default_rng((seed, epoch))
                order, texts = random.permutation(len(rows)), row_texts(codec, rows, random)
            batch = order[place * self.config.batch_size : (place + 1) * self.config.batch_size]
            wanted, weight = (torch.from_numpy(each[batch]).float().to(self.device) for each in (labels, weights))
            loss = binary_cross_entropy_with_logits(self([texts[k] for k in batch]), wanted, weight)
            loss.backward()  # type: ignore[no-untyped-call]
            clip_grad_norm_(parameters, _MAX_GRAD_NORM, error_if_nonfinite=True)
            optimiser.param_groups[0]["lr"] = self.config.learning_rate * rate_share(step, steps, _WARMUP)
            optimiser.step()
            optimiser.zero_grad()

    def calibrate(self, codec: RowCodec, real: Rows, generated: Rows, seed: int) -> float:
        """Set the temperature by rows that it was not trained on. Returns its AUC on them, 0 to 1.

        Where it does no better than chance the temperature is the highest, and every logit close to 0.
        """
        random = np.random.default_rng((seed, _CALIBRATION))
        self.temperature.fill_(1.0)
        sizes = [len(real), len(generated)]
        logits, labels = self.logits(row_texts(codec, [*real, *generated], random)), np.repeat([1.0, 0.0], sizes)
        weights = np.repeat([1 / size for size in sizes], sizes)  # each class counts the same, and so each of its rows
        self.temperature.fill_(fit_temperature(logits, labels, weights))
        return float(roc_auc_score(labels, logits))

    def save(self, folder: Path) -> None:
        """Write all weights (safetensors)."""
        with atomic_path(folder / _WEIGHTS) as temporary:
            save_file(self.state_dict(), temporary)

    @classmethod
    def load(cls, folder: Path, config: DiscriminatorConfig) -> "Discriminator":
        """What `save` wrote, with the same settings."""
        found = cls(config)
        found.load_state_dict(load_file(folder / _WEIGHTS))
        return found.requires_grad_(False)


class DiscriminatorReward:
    """Calibrated logits within `clip` of 0: a `consilience.ppo.rewards.Reward` on rows' texts."""

    def __init__(self, discriminator: Discriminator, clip: float) -> None:
        self._discriminator, self._clip = discriminator, clip

    def __call__(self, texts: list[str]) -> list[float]:
        found: list[float] = self._discriminator.logits(texts).clip(-self._clip, self._clip).tolist()
        return found


def row_texts(codec: RowCodec, rows: Rows, random: np.random.Generator) -> list[str]:
    """Texts of rows, each with its columns in an order of its own."""
    names = np.array(codec.schema.names, dtype=object)
    orders = random.permuted(np.tile(np.arange(len(names)), (len(rows), 1)), axis=1)
    return [
        codec.row_text(dict(zip(codec.schema.names, row, strict=True)), names[order].tolist())
        for row, order in zip(rows, orders, strict=True)
    ]


_CALIBRATION = 1_000_000


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of texts of like length together; a character counts as a third of a token."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > 3 * _TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
