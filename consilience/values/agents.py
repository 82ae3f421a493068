"""Moral agents: adapters on one frozen base, each of which answers for one value; an aggregator is one more."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import GenerationConfig

from consilience.errors import UserError
from consilience.lm.adapters import fill, fitting, read_adapter
from consilience.lm.generator import generate_neutrally
from consilience.lm.language_model import LanguageModel
from consilience.ppo.rollout import pad_left
from consilience.values.answer_settings import BASE, AnswerConfig
from consilience.values.base import load_own
from consilience.values.prompts import agent_prompt
from consilience.values.saved import SavedAdapters, check_saved

_PEFT_BASE = "__base__"  # PEFT's name for a row without an adapter


class Agents:
    """Named adapters on one base, in its precision. Rows of a batch may each use another; a row is never touched by
    another's adapter.

    Attributes:
        model: the base and its tokeniser; the base is changed in place, it carries the adapters.
        names: of the adapters, in order.
    """

    def __init__(self, model: LanguageModel, adapters: Mapping[str, Path]) -> None:
        """Put `adapters` (name to a folder in PEFT's format, such as a checkpoint of `PPOTrainer.save`) on `model`.

        Raises:
            UserError: no adapters, a name that cannot be one, a folder that holds none, or one of another base.
        """
        if not adapters:
            raise UserError("adapters: none; expected at least one")
        self.model = model
        self.names = tuple(adapters)
        self._ends = generate_neutrally(model.model, model.tokeniser)
        for name in self.names:
            if name == BASE or "." in name:
                raise UserError(f"adapter '{name}': not a name for one; expected none of '{BASE}' and no dot")
        read = {name: read_adapter(folder) for name, folder in adapters.items()}
        first = self.names[0]
        with fitting(read[first]):
            self._peft = PeftModel(model.model, read[first].settings, first, autocast_adapter_dtype=False)
        for name, adapter in read.items():
            with fitting(adapter):
                if name != first:
                    self._peft.add_adapter(name, adapter.settings, autocast_adapter_dtype=False)
                fill(self._peft, adapter, name)
        self._peft.eval().requires_grad_(False)

    def answer(self, questions: Sequence[str], names: Sequence[str], config: AnswerConfig) -> list[str]:
        """Answers to `questions`, each by the adapter of that place in `names` (or `BASE`).

        Raises:
            UserError: an unknown name, a blank question, or no room for a prompt beside its answer.
        """
        room = self.room(config)
        return self.reply([agent_prompt(self.model.tokeniser, question, room) for question in questions], names, config)

    def room(self, config: AnswerConfig) -> int | None:
        """Most tokens of a prompt; None = no limit."""
        window = self.model.window
        return None if window is None else window - config.max_new_tokens

    def reply(self, prompts: Sequence[Sequence[int]], names: Sequence[str], config: AnswerConfig) -> list[str]:
        """What follows `prompts` (token ids), each by the adapter of that place in `names` (or `BASE`).

        Batches are of the same adapter and prompts of like length where possible, padded on the left.

        Raises:
            UserError: an unknown name.
        """
        for name in names:
            if name != BASE and name not in self.names:
                raise UserError(f"unknown agent '{name}'; expected one of {', '.join((BASE, *self.names))}")
        replies = [""] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda place: (names[place], len(prompts[place])))
        with torch.random.fork_rng():
            torch.manual_seed(config.seed)
            for start in range(0, len(order), config.batch_size):
                batch = order[start : start + config.batch_size]
                texts = self._continue([prompts[k] for k in batch], [names[k] for k in batch], config)
                for place, text in zip(batch, texts, strict=True):
                    replies[place] = text
        return replies

    def _continue(self, prompts: list[Sequence[int]], names: list[str], config: AnswerConfig) -> list[str]:
        sampling = {"temperature": config.temperature, "top_p": config.top_p, "top_k": 0} if config.temperature else {}
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=config.temperature > 0,
            max_new_tokens=config.max_new_tokens,
            eos_token_id=self._ends,
            pad_token_id=self._ends[0],
            **sampling,
        )
        ids, mask = pad_left(prompts, self._ends[0], self.model.model.device)
        output = self._generate(ids, mask, names, generation_config=settings)
        texts = self.model.tokeniser.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
        return [text.strip() for text in texts]

    def _generate(self, ids: Tensor, mask: Tensor, names: Sequence[str], **settings: Any) -> Tensor:
        """Prompts and what follows them. Rows that all use the same adapter are spared the sorting of rows."""
        generate = partial(self._peft.generate, input_ids=ids, attention_mask=mask.long(), **settings)
        with torch.inference_mode():
            if len(set(names)) > 1:
                return generate(adapter_names=[_PEFT_BASE if name == BASE else name for name in names])
            if names[0] == BASE:
                with self._peft.disable_adapter():
                    return generate()
            self._peft.set_adapter(names[0], inference_mode=True)
            return generate()


def open_agents(*saved: SavedAdapters) -> Agents:
    """All adapters of one or more run folders on one copy of their common base.

    Raises:
        UserError: the base cannot be had or is not the one that they were trained on, or a folder holds no adapter.
    """
    for each in saved:
        check_saved(each)
    return Agents(load_own(saved[0].base), {name: place for each in saved for name, place in each.adapters.items()})
