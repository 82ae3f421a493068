"""One base that is policy, reference and value function, and never changes."""

import copy

import pytest
import torch
from ppo_models import END, PAD, tiny_model, tiny_policy, tiny_tokeniser
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from consilience.errors import UserError
from consilience.lm.generator import end_tokens
from consilience.ppo.policy import LoraSettings, Policy
from consilience.ppo.rollout import Rollout, SamplingConfig, generate, pad_left

PROMPTS = [[2, 3, 4], [5], [6, 7]]


def rollout_of(policy: Policy, tokens: int = 5) -> Rollout:
    ids, mask = pad_left(PROMPTS, PAD, policy.device)
    uniforms = torch.rand(len(PROMPTS), tokens, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return generate(policy.base, ids, mask, uniforms, SamplingConfig(max_new_tokens=tokens))


def disturb(policy: Policy) -> None:
    """An adapter and a value head as training would leave them: far from zero."""
    with torch.no_grad():
        for parameter in policy.trainable.values():
            parameter.normal_(std=0.3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reference_is_bitwise_the_base(dtype: torch.dtype) -> None:
    base = tiny_model().to(dtype)
    untouched = copy.deepcopy(base)
    policy = Policy(base, tiny_tokeniser(), LoraSettings())
    disturb(policy)
    rollout = rollout_of(policy)
    ids = torch.cat([rollout.prompts, rollout.responses[:, :-1]], 1)
    mask = torch.cat([rollout.prompt_mask, rollout.mask[:, :-1]], 1)
    with torch.no_grad():
        expected = untouched(
            input_ids=ids,
            attention_mask=mask.long(),
            position_ids=(mask.cumsum(1) - 1).clamp(min=0),
            logits_to_keep=rollout.responses.shape[1],
        ).logits
        assert torch.equal(policy.reference_logits(rollout), expected)
        assert not torch.equal(policy.forward(rollout)[0], expected)
    for name, weights in untouched.state_dict().items():
        ours = {key.replace("base_layer.", ""): value for key, value in base.state_dict().items()}[name]
        assert torch.equal(ours, weights), name


def test_logits_and_values_belong_to_the_state_before_each_token() -> None:
    """Against the model run on each episode alone, unpadded, all positions at once."""
    policy = tiny_policy()
    disturb(policy)
    rollout = rollout_of(policy)
    with torch.no_grad():
        logits, values = policy.forward(rollout)
        for row in range(len(PROMPTS)):
            length = int(rollout.mask[row].sum())
            ids = torch.tensor([PROMPTS[row] + rollout.responses[row, :length].tolist()])
            alone = policy.base(input_ids=ids, output_hidden_states=True)
            before = slice(len(PROMPTS[row]) - 1, ids.shape[1] - 1)
            torch.testing.assert_close(logits[row, :length], alone.logits[0, before])
            value = policy.value_head(alone.hidden_states[-1][0, before])[:, 0]
            torch.testing.assert_close(values[row, :length], value)


def test_a_new_policy_is_the_reference_and_values_nothing() -> None:
    policy = tiny_policy()
    rollout = rollout_of(policy)
    logits, values = policy.forward(rollout)
    assert torch.equal(logits, policy.reference_logits(rollout))
    assert not values.any()


def test_only_adapter_and_value_head_are_trainable() -> None:
    policy = tiny_policy()
    assert all("lora_" in name or name.startswith("value_head.") for name in policy.trainable)
    assert {name for name, p in policy.base.named_parameters() if p.requires_grad} == {
        name.removeprefix("base_model.model.") for name in policy.trainable if "lora_" in name
    }


def test_bfloat16_base_keeps_a_float32_adapter() -> None:
    policy = Policy(tiny_model().to(torch.bfloat16), tiny_tokeniser())
    logits, values = policy.forward(rollout_of(policy))
    assert logits.dtype == torch.bfloat16
    assert values.dtype == torch.float32
    assert all(parameter.dtype == torch.float32 for parameter in policy.trainable.values())


def test_a_response_ends_where_model_or_tokeniser_says() -> None:
    base, tokeniser = tiny_model(), tiny_tokeniser()
    for own, expected in ((None, [END]), (4, [4, END]), ([5, END, 4], [5, END, 4])):
        base.generation_config.eos_token_id = own
        assert end_tokens(base.generation_config, tokeniser) == expected
        assert sorted(Policy(tiny_model_ending(own), tokeniser).base.generation_config.eos_token_id) == sorted(expected)
    tokeniser.eos_token = None
    base.generation_config.eos_token_id = None
    with pytest.raises(UserError, match="names no end-of-text token"):
        end_tokens(base.generation_config, tokeniser)


def tiny_model_ending(ends: int | list[int] | None) -> PreTrainedModel:
    base = tiny_model()
    base.generation_config.eos_token_id = ends
    return base


def other_model(kind: str) -> PreTrainedModel:
    settings = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
        "gpt_neox": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64},
        "bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
        "gemma3_text": {
            "hidden_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "intermediate_size": 64,
        },
    }[kind]
    torch.manual_seed(0)
    config = AutoConfig.for_model(
        kind, vocab_size=10, eos_token_id=END, bos_token_id=None, pad_token_id=PAD, **settings
    )
    return AutoModelForCausalLM.from_config(config).eval()


@pytest.mark.filterwarnings("ignore:fan_in_fan_out")
@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "bloom", "gemma3_text"])
def test_other_architectures(kind: str) -> None:
    policy = Policy(other_model(kind), tiny_tokeniser())
    disturb(policy)
    rollout = rollout_of(policy)
    with torch.no_grad():
        logits, _ = policy.forward(rollout)
        for row, prompt in enumerate(PROMPTS):
            length = int(rollout.mask[row].sum())
            ids = torch.tensor([prompt + rollout.responses[row, :length].tolist()])
            alone = policy.base(input_ids=ids).logits[0, len(prompt) - 1 : -1]
            torch.testing.assert_close(logits[row, :length], alone, atol=1e-5, rtol=1e-4)
