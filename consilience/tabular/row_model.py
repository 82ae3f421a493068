"""A causal language model that speaks a table's language: the vocabulary is the table's, the weights its own."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from consilience.errors import UserError, one_line
from consilience.files import write_json
from consilience.lm.sources import open_source
from consilience.tabular.language import BEGIN, END, RowLanguage
from consilience.tabular.schema import TableSchema
from consilience.values.base import BaseConfig

SCHEMA = "schema.json"


class RowModel:
    """A model of the rows of a table.

    Attributes:
        model: transformers' own, float32, whose vocabulary is `language`'s.
        tokeniser: of the model that it was made from.
    """

    def __init__(self, model: PreTrainedModel, tokeniser: PreTrainedTokenizerBase, language: RowLanguage) -> None:
        self.model, self.tokeniser, self.language = model.eval(), tokeniser, language  # type: ignore[no-untyped-call]
        model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
            bos_token_id=BEGIN, eos_token_id=END, pad_token_id=END
        )

    @classmethod
    def build(cls, base: BaseConfig, schema: TableSchema) -> "RowModel":
        """A language model as it comes, with the vocabulary of a table, on the GPU where there is one.

        A token of the table's starts as the mean of the model's tokens that it stands for, or of all.

        Raises:
            UserError: the model cannot be had, or its window is too short for a row.
        """
        files = open_source(base.source, base.revision)
        tokeniser = AutoTokenizer.from_pretrained(files.folder, local_files_only=True)
        language = RowLanguage(schema, _tokenise(tokeniser))
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            files.folder, dtype=torch.float32, local_files_only=True, output_loading_info=True
        )
        model, report = loaded
        if missing := report["missing_keys"]:
            raise UserError(f"model source '{base.source}': not a causal language model, it has no {min(missing)}")
        window = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if window is not None and window < language.longest:
            raise UserError(f"table: a row takes {language.longest} tokens; the model's window holds {window}")
        _speak(model, language.sources)
        return cls(model.to("cuda" if torch.cuda.is_available() else "cpu"), tokeniser, language)

    @classmethod
    def load(cls, folder: Path) -> "RowModel":
        """What `save` wrote.

        Raises:
            UserError: no such model in `folder`.
        """
        try:
            schema = TableSchema.from_json(json.loads((folder / SCHEMA).read_text(encoding="utf-8")))
            tokeniser = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder}: no generator can be read: {one_line(error)}") from None
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model, tokeniser, RowLanguage(schema, _tokenise(tokeniser)))

    def save(self, folder: Path) -> None:
        """Write model and tokeniser (transformers' formats, safetensors) and the table's schema (JSON)."""
        self.model.save_pretrained(folder)
        self.tokeniser.save_pretrained(folder)
        write_json(folder / SCHEMA, self.language.schema.to_json())

    @property
    def device(self) -> torch.device:
        return self.model.device


def autocast(device: torch.device) -> torch.autocast:
    """bfloat16 where `device` is faster at it than at float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=is_bfloat16_fast(device))


def is_bfloat16_fast(device: torch.device) -> bool:
    """Whether `device` has instructions for bfloat16."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return bool(torch.cpu.get_capabilities().get("avx512_bf16"))


def _tokenise(tokeniser: Any) -> Any:
    return lambda text: tokeniser(text, add_special_tokens=False)["input_ids"]


def _speak(model: Any, sources: Sequence[Sequence[int]]) -> None:
    """Give `model` a vocabulary of tokens that stand for `sources`."""
    read, write = model.get_input_embeddings(), model.get_output_embeddings()
    tied = read.weight is write.weight
    rows = _means(read.weight.data, sources)
    heads = None if tied else _means(write.weight.data, sources)
    biases = None if write.bias is None else _means(write.bias.data[:, None], sources)[:, 0]
    config = model.config.get_text_config()
    config.bos_token_id, config.eos_token_id, config.pad_token_id = BEGIN, END, None
    model.resize_token_embeddings(len(sources), mean_resizing=False)
    model.get_input_embeddings().weight.data.copy_(rows)
    model.get_input_embeddings().padding_idx = None
    if heads is not None:
        model.get_output_embeddings().weight.data.copy_(heads)
    if biases is not None:
        model.get_output_embeddings().bias.data.copy_(biases)


def _means(weights: Tensor, sources: Sequence[Sequence[int]]) -> Tensor:
    everything = weights.mean(0)
    return torch.stack([weights[list(source)].mean(0) if source else everything for source in sources])
