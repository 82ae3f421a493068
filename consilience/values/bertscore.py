"""BERTScore on a local encoder: how well the tokens of two texts match by meaning (Zhang et al. 2020).

Every token of the text is matched with the token of the reference whose hidden state is nearest by cosine (precision),
and the other way round (recall). No weighting by rarity, no rescaling; the encoder's own special tokens match nothing
and count for nothing. Figures of different encoders, layers or tokenisers cannot be compared. The package bert-score
is not used: it takes its encoder by name, no revision pinned, and matches the special tokens too.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize
from torch.nn.utils.rnn import pad_sequence

from consilience.errors import UserError
from consilience.values.encoder import load_encoder
from consilience.values.evaluation_settings import ScoreEncoder

_PAIRS, _TEXTS = 512, 64  # pairs whose states are in memory at once; texts that are read at once


class BertScorer:
    """Scores pairs of texts; `load_scorer` makes one."""

    def __init__(self, model: Any, tokeniser: Any, layer: int, max_tokens: int) -> None:
        self._model, self._tokeniser = model, tokeniser
        self._layer, self._max_tokens = layer, max_tokens

    def __call__(self, texts: Sequence[str], references: Sequence[str]) -> NDArray[np.float64]:
        """(n, 3): precision, recall and F1 of each text against its reference, cosines; 0 where either is blank.

        Equal pairs have equal scores where they stand near each other: order pairs by reference.
        """
        found = np.zeros((len(texts), 3))
        for start in range(0, len(texts), _PAIRS):
            pairs = list(zip(texts[start : start + _PAIRS], references[start : start + _PAIRS], strict=True))
            states = self._read(sorted({text for pair in pairs for text in pair}))
            for place, (text, reference) in enumerate(pairs, start):
                found[place] = match(states[text], states[reference])
        return found

    def _read(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Text to (t, width) hidden states of its tokens, of length 1."""
        states: dict[str, Tensor] = {}
        ordered = sorted(texts, key=len)
        for start in range(0, len(ordered), _TEXTS):
            batch = ordered[start : start + _TEXTS]
            read = self._tokeniser(batch, truncation=True, max_length=self._max_tokens, return_special_tokens_mask=True)
            pad = self._tokeniser.pad_token_id or 0
            rows = [torch.tensor(row or [pad], device=self._model.device) for row in read["input_ids"]]
            ids = pad_sequence(rows, batch_first=True, padding_value=pad)
            mask = pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
            with torch.inference_mode():
                output = self._model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
            hidden = normalize(output.hidden_states[self._layer], dim=-1).cpu()
            for text, row, special in zip(batch, hidden, read["special_tokens_mask"], strict=True):
                states[text] = row[: len(special)][torch.tensor(special) == 0].double()
        return states


def match(text: Tensor, reference: Tensor) -> tuple[float, float, float]:
    """Precision, recall and F1 by greedy matching of unit vectors, (t, width) and (r, width); 0 without vectors."""
    if not len(text) or not len(reference):
        return 0.0, 0.0, 0.0
    similarity = text @ reference.T
    precision, recall = similarity.amax(1).mean().item(), similarity.amax(0).mean().item()
    total = precision + recall
    return precision, recall, 2 * precision * recall / total if total > 0 else 0.0


@cache
def load_scorer(config: ScoreEncoder) -> BertScorer:
    """A scorer, loaded once per process, on the GPU where there is one.

    Raises:
        UserError: see `load_encoder`, or the encoder lacks the layer.
    """
    model, tokeniser = load_encoder(config)
    layers = int(model.config.num_hidden_layers)
    if config.layer > layers:
        raise UserError(f"encoder '{config.source}': layer {config.layer}; expected 1 to {layers}")
    model = model.to("cuda" if torch.cuda.is_available() else "cpu")
    return BertScorer(model, tokeniser, config.layer, config.max_tokens)
