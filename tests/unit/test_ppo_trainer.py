"""PPO as a whole: where it converges, which gradient it follows, how it stops and goes on."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from ppo_models import END, PAD, WORDS, tiny_model, tiny_policy, tiny_tokeniser
from torch import Tensor

from consilience.config import parse_config
from consilience.errors import UserError
from consilience.ppo.losses import token_log_probs
from consilience.ppo.policy import LoraSettings, Policy
from consilience.ppo.rollout import Rollout, SamplingConfig
from consilience.ppo.trainer import Metrics, PPOConfig, PPOTrainer


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Models this small only lose by a second one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


WORTH = {word: place / 7 for place, word in enumerate("abcdefgh")}


def worth(texts: list[str]) -> list[float]:
    """Later letters are worth more; saying one twice costs 1."""
    words = [text.split() for text in texts]
    return [sum(WORTH[word] for word in said) - (len(said) - len(set(said))) for said in words]


def config(**settings: Any) -> PPOConfig:
    small = {
        "updates": 4,
        "batch_size": 16,
        "minibatch_size": 8,
        "microbatch_size": 8,
        "epochs": 2,
        "learning_rate": 1e-3,
        "sampling": {"max_new_tokens": 4},
    }
    return parse_config(PPOConfig, {**small, **settings}, "test")


def comparable(metrics: Metrics) -> Metrics:
    return {name: value for name, value in metrics.items() if not name.startswith("seconds")}


# Where it converges


RESPONSES = [[END], *([first, second] for first in range(len(WORDS)) if first != END for second in range(len(WORDS)))]


def law(policy: Policy, prompt: list[int], reference: bool = False) -> Tensor:
    """Probability of every response of at most two tokens."""
    n = len(RESPONSES)
    rollout = Rollout(
        torch.tensor([prompt] * n),
        torch.ones(n, len(prompt), dtype=torch.bool),
        torch.tensor([[*tokens, PAD][:2] for tokens in RESPONSES]),
        torch.tensor([[True, len(tokens) == 2] for tokens in RESPONSES]),
    )
    with torch.no_grad():
        logits = policy.reference_logits(rollout) if reference else policy.forward(rollout)[0]
        return (token_log_probs(logits, rollout.responses) * rollout.mask).sum(1).exp().double()


def test_converges_to_the_reference_times_exp_reward_over_beta() -> None:
    """The optimum of E[reward] - beta KL is pi_ref exp(reward / beta) / Z, and its value is beta log Z."""
    policy, prompt, beta = tiny_policy(seed=1), [2, 3, 5], 0.35
    texts = [" ".join(WORDS[token] for token in tokens if token not in (PAD, END)) for tokens in RESPONSES]
    target = law(policy, prompt, reference=True) * (torch.tensor(worth(texts)).double() / beta).exp()
    best, target = beta * float(target.sum().log()), target / target.sum()

    def distance() -> float:
        """Total variation."""
        return float((law(policy, prompt) - target).abs().sum() / 2)

    assert float(law(policy, prompt).sum()) == pytest.approx(1, abs=1e-5)
    assert distance() > 0.4
    for learning_rate, updates in ((5e-3, 9), (1e-3, 7), (3e-4, 7)):
        settings = config(
            batch_size=512,
            minibatch_size=256,
            microbatch_size=256,
            generation_batch_size=512,
            learning_rate=learning_rate,
            sampling={"max_new_tokens": 2},
            kl_coef=beta,
            gae_lambda=1.0,
            whiten_advantages=False,
            value_clip=None,
            seed=1,
        )
        trainer = PPOTrainer(policy, [prompt], worth, settings)
        objectives = [float(trainer.step()["objective"] or 0) for _ in range(updates)]
    assert distance() < 0.05
    assert sum(objectives) / updates == pytest.approx(best, abs=0.02)


# Which gradient it follows


def test_without_clipping_and_kl_one_epoch_is_the_policy_gradient() -> None:
    """grad = -1/tokens sum_t (score to go) grad log pi(a_t | s_t), each episode run alone through the bare model."""
    policy, prompts = tiny_policy(), [[2, 3, 5]]
    seen: list[list[int]] = []

    def per_token(responses: list[list[int]]) -> list[list[float]]:
        seen.extend(responses)
        return [[0.1 * token for token in tokens] for tokens in responses]

    settings = config(
        epochs=1,
        minibatch_size=16,
        microbatch_size=5,
        clip=None,
        kl_coef=0,
        value_coef=0,
        gae_lambda=1.0,
        whiten_advantages=False,
        max_grad_norm=1e9,
    )
    trainer = PPOTrainer(policy, prompts, lambda texts: [float(len(text)) for text in texts], settings, per_token)
    parameters = [p for name, p in policy.trainable.items() if "lora_" in name]
    with torch.no_grad():
        for parameter in parameters:
            parameter.normal_(std=0.2)
    trainer._optimiser = torch.optim.SGD(parameters, lr=1.0)
    start = [parameter.detach().clone() for parameter in parameters]
    trainer.step()
    taken = [before - after.detach() for before, after in zip(start, parameters, strict=True)]
    with torch.no_grad():
        for parameter, before in zip(parameters, start, strict=True):
            parameter.copy_(before)

    total = torch.zeros(())
    for tokens in seen:
        ids = torch.tensor([prompts[0] + tokens])
        log_probs = policy.base(input_ids=ids).logits[0, 2:-1].log_softmax(-1)[range(len(tokens)), tokens]
        score = float(len(" ".join(WORDS[token] for token in tokens if token not in (PAD, END))))
        to_go = torch.tensor([0.1 * sum(tokens[t:]) + score for t in range(len(tokens))])
        total = total - (to_go * log_probs).sum()
    expected = torch.autograd.grad(total / sum(map(len, seen)), parameters)
    assert len({len(tokens) for tokens in seen}) > 1, "responses of several lengths, so that padding matters"
    for ours, theirs in zip(taken, expected, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)


def test_gradient_accumulation_changes_nothing() -> None:
    trained = []
    for microbatch in (8, 3):
        policy = tiny_policy()
        trainer = PPOTrainer(policy, [[2], [3, 4]], worth, config(microbatch_size=microbatch))
        trainer.step()
        trained.append(policy.trainable)
    for name, parameter in trained[0].items():
        torch.testing.assert_close(parameter, trained[1][name], atol=1e-6, rtol=1e-4)


def test_policy_and_value_function_learn() -> None:
    policy = tiny_policy()
    trainer = PPOTrainer(
        policy,
        [[2], [3, 4]],
        worth,
        config(batch_size=128, minibatch_size=64, microbatch_size=64, learning_rate=3e-3, kl_coef=0.02, value_coef=0.5),
    )
    metrics = [trainer.step() for _ in range(10)]
    rewards = [float(m["reward"] or 0) for m in metrics]
    assert rewards[-1] > rewards[0] + 0.5
    assert float(metrics[-1]["value_loss"] or 0) < float(metrics[0]["value_loss"] or 0) / 2
    assert float(metrics[-1]["kl"] or 0) > 0


# What the settings do


def test_kl_coefficient_adapts_to_the_target() -> None:
    trainer = PPOTrainer(tiny_policy(), [[2]], worth, config(kl_target=5.0, kl_coef=1.0, kl_gain=0.5))
    used = [trainer.step()["kl_coef"] for _ in range(3)]
    assert used == pytest.approx([1.0, 0.9, 0.81]), "far below the target: a tenth cheaper each time"


def test_missing_end_is_charged_and_the_end_is_learnt() -> None:
    settings = config(batch_size=64, minibatch_size=64, microbatch_size=64, learning_rate=5e-3, kl_coef=0)
    free = PPOTrainer(tiny_policy(), [[2]], lambda texts: [1.0] * len(texts), settings).step()
    charged = settings.model_copy(update={"missing_eos_penalty": 2.0})
    trainer = PPOTrainer(tiny_policy(), [[2]], lambda texts: [1.0] * len(texts), charged)
    first, *_, last = [trainer.step() for _ in range(15)]
    assert free["objective"] == free["reward"] == first["reward"] == 1
    assert first["objective"] == pytest.approx(1 - 2 * (1 - float(first["ended"] or 0)))
    assert float(last["ended"] or 0) > float(first["ended"] or 0) + 0.3


@pytest.mark.parametrize(("reward_on", "start"), [("response", ""), ("prompt_and_response", "c d ")])
def test_the_reward_sees_what_it_is_configured_to(reward_on: str, start: str) -> None:
    seen: list[str] = []

    def reward(texts: list[str]) -> list[float]:
        seen.extend(texts)
        return [0.0] * len(texts)

    PPOTrainer(tiny_policy(), [[4, 5]], reward, config(reward_on=reward_on)).step()
    assert all(text.startswith(start.strip()) for text in seen)
    assert all(len(text.split()) <= 4 + len(start.split()) for text in seen)
    assert not any("<" in text for text in seen), "end-of-text and padding are not shown"


def only_letters(prompts: Tensor, responses: Tensor, logits: Tensor) -> Tensor:
    return torch.cat([torch.full_like(logits[:, :2], -torch.inf), logits[:, 2:]], dim=1)


def test_constraint_and_entropy_bonus_together() -> None:
    free = PPOTrainer(tiny_policy(), [[2]], worth, config(entropy_coef=0.0), constraint=only_letters)
    rewarded = PPOTrainer(tiny_policy(), [[2]], worth, config(entropy_coef=1.0), constraint=only_letters)
    narrow, wide = ([trainer.step() for _ in range(4)][-1] for trainer in (free, rewarded))
    assert narrow["length"] == wide["length"] == 4, "it may not end"
    assert math.log(len(WORDS) - 2) >= float(wide["entropy"] or 0) > float(narrow["entropy"] or 0)


def test_a_sampler_of_one_s_own() -> None:
    def always(prompts: Tensor, prompt_mask: Tensor, uniforms: Tensor, sampling: SamplingConfig) -> Rollout:
        responses = torch.tensor([[4, 5, END, PAD]]).expand(len(prompts), -1)
        return Rollout(prompts, prompt_mask, responses, responses != PAD)

    said: list[str] = []
    reward = lambda texts: said.extend(texts) or worth(texts)  # noqa: E731
    metrics = PPOTrainer(tiny_policy(), [[2]], reward, config(), sampler=always).step()
    assert set(said) == {"c d"}
    assert metrics["length"] == 3
    with pytest.raises(UserError, match="constraint: given together with a sampler"):
        PPOTrainer(tiny_policy(), [[2]], worth, config(), constraint=only_letters, sampler=always)


def test_prompts_come_in_shuffled_passes() -> None:
    trainer = PPOTrainer(tiny_policy(), [[2 + place] for place in range(6)], worth, config(batch_size=8))
    drawn = []
    for update in range(3):
        trainer.update = update
        drawn += trainer._prompt_indices()
    passes = [drawn[start : start + 6] for start in range(0, 24, 6)]
    assert all(sorted(indices) == list(range(6)) for indices in passes)
    assert len({tuple(indices) for indices in passes}) > 1


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 10, "minibatch_size": 4}, "batch_size 10 is not a multiple of minibatch_size 4"),
        ({"clip": 1.5}, "key 'clip'"),
        ({"kl_coef": 0, "kl_target": 6}, "kl_target multiplies kl_coef, which is 0"),
        ({"sampling": {"temperature": 0}}, "key 'sampling.temperature'"),
        ({"cliprange": 0.2}, "unknown key 'cliprange'"),
    ],
)
def test_bad_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        config(**settings)


@pytest.mark.parametrize(
    ("prompts", "message"),
    [
        ([], "prompts: none"),
        ([[2], []], "prompt 1: empty"),
        ([[2] * 61], "prompt 0: 65 tokens with its response; expected at most 64"),
    ],
)
def test_bad_prompts_are_named(prompts: Sequence[Sequence[int]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        PPOTrainer(tiny_policy(), prompts, worth, config())


# How it stops and goes on


def broken(texts: list[str]) -> list[float]:
    raise ConnectionError("reward service\n  is down\n")


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        (broken, "reward broken raised ConnectionError: reward service is down"),
        (lambda texts: [math.nan] * len(texts), "returned nan at position 0; expected a finite number"),
        (lambda texts: [1.0, math.inf] * (len(texts) // 2), "returned inf at position 1"),
        (lambda texts: [None] * len(texts), "returned None at position 0"),
        (lambda texts: [1.0] * (len(texts) - 1), "returned 15 scores for 16 texts"),
        (lambda texts: 1.0, "returned float scores for 16 texts"),
        (lambda texts: torch.tensor(1.0), "returned Tensor scores for 16 texts"),
        (lambda texts: torch.ones(16, 2), r"returned tensor\(\[1., 1.\]\) at position 0"),
        (lambda texts: torch.ones(16, 2, 1), r"returned tensor\(\[\[1.\], \[1.\]\]\) at position 0"),
    ],
    ids=["raises", "nan", "infinite", "none", "short", "scalar", "scalar tensor", "table", "tables"],
)
def test_a_reward_that_fails_stops_and_keeps_everything(reward: Any, message: str, tmp_path: Path) -> None:
    policy = tiny_policy()
    trainer = PPOTrainer(policy, [[2], [3]], worth, config())
    trainer.step()
    trainer.save(tmp_path / "checkpoint")
    before = {name: parameter.detach().clone() for name, parameter in policy.trainable.items()}
    trainer._reward = reward
    with pytest.raises(UserError, match=message) as raised:
        trainer.step()
    assert "\n" not in str(raised.value)
    assert trainer.update == 1
    assert all(torch.equal(before[name], parameter) for name, parameter in policy.trainable.items())
    resumed = PPOTrainer(tiny_policy(), [[2], [3]], worth, config())
    resumed.load(tmp_path / "checkpoint")
    trainer._reward = worth
    assert comparable(resumed.step()) == comparable(trainer.step())


def test_a_token_reward_of_the_wrong_shape_is_named() -> None:
    trainer = PPOTrainer(tiny_policy(), [[2]], worth, config(), lambda responses: [[0.0]] * 3)
    with pytest.raises(UserError, match="returned 3 scores for 16 responses"):
        trainer.step()


def test_resumed_run_repeats_the_numbers(tmp_path: Path) -> None:
    settings = config(kl_target=1.0)
    prompts = [[2], [3, 4], [5, 6, 7]]
    whole = PPOTrainer(tiny_policy(), prompts, worth, settings)
    expected = [comparable(whole.step()) for _ in range(5)]
    first = PPOTrainer(tiny_policy(), prompts, worth, settings)
    assert [comparable(first.step()) for _ in range(2)] == expected[:2]
    first.save(tmp_path / "update-2")
    torch.manual_seed(99)
    again = PPOTrainer(tiny_policy(), prompts, worth, settings.model_copy(update={"updates": 9}))
    again.load(tmp_path / "update-2")
    assert [comparable(again.step()) for _ in range(3)] == expected[2:]
    for name, parameter in again.policy.trainable.items():
        assert torch.equal(parameter, whole.policy.trainable[name]), name


def test_checkpoints_hold_no_pickle_and_are_refused_when_wrong(tmp_path: Path) -> None:
    trainer = PPOTrainer(tiny_policy(), [[2]], worth, config())
    trainer.step()
    trainer.save(tmp_path / "here")
    assert {path.suffix for path in (tmp_path / "here").iterdir()} <= {".safetensors", ".json"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here"]
    with pytest.raises(UserError, match="exists already"):
        trainer.save(tmp_path / "here")
    with pytest.raises(UserError, match="not a checkpoint of a PPO run"):
        trainer.load(tmp_path / "elsewhere")
    other = PPOTrainer(tiny_policy(), [[2]], worth, config(clip=0.1))
    with pytest.raises(UserError, match=r"made with clip 0.2; expected 0.1"):
        other.load(tmp_path / "here")
    for lora in (LoraSettings(rank=4, alpha=16), LoraSettings(rank=8, alpha=8)):
        other = PPOTrainer(Policy(tiny_model(), tiny_tokeniser(), lora), [[2]], worth, config())
        with pytest.raises(UserError, match="an adapter of another base or other settings"):
            other.load(tmp_path / "here")
