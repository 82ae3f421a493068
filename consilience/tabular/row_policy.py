"""A model of rows as a policy of PPO: what an episode is, what its reward reads, and the way back to a model."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from consilience.lm.adapters import fill, read_adapter
from consilience.ppo.policy import Policy
from consilience.ppo.rewards import Reward
from consilience.ppo.settings import PPOConfig
from consilience.ppo.trainer import PPOTrainer
from consilience.tabular.codec import RowCodec
from consilience.tabular.language import BEGIN, END, RowConstraint, RowLanguage
from consilience.tabular.row_model import RowModel, is_bfloat16_fast
from consilience.tabular.settings import AdversarialConfig


class RowTokeniser:
    """The part of a tokeniser that PPO needs: tokens of a row's language to the row's text.

    Columns stand in the order in which they were told; those with a single value, which are not told, come last.
    """

    eos_token_id = END
    pad_token_id = END

    def __init__(self, language: RowLanguage) -> None:
        self._language, self._codec = language, RowCodec(language.schema)

    def batch_decode(self, rows: Sequence[Sequence[int]], skip_special_tokens: bool = True) -> list[str]:
        """One text per row."""
        return [self._text(tokens) for tokens in rows]

    def _text(self, tokens: Sequence[int]) -> str:
        names = self._language.schema.names
        words = self._language.read(tokens)
        order = [*words, *(place for place in range(len(names)) if place not in words)]
        return self._codec.row_text(
            dict(zip(names, self._language.row(words), strict=True)), [names[place] for place in order]
        )


def row_trainer(model: RowModel, reward: Reward, config: AdversarialConfig, seed: int) -> PPOTrainer:
    """A trainer of a fresh adapter on `model`, which is the reference and stays as it is.

    An episode is a whole row, told from its beginning under the table's grammar; the choice of the next column is
    chance, not the policy's. `reward` scores the row's text.
    """
    base: Any = copy.deepcopy(model.model)
    policy_tokeniser: Any = RowTokeniser(model.language)
    policy = Policy(base.to(_precision(model.device)), policy_tokeniser, config.lora, seed)
    return PPOTrainer(
        policy, [[BEGIN]], reward, ppo_config(model, config, seed), constraint=RowConstraint(model.language)
    )


def ppo_config(model: RowModel, config: AdversarialConfig, seed: int) -> PPOConfig:
    """The settings of a round: rows are as long as the table has them."""
    sampling = config.ppo.sampling.model_copy(update={"max_new_tokens": model.language.longest - 1})
    return config.ppo.model_copy(update={"sampling": sampling, "seed": seed})


def merged(model: RowModel, checkpoint: Path) -> RowModel:
    """`model` with the adapter of a checkpoint of `row_trainer` in its weights, which are changed in place."""
    adapter = read_adapter(checkpoint)
    carrier: Any = PeftModel(model.model, adapter.settings)
    fill(carrier, adapter)
    return RowModel(carrier.merge_and_unload(), model.tokeniser, model.language)


def _precision(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if is_bfloat16_fast(device) else torch.float32
