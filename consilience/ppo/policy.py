"""One frozen language model that is three things: adapter on = policy, adapter off = reference, and a value head."""

import inspect
from pathlib import Path

import torch
from peft import LoraConfig, TaskType, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from consilience.errors import UserError
from consilience.lm.adapters import fill, read_adapter
from consilience.lm.generator import generate_neutrally
from consilience.ppo.rollout import Rollout
from consilience.ppo.settings import LoraSettings


class Policy:
    """Policy, reference and value function on one base.

    The base's weights are never written; the adapter and the value head, both float32, are all that is trained. The
    value head is linear on the hidden states that the vocabulary head reads, and starts at zero. Dropout is off.

    Attributes:
        model: the base with the adapter (PEFT).
        base: the transformers model inside; calls go through the adapter unless it is switched off.
        tokeniser: the base's.
        trainable: name to parameter, adapter first, value head last.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        tokeniser: PreTrainedTokenizerBase,
        lora: LoraSettings | None = None,
        seed: int = 0,
    ) -> None:
        """Add a fresh adapter to `base` (any causal language model of transformers, in any dtype, on any device).

        `base` is changed in place: it carries the adapter, is frozen, and generates with neutral settings. A
        fine-tuned reference is had by merging its adapter into the base first. `seed` decides the initial adapter.

        Raises:
            UserError: neither model nor tokeniser names an end-of-text token.
        """
        lora = lora or LoraSettings()
        self.base, self.tokeniser = base, tokeniser
        self._alpha = lora.alpha
        generate_neutrally(base, tokeniser)
        targets = lora.target_modules if isinstance(lora.target_modules, str) else list(lora.target_modules)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = get_peft_model(
                base,
                LoraConfig(task_type=TaskType.CAUSAL_LM, r=lora.rank, lora_alpha=lora.alpha, target_modules=targets),
            ).eval()
        self._head = base.get_output_embeddings()  # type: ignore[no-untyped-call]
        # A slice of positions is not contiguous, and torch would multiply it row by row, four times slower.
        self._head.register_forward_pre_hook(lambda _, inputs: (inputs[0].contiguous(),))
        self.value_head = nn.Linear(self._head.weight.shape[1], 1, device=base.device)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)
        self.trainable = {name: p for name, p in self.model.named_parameters() if p.requires_grad}
        self.trainable |= {f"value_head.{name}": p for name, p in self.value_head.named_parameters()}
        self._options = inspect.signature(base.forward).parameters

    @property
    def device(self) -> torch.device:
        return self.base.device

    def forward(self, rollout: Rollout) -> tuple[Tensor, Tensor]:
        """Logits (b, r, v) for each response token and the value (b, r) of the state before it, in one pass."""
        hidden: list[Tensor] = []
        with self._head.register_forward_pre_hook(lambda _, inputs: hidden.append(inputs[0])):
            logits = self._logits(rollout)
        return logits, self.value_head(hidden[0][:, -logits.shape[1] :].float()).squeeze(-1)

    def reference_logits(self, rollout: Rollout) -> Tensor:
        """The base's logits (b, r, v) for each response token: bitwise those it has without an adapter."""
        with self.model.disable_adapter():
            return self._logits(rollout)

    def _logits(self, rollout: Rollout) -> Tensor:
        """The last token predicts nothing and is not fed; only positions that predict a response token get logits."""
        ids = torch.cat([rollout.prompts, rollout.responses[:, :-1]], dim=1)
        mask = torch.cat([rollout.prompt_mask, rollout.mask[:, :-1]], dim=1)
        width = rollout.responses.shape[1]
        options = {"position_ids": (mask.cumsum(1) - 1).clamp(min=0), "logits_to_keep": width}
        known = {name: value for name, value in options.items() if name in self._options}
        logits: Tensor = self.base(input_ids=ids, attention_mask=mask.long(), use_cache=False, **known).logits
        return logits[:, -width:]

    def save(self, folder: Path) -> None:
        """Write the adapter (PEFT's format) and `value_head.safetensors` into `folder`."""
        self.model.save_pretrained(str(folder), save_embedding_layers=False)
        (folder / "README.md").unlink()  # PEFT's empty model card
        save_file(self.value_head.state_dict(), folder / "value_head.safetensors")

    def load(self, folder: Path) -> None:
        """Read what `save` wrote.

        Raises:
            UserError: no adapter can be read, or it was written for another base or other settings.
        """
        adapter = read_adapter(folder)
        try:
            if adapter.settings.lora_alpha != self._alpha:
                raise ValueError("another scale")
            fill(self.model, adapter)
        except ValueError:
            raise UserError(f"{folder}: an adapter of another base or other settings than this run's") from None
        self.value_head.load_state_dict(load_file(folder / "value_head.safetensors"))
