"""Sampling responses by vLLM, which holds a copy of the base and takes the policy's adapter as it stands."""

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor
from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

from consilience.ppo.policy import Policy
from consilience.ppo.rollout import Rollout
from consilience.ppo.settings import SamplingConfig


class VllmSampler:
    """A `rollout.Sampler` on vLLM; log-probabilities remain the training model's.

    vLLM rounds otherwise than transformers, and otherwise in other batches: the same seed may give other responses
    than without it, and in bfloat16 their probabilities differ from the training model's by that rounding.
    """

    def __init__(self, policy: Policy, llm: LLM) -> None:
        """Sample from `policy`, adapter on.

        Args:
            llm: runs the policy's own base, made with `LLM(folder, enable_lora=True, max_lora_rank=rank)`.
        """
        self._policy, self._llm = policy, llm
        self._calls = 0

    def __call__(self, prompts: Tensor, prompt_mask: Tensor, uniforms: Tensor, sampling: SamplingConfig) -> Rollout:
        """Draw one response per prompt, shapes as in `rollout.generate`; a row's first uniform is its seed."""
        settings = self._policy.base.generation_config
        self._calls += 1
        with TemporaryDirectory() as folder:
            self._policy.save(Path(folder))
            outputs = self._llm.generate(
                [{"prompt_token_ids": ids[mask].tolist()} for ids, mask in zip(prompts, prompt_mask, strict=True)],
                [
                    SamplingParams(
                        temperature=sampling.temperature,
                        top_k=sampling.top_k or 0,
                        top_p=sampling.top_p or 1.0,
                        max_tokens=sampling.max_new_tokens,
                        seed=int(first * 2**53),
                        stop_token_ids=settings.eos_token_id,
                        detokenize=False,
                    )
                    for first in uniforms[:, 0].tolist()
                ],
                use_tqdm=False,
                lora_request=LoRARequest(f"update-{self._calls}", self._calls, folder),
            )
        responses = torch.full(uniforms.shape, settings.pad_token_id, device=prompts.device)
        mask = torch.zeros(uniforms.shape, dtype=torch.bool, device=prompts.device)
        for row, output in enumerate(outputs):
            tokens = output.outputs[0].token_ids
            responses[row, : len(tokens)] = torch.tensor(tokens, device=prompts.device)
            mask[row, : len(tokens)] = True
        return Rollout(prompts, prompt_mask, responses, mask)
