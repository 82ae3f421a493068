"""What is tuned: a language model with an adapter, or a text encoder, behind one interface."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, TaskType
from torch import Tensor, nn
from transformers import PreTrainedModel

from consilience.calibration.frozen_layers import FrozenLayers
from consilience.calibration.questions import Questions
from consilience.calibration.settings import LanguageModelFit, ModelConfig, Pairs
from consilience.calibration.tasks import VotedItems
from consilience.lm.adapters import add_adapter
from consilience.lm.language_model import LanguageModel, batches, load_model
from consilience.lm.packed_attention import Prompt
from consilience.values.classifier import ValueClassifier
from consilience.values.settings import EncoderConfig

Floats = NDArray[np.float64]
Row = list[list[int]]
"""Token ids of one item's prompts or texts."""

_TOGETHER = 384
"""Tokens of prompts that are read as one prefix and its suffixes: their attention grows with the square."""


class AnswerModel(Protocol):
    """Gives logits over k answers.

    Attributes:
        trainable: name to parameter.
        fresh: names of those that start from nothing, and learn faster.
    """

    trainable: dict[str, nn.Parameter]
    fresh: frozenset[str]

    @property
    def device(self) -> torch.device: ...

    def tokenise(self, items: VotedItems) -> list[Row]:
        """What `forward` reads."""
        ...

    def batches(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """Places of rows that fit into memory together."""
        ...

    def forward(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """Logits (b, orders, k) float32, and the answer mass (b,); NaN where it has none."""
        ...


class TunedLanguageModel:
    """`AnswerModel` of a causal language model that is asked `Questions`.

    Prompts of a batch that begin alike are read as one prefix with several suffixes, so that instructions are read
    once for many items; the same prompt in two items is read once; and only where an answer begins there are logits.
    """

    fresh: frozenset[str] = frozenset()

    def __init__(
        self,
        model: LanguageModel,
        items: VotedItems,
        pairs: Pairs = "apart",
        fit: LanguageModelFit | None = None,
        seed: int = 0,
    ) -> None:
        """Ask `model`; with `fit`, put a fresh adapter on it in place, to be trained.

        Raises:
            UserError: the tokeniser has no tokens for the answers.
        """
        self.model = model
        self.questions = Questions(model.tokeniser, items, pairs)
        self.trainable: dict[str, nn.Parameter] = {}
        self._frozen: FrozenLayers | None = None
        if fit is not None:
            layers = int(model.model.config.get_text_config().num_hidden_layers)
            self.trainable = add_adapter(model.model, lora_config(fit, model.model), seed)
            first = layers - (fit.layers or layers)
            if first > 0 and model.packs:
                self._frozen = FrozenLayers(model, first)

    @property
    def device(self) -> torch.device:
        return self.model.model.device

    def tokenise(self, items: VotedItems) -> list[Row]:
        """See `AnswerModel`."""
        return [self.questions.sequences(texts) for texts in items.texts]

    def batches(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """See `AnswerModel`. Rows stay in their order, in which neighbours share prompts."""
        batch: list[int] = []
        prompts: set[tuple[int, ...]] = set()
        for place, row in enumerate(rows):
            with_row = prompts | set(map(tuple, row))
            if batch and sum(map(len, with_row)) > self.model.tokens_per_batch:
                yield batch
                batch, with_row = [], set(map(tuple, row))
            batch.append(place)
            prompts = with_row
        if batch:
            yield batch

    def forward(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """See `AnswerModel`."""
        places: dict[tuple[int, ...], int] = {}
        index = [[places.setdefault(tuple(sequence), len(places)) for sequence in row] for row in rows]
        prompts = share_prefix([list(sequence) for sequence in places], _TOGETHER)
        tokens, total = self._read(prompts)
        mass = (tokens.detach().logsumexp(-1) - total).exp()
        where = torch.tensor(index, device=self.device)
        return self.questions.item_logits(tokens[where]), mass[where].mean(dim=1)

    def _read(self, prompts: Sequence[Prompt]) -> tuple[Tensor, Tensor]:
        wanted = self.questions.answers.tokens
        if self._frozen is None:
            return self.model.logits(prompts, wanted)
        states = self._frozen.states(prompts)
        with self._frozen.skipped():
            return self.model.logits(prompts, wanted, states)


class TunedEncoder:
    """`AnswerModel` of a text encoder with a linear head on the mean of its last hidden states.

    Two actions get a score each and the scores a softmax, so that their order cannot matter (Lourie et al. 2021); a
    text gets a score per option.
    """

    def __init__(self, config: EncoderConfig, items: VotedItems, seed: int) -> None:
        """The encoder as it comes, with a fresh head.

        Raises:
            UserError: see `ValueClassifier.build`.
        """
        self._paired = items.task == "dilemmas"
        self._encoder = ValueClassifier.build(config, seed)
        outputs = 1 if self._paired else len(items.options)
        self._encoder.heads = nn.Linear(self._encoder.heads.in_features, outputs, device=self._encoder.device)
        nn.init.zeros_(self._encoder.heads.weight)
        nn.init.zeros_(self._encoder.heads.bias)
        self.trainable = {name: p for name, p in self._encoder.named_parameters() if p.requires_grad}
        self.fresh = frozenset(name for name in self.trainable if name.startswith("heads."))

    @property
    def device(self) -> torch.device:
        return self._encoder.device

    def tokenise(self, items: VotedItems) -> list[Row]:
        """See `AnswerModel`."""
        width = len(items.texts[0])
        flat = self._encoder.tokenise([text for texts in items.texts for text in texts])
        return [flat[start : start + width] for start in range(0, len(flat), width)]

    def batches(self, rows: Sequence[Row]) -> Iterator[list[int]]:
        """See `AnswerModel`."""
        return batches([2 * sum(map(len, row)) for row in rows], 8_192)

    def forward(self, rows: Sequence[Row]) -> tuple[Tensor, Tensor]:
        """See `AnswerModel`."""
        logits = self._encoder([text for row in rows for text in row]).view(len(rows), 1, -1)
        return logits, torch.full((len(rows),), torch.nan)


def open_language_model(config: ModelConfig, adapter: Path | None = None) -> LanguageModel:
    """See `load_model`; a model of its own, since an adapter that is trained changes it in place."""
    return load_model.__wrapped__(config.source, config.revision, config.dtype, adapter, config.four_bit)


def lora_config(fit: LanguageModelFit, model: PreTrainedModel) -> LoraConfig:
    """PEFT's form of the settings.

    Dropout is off, so that a step does not depend on how workers share its batch.
    """
    targets: Any = fit.lora.target_modules
    if fit.layers is not None:
        layers: Any = model.base_model.layers
        linear = {id(module) for module in layers[-fit.layers :].modules() if isinstance(module, nn.Linear)}
        targets = [
            name
            for name, module in model.named_modules()
            if id(module) in linear and (targets == "all-linear" or name.split(".")[-1] in targets)
        ]
    return LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=fit.lora.rank,
        lora_alpha=fit.lora.alpha,
        target_modules=targets if isinstance(targets, str) else list(targets),
    )


def share_prefix(sequences: Sequence[list[int]], together: int) -> list[Prompt]:
    """The sequences in their order, each a suffix of what all of them begin with, `together` tokens a prompt at most
    or one sequence alone. A suffix has a token at least."""
    first, last = min(sequences), max(sequences)
    alike = next((k for k, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    shared = min(alike, min(map(len, sequences)) - 1)
    groups: list[list[list[int]]] = []
    used = 0
    for sequence in sequences:
        length = len(sequence) - shared
        if not groups or used + length > together:
            groups.append([])
            used = shared
        groups[-1].append(sequence[shared:])
        used += length
    return [Prompt(sequences[0][:shared], group) for group in groups]


def read(model: AnswerModel, items: VotedItems) -> tuple[Floats, Floats]:
    """Logits (n, orders, k) and answer mass (n,) of all items, without gradients."""
    rows = model.tokenise(items)
    found: dict[int, tuple[Floats, float]] = {}
    with torch.inference_mode():
        for batch in model.batches(rows):
            logits, mass = model.forward([rows[place] for place in batch])
            values = logits.cpu().double().numpy()
            found |= {place: (values[k], float(mass[k])) for k, place in enumerate(batch)}
    return np.stack([found[row][0] for row in range(len(rows))]), np.array([found[row][1] for row in range(len(rows))])
