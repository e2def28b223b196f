"""What every on-policy learner shares: the options of `OnPolicyConfig`, refusals, saving."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.config import OnPolicyConfig, PPOConfig
from agents.on_policy import OnPolicyAgent
from agents.policy import CausalLMPolicy
from agents.ppo import PPO
from agents.pretraining_mix import PretrainingMix
from agents.rollout import collect
from textenvs.errors import CheckpointError, ConfigError, DoubleCountingError, UnknownNameError
from textenvs.reference import CausalLMReference
from textenvs.wrappers.reference_kl import VectorReferenceKL

QUICK = PPOConfig(learning_rate=1e-2, n_epochs=2, batch_size=16)
TEXTS = ["abracadabra " * 6, "abba " * 20]
Make = Callable[..., Any]


@pytest.fixture
def make_agent(make_policy: Make, make_venv: Make) -> Make:
    """Return a maker of PPO agents; fields of the settings by name."""

    def make(num_envs: int = 8, kl: Any = None, mix: Any = None, **changes: Any) -> PPO:
        fields = {field.name for field in dataclasses.fields(PPOConfig)}
        config = dataclasses.replace(QUICK, **{k: changes.pop(k) for k in fields & set(changes)})
        venv = make_venv(num_envs, **changes)
        if kl is not None:
            venv = VectorReferenceKL(venv, **kl)
        return PPO(make_policy(), venv, config, seed=0, pretraining=mix)

    return make


def flat(agent: OnPolicyAgent) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in agent.parameters])


def test_minibatches_hold_whole_groups_and_every_row_once(make_agent: Make) -> None:
    agent = make_agent(12, samples_per_prompt=3, batch_size=6)
    batch, _ = agent.prepare(collect(agent.policy, agent.env, generator=agent.generator))
    parts = agent._minibatches(batch.groups, torch.arange(12))
    assert [len(part) for part in parts] == [6, 6]
    assert sorted(torch.cat(parts).tolist()) == list(range(12))
    for part in parts:
        numbers, counts = batch.groups[part].unique(return_counts=True)
        assert len(numbers) == 2 and counts.tolist() == [3, 3]
    again = agent._minibatches(batch.groups, torch.arange(12))
    assert [p.tolist() for p in parts] != [p.tolist() for p in again], "another order each epoch"


@pytest.mark.parametrize("estimator", ["k2", "k3", "full"])
def test_a_kl_in_the_loss_holds_the_policy_back(
    estimator: Any, make_agent: Make, make_model: Make
) -> None:
    ends = []
    for coef in (1e-6, 2.0):
        reference = CausalLMReference(make_model(), bfloat16=False)
        kl = {"reference": reference, "coef": coef}
        agent = make_agent(16, kl=kl, kl_in="loss", kl_estimator=estimator)
        told: list[Any] = []
        agent.learn(16 * 4 * 8, told.append)
        ends.append(told[-1]["kl"])
        assert told[-1]["kl_loss"] >= 0
    assert ends[1] < 0.5 * ends[0]


def test_the_full_kl_in_the_loss_has_the_gradient_of_the_kl(
    make_agent: Make, make_model: Make
) -> None:
    """At the reference itself the gradient is 0; away from it a step along it closes in."""
    reference = CausalLMReference(make_model(), bfloat16=False)
    kl = {"reference": reference, "coef": 1.0}
    agent = make_agent(8, kl=kl, kl_in="loss", kl_estimator="full")
    batch, _ = agent.prepare(collect(agent.policy, agent.env, generator=agent.generator))
    divergence = agent._full_kl(batch).sum()
    divergence.backward()
    assert divergence.item() == pytest.approx(0.0, abs=1e-4)
    gradients = [p.grad for p in agent.policy.model.parameters() if p.grad is not None]
    assert max(g.abs().max().item() for g in gradients) < 1e-3
    with torch.no_grad():
        for p in agent.policy.model.parameters():
            p.add_(0.2 * torch.randn(p.shape, generator=torch.Generator().manual_seed(1)))
    agent.optimizer.zero_grad()
    before = agent._full_kl(batch).sum()
    before.backward()
    with torch.no_grad():
        for p in agent.policy.model.parameters():
            if p.grad is not None:
                p.sub_(1e-3 * p.grad / p.grad.norm().clamp_min(1e-9))
    assert 1.0 < agent._full_kl(batch).sum().item() < before.item()


def test_a_step_of_too_large_a_ratio_is_skipped(make_agent: Make) -> None:
    agent = make_agent(8, max_ratio=1.5, n_epochs=1)
    rollout = collect(agent.policy, agent.env, generator=agent.generator)
    batch, _ = agent.prepare(rollout)
    before = flat(agent)
    far = batch._replace(logprobs=batch.logprobs - 2.0)  # a ratio of e^2
    told = agent.update(far)
    assert told["skipped"] == 1.0 and told["ratio"] > 7
    assert torch.equal(before, flat(agent))
    assert agent.update(batch)["skipped"] == 0.0
    assert not torch.equal(before, flat(agent))


def test_the_average_follows_the_weights_slowly(make_agent: Make, tmp_path: Path) -> None:
    agent = make_agent(8, ema_decay=0.5, n_epochs=1, batch_size=8)
    start = flat(agent)
    expected = start
    for _ in range(3):
        agent.step()
        expected = 0.5 * expected + 0.5 * flat(agent)
    now = flat(agent)
    with agent.average.applied():
        torch.testing.assert_close(flat(agent), expected)
    assert torch.equal(flat(agent), now) and not torch.allclose(now, expected)
    assert make_agent(8).average is None


def test_the_critic_may_learn_faster(make_agent: Make) -> None:
    agent = make_agent(8, critic_learning_rate=0.05)
    rates = []
    agent.learn(64, lambda metrics: rates.append([g["lr"] for g in agent.optimizer.param_groups]))
    assert rates[0] == pytest.approx([1e-2, 5e-2])
    assert all(b == pytest.approx(5 * a) for a, b in rates) and rates[-1][0] < 1e-2
    assert len(agent.optimizer.param_groups[1]["params"]) == 2  # weight and bias of the head


def test_pretraining_text_is_learned_beside_the_reward(
    make_agent: Make, byte_tokenizer: Any
) -> None:
    """The mix lowers its own loss; without it the loss on the same text does not fall so."""
    ends = {}
    for coef in (0.0, 1.0):
        mix = PretrainingMix(TEXTS, byte_tokenizer, block_tokens=16) if coef else None
        agent = make_agent(8, ptx_coef=coef, ptx_batch_size=4, mix=mix, anneal=False)
        for _ in range(20):
            told = agent.step()
        held = PretrainingMix(TEXTS, byte_tokenizer, block_tokens=16)
        ends[coef] = held.loss(agent.policy, len(held.blocks)).item()
        assert ("ptx_loss" in told) == bool(coef)
    assert ends[1.0] < 0.6 * ends[0.0]


def test_the_mix_draws_every_block_before_any_twice(byte_tokenizer: Any) -> None:
    mix = PretrainingMix(TEXTS, byte_tokenizer, block_tokens=16, seed=3)
    n = len(mix.blocks)
    first, second = mix.draw(n), mix.draw(n)
    assert sorted(first.tolist()) == sorted(second.tolist()) == sorted(mix.blocks.tolist())
    assert first.tolist() != second.tolist()
    state = mix.state_dict()
    expected = mix.draw(5).tolist()
    other = PretrainingMix(TEXTS, byte_tokenizer, block_tokens=16, seed=4)
    assert other.draw(5).tolist() != expected
    other.load_state_dict(state)
    assert other.draw(5).tolist() == expected
    with pytest.raises(ConfigError, match="fewer than one block of 9999"):
        PretrainingMix(TEXTS, byte_tokenizer, block_tokens=9999)


def test_average_and_mix_go_on_exactly(
    make_venv: Make, model_folder: Make, byte_tokenizer: Any, tmp_path: Path
) -> None:
    config = dataclasses.replace(QUICK, ema_decay=0.9, ptx_coef=0.5, critic_learning_rate=0.02)
    folder = model_folder()

    def mix() -> PretrainingMix:
        return PretrainingMix(TEXTS, byte_tokenizer, block_tokens=16)

    def fresh() -> PPO:
        policy = CausalLMPolicy.from_pretrained(folder, bfloat16=False)
        return PPO(policy, make_venv(8), config, pretraining=mix())

    unbroken = fresh().learn(8 * 4 * 4)
    broken = fresh().learn(8 * 4 * 4, lambda metrics: metrics["update"] < 2)
    path = broken.save(tmp_path / "saved")
    resumed = PPO.load(path, make_venv(8), pretraining=mix())
    resumed.learn(8 * 4 * 4, reset_num_timesteps=False)
    assert resumed.num_updates == unbroken.num_updates > 2
    assert torch.equal(flat(resumed), flat(unbroken))
    assert resumed.average is not None and unbroken.average is not None
    for one, two in zip(resumed.average.average, unbroken.average.average, strict=True):
        assert torch.equal(one, two)


class Other(OnPolicyAgent):
    """A learner of another name."""


def test_another_learner_does_not_take_the_folder(
    model_folder: Make, make_venv: Make, tmp_path: Path
) -> None:
    policy = CausalLMPolicy.from_pretrained(model_folder(), bfloat16=False)
    path = PPO(policy, make_venv(4), QUICK).save(tmp_path / "saved")
    with pytest.raises(CheckpointError, match="saved by PPO, not by Other; load it with PPO.load"):
        Other.load(path, make_venv(4))


def test_settings_that_do_not_go_together(
    make_agent: Make, make_policy: Make, make_venv: Make, make_model: Make, byte_tokenizer: Any
) -> None:
    reference = CausalLMReference(make_model(), bfloat16=False)
    whole = {"reference": reference, "coef": 0.1, "policy_logprob": True}
    with pytest.raises(DoubleCountingError, match="charges the whole KL"):
        make_agent(kl=whole, kl_in="loss", kl_estimator="k3")
    with pytest.raises(DoubleCountingError, match="charges the whole KL"):
        make_agent(kl=whole, kl_estimator="k2")
    with pytest.raises(ConfigError, match='kl_in="loss" needs the reference'):
        make_agent(kl_in="loss", kl_estimator="k3")
    with pytest.raises(ConfigError, match="gradient of expectation 0"):
        PPOConfig(kl_in="loss")
    with pytest.raises(UnknownNameError, match="k3"):
        PPOConfig(kl_estimator="k4")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="replace"):
        PPOConfig(missing_eos="replaced")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="do not go together"):
        make_agent(ptx_coef=0.1)
    with pytest.raises(ConfigError, match="do not go together"):
        make_agent(mix=PretrainingMix(TEXTS, byte_tokenizer, block_tokens=16))
    with pytest.raises(ConfigError, match="PPO takes a PPOConfig, got OnPolicyConfig"):
        PPO(make_policy(), make_venv(4), OnPolicyConfig())
    with pytest.raises(ConfigError, match="truncates them unscored"):
        PPO(make_policy(), make_venv(4, max_episode_steps=2))
