"""Value classifiers: one text encoder, and one linear head per value on the mean of its last hidden states."""

import shutil
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoConfig, AutoModel, AutoTokenizer

from consilience.errors import UserError
from consilience.files import atomic_path, digest_file, write_json
from consilience.lm.sources import open_source
from consilience.theories import VALUE_NAMES
from consilience.values.about import ABOUT, WEIGHTS, About, read_about
from consilience.values.calibration import probabilities
from consilience.values.encoder import load_encoder
from consilience.values.settings import EncoderConfig

Floats = NDArray[np.float64]

_TOKENS_PER_BATCH = 8_192


class ValueClassifier(nn.Module):
    """Logits of the five values, in the order of `VALUE_NAMES`.

    Dropout is off in training too, so that a step does not depend on how workers share its batch. The embeddings, half
    of a small encoder's weights, are frozen: words that training never shows keep their place among the others.
    """

    def __init__(self, encoder: nn.Module, tokeniser: Any, max_tokens: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.heads = nn.Linear(int(encoder.config.hidden_size), len(VALUE_NAMES))  # type: ignore[union-attr,arg-type]
        self.tokeniser, self.max_tokens = tokeniser, max_tokens
        for name, parameter in encoder.named_parameters():
            if name.startswith(("embeddings.", "pooler.")):
                parameter.requires_grad_(False)
        self.eval()

    @classmethod
    def build(cls, config: EncoderConfig, seed: int) -> "ValueClassifier":
        """An encoder as it comes, with fresh heads, on the GPU where there is one.

        Raises:
            UserError: see `load_encoder`.
        """
        encoder, tokeniser = load_encoder(config)
        torch.manual_seed(seed)
        return cls(encoder, tokeniser, config.max_tokens).to("cuda" if torch.cuda.is_available() else "cpu")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.heads.weight.device

    def tokenise(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids, cut to `max_tokens`; a text is data, in which no control token is recognised.

        An empty text is a token of padding where the tokeniser adds none of its own.
        """
        if not texts:
            return []
        ids: list[list[int]] = self.tokeniser(
            list(texts), truncation=True, max_length=self.max_tokens, split_special_tokens=True
        )["input_ids"]
        return [row or [self.tokeniser.pad_token_id or 0] for row in ids]

    def forward(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """(b, 5) float32 logits of tokenised texts."""
        tensors = [torch.tensor(row, device=self.device) for row in rows]
        ids = pad_sequence(tensors, batch_first=True, padding_value=self.tokeniser.pad_token_id or 0)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        mask = (torch.arange(ids.shape[1], device=self.device) < lengths[:, None]).long()
        states = self.encoder(input_ids=ids, attention_mask=mask).last_hidden_state
        mean = (states * mask[:, :, None]).sum(1) / lengths[:, None]
        logits: Tensor = self.heads(mean)
        return logits

    @torch.inference_mode()
    def logits(self, texts: Sequence[str]) -> Floats:
        """(n, 5) logits of texts, not yet calibrated."""
        rows = self.tokenise(texts)
        found = np.empty((len(rows), len(VALUE_NAMES)))
        for batch in _batches([len(row) for row in rows]):
            found[batch] = self([rows[index] for index in batch]).cpu().double().numpy()
        return found


def save_classifier(folder: Path, weights: Path, about: About) -> None:
    """Copy `weights` (safetensors) into `folder`, then write what is known of them (JSON, with the weights' digest)."""
    with atomic_path(folder / WEIGHTS) as temporary:
        shutil.copyfile(weights, temporary)
    heads = {value: asdict(head) for value, head in about.heads.items()}
    facts = {
        "question": about.question,
        "encoder": about.encoder.model_dump(mode="json"),
        "encoder_digest": about.encoder_digest,
        "seed": about.seed,
        "weights_digest": digest_file(folder / WEIGHTS),
        "heads": heads,
    }
    write_json(folder / ABOUT, facts)


def load_classifier(folder: Path) -> tuple[ValueClassifier, About]:
    """A trained classifier, loaded once per process.

    Raises:
        UserError: no classifier in `folder`, weights other than its description says, or another encoder than it was
            trained on.
    """
    about, digest = read_about(folder)
    return _load(folder.absolute(), digest, about.encoder, about.encoder_digest), about


@cache
def _load(folder: Path, digest: str, config: EncoderConfig, encoder_digest: str) -> ValueClassifier:
    if digest_file(folder / WEIGHTS) != digest:
        raise UserError(f"{folder / WEIGHTS}: not the weights that {ABOUT} describes; train again")
    files = open_source(config.source, config.revision)
    if files.settings_digest != encoder_digest:
        raise UserError(f"encoder '{config.source}': its settings or tokeniser are not those of {folder / ABOUT}")
    settings = AutoConfig.from_pretrained(files.folder, local_files_only=True)
    encoder = AutoModel.from_config(settings)  # type: ignore[no-untyped-call]
    tokeniser = AutoTokenizer.from_pretrained(files.folder, local_files_only=True)
    model = ValueClassifier(encoder.float(), tokeniser, config.max_tokens)
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    model.load_state_dict(load_file(folder / WEIGHTS))
    return model.requires_grad_(False)


def classify(model: ValueClassifier, about: About, texts: Sequence[str]) -> Floats:
    """(n, 5) calibrated probabilities."""
    temperatures = np.array([about.heads[value].temperature for value in VALUE_NAMES])
    return probabilities(model.logits(texts), temperatures)


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Indices of texts of like length together, about as many tokens in each batch, padding counted."""
    batch: list[int] = []
    for index in sorted(range(len(lengths)), key=lengths.__getitem__):
        if batch and (len(batch) + 1) * lengths[index] > _TOKENS_PER_BATCH:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
