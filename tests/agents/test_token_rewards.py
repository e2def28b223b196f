"""Rewards that spread over the tokens, terms behind gates, rewards with state: in PPO."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from agents.config import PPOConfig
from agents.policy import CausalLMPolicy
from agents.ppo import PPO
from agents.rollout import Rollout, collect
from agents.rollout_metrics import term_metrics
from agents.token_rewards import TokenRewards, token_rewards
from textenvs.kl import kl_estimate
from textenvs.reference import CausalLMReference
from textenvs.rewards import BaseReward, Gate, PotentialShaping, RunningNormalised, reward
from textenvs.types import Episode, Prompt
from textenvs.wrappers.reference_kl import VectorReferenceKL

CONFIG = PPOConfig(learning_rate=1e-2, n_epochs=2, batch_size=8, gae_lambda=1.0)
Make = Callable[..., Any]


def low(token: int) -> float:
    """What one token earns, whatever the others are."""
    return float(2 <= token < 100)


@reward(per_token=True, name="low")
def along(episodes: Sequence[Episode]) -> list[list[float]]:
    return [[low(token) for token in e.completion_ids] for e in episodes]


@reward(name="low")
def at_the_end(episodes: Sequence[Episode]) -> list[float]:
    return [sum(map(low, e.completion_ids)) for e in episodes]


@pytest.fixture
def make_agent(make_policy: Make, make_venv: Make) -> Make:
    """Return a maker of agents of one policy with a given reward."""

    def make(task: BaseReward, config: PPOConfig = CONFIG, kl: Any = None, **options: Any) -> PPO:
        venv = make_venv(8, reward=task, **options)
        if kl is not None:
            venv = VectorReferenceKL(venv, **kl)
        return PPO(make_policy(), venv, config, seed=1)

    return make


def gathered(agent: PPO) -> Rollout:
    return collect(agent.policy, agent.env, generator=agent.generator)


def earned(agent: PPO, rollout: Rollout) -> TokenRewards:
    return token_rewards(rollout, rollout.logprobs, agent.shaping, agent.config)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_each_token_is_paid_its_share_once(mode: AutoresetMode, make_agent: Make) -> None:
    agent = make_agent(along, autoreset_mode=mode)
    rollout = gathered(agent)
    rewards = earned(agent, rollout).rewards
    tokens = rollout.input_ids[:, rollout.start :]
    expected = np.vectorize(low)(tokens) * rollout.mask
    np.testing.assert_allclose(rewards, expected, atol=1e-12)
    last = rollout.lengths - 1
    paid = np.zeros_like(expected)
    paid[np.arange(8), last] = expected.sum(1)
    assert np.array_equal(rollout.rewards, paid), "the environment itself pays at the end"
    assert (expected.sum(1) > 1).any() and not np.array_equal(rewards, paid)


def test_totals_and_returns_agree_with_the_reward_paid_at_the_end(make_agent: Make) -> None:
    spread, end = make_agent(along), make_agent(at_the_end)
    one, two = gathered(spread), gathered(end)
    assert np.array_equal(one.input_ids, two.input_ids)
    (first, told), (second, said) = spread.prepare(one), end.prepare(two)
    for name in ("score", "episode_return", "reward/low", "reward_raw/low"):
        assert told[name] == pytest.approx(said[name])
    # Undiscounted, what is still to come after the prompt is the total either way ...
    torch.testing.assert_close(first.returns[:, 0], second.returns[:, 0])
    # ... and after the first token it is not: what is earned is behind.
    assert not torch.allclose(first.returns[:, 1:], second.returns[:, 1:])


@pytest.mark.parametrize("timing", ["step", "episode"])
def test_shares_and_kl_terms_are_both_paid(timing: str, make_agent: Make, make_model: Make) -> None:
    reference = CausalLMReference(make_model(seed=5), bfloat16=False)
    agent = make_agent(along, kl={"reference": reference, "coef": 0.5, "timing": timing})
    rollout = gathered(agent)
    rewards = earned(agent, rollout).rewards
    theirs = reference.completion_logprobs(rollout.input_ids, rollout.attention_mask)
    shares = np.vectorize(low)(rollout.input_ids[:, rollout.start :]) * rollout.mask
    expected = shares - 0.5 * (rollout.logprobs - theirs) * rollout.mask
    np.testing.assert_allclose(rewards, expected, atol=1e-4)


def test_penalty_and_clip_are_laid_on_the_last_token(make_agent: Make) -> None:
    config = PPOConfig(reward_clip=0.5, missing_eos_penalty=2.0)
    agent = make_agent(along, config)
    rollout = gathered(agent)
    rewards = earned(agent, rollout).rewards
    score = np.array([info["task_reward"] for info in rollout.infos])
    cut = np.array([info["finish_reason"] == "length" for info in rollout.infos])
    assert cut.any() and (score > 0.5).any()
    np.testing.assert_allclose(rewards.sum(1), np.clip(score, -0.5, 0.5) - 2.0 * cut)


@pytest.mark.parametrize(("way", "charged"), [("subtract", -1.5), ("replace", -2.0)])
def test_a_missing_eos_is_charged_on_top_or_instead(
    way: str, charged: float, make_agent: Make
) -> None:
    agent = make_agent(
        reward(lambda prompt, completion: 0.5),
        PPOConfig(missing_eos_penalty=2.0, missing_eos=way),
    )
    rollout = gathered(agent)
    for row, info in enumerate(rollout.infos):
        info["finish_reason"] = "length" if row % 2 else "eos"
    assert earned(agent, rollout).scores.tolist() == [0.5, charged] * 4


def test_whitened_rewards_keep_their_mean_and_lose_their_scale(make_agent: Make) -> None:
    changed = dataclasses.replace(CONFIG, whiten_rewards=True)
    raw, white = make_agent(along), make_agent(along, changed)
    rollout = gathered(raw)
    one, two = raw.prepare(rollout)[0], white.prepare(rollout)[0]
    spread, mean = one.rewards[one.mask].std(), one.rewards[one.mask].mean()
    assert spread < 0.9
    assert two.rewards[two.mask].std().item() == pytest.approx(1.0, abs=1e-4)
    expected = (one.rewards[one.mask] - mean) / spread + mean
    torch.testing.assert_close(two.rewards[two.mask], expected)


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "full"])
@pytest.mark.parametrize("timing", ["step", "episode"])
def test_every_estimator_of_the_kl_in_the_reward(
    estimator: Any, timing: str, make_agent: Make, make_model: Make
) -> None:
    reference = CausalLMReference(make_model(seed=5), bfloat16=False)
    config = dataclasses.replace(CONFIG, kl_estimator=estimator)
    agent = make_agent(along, config, {"reference": reference, "coef": 0.5, "timing": timing})
    rollout = gathered(agent)
    batch, _ = agent.prepare(rollout)
    ask = (rollout.input_ids, rollout.attention_mask)
    if estimator == "full":
        ours = CausalLMReference(agent.policy.model, bfloat16=False)
        ours.bind(rollout.start, agent.policy.vocab_size)
        pair = ours.completion_distributions(*ask), reference.completion_distributions(*ask)
    else:
        pair = batch.logprobs.numpy(), reference.completion_logprobs(*ask)
    kl = kl_estimate(*pair, estimator) * rollout.mask
    shares = np.vectorize(low)(rollout.input_ids[:, rollout.start :]) * rollout.mask
    np.testing.assert_allclose(batch.rewards.numpy(), shares - 0.5 * kl, atol=1e-4)
    assert np.abs(kl).max() > 0.01


def test_kl_clip_bounds_the_term_of_a_token(make_agent: Make, make_model: Make) -> None:
    reference = CausalLMReference(make_model(seed=5), bfloat16=False)
    kl = {"reference": reference, "coef": 1.0}
    free = make_agent(along, CONFIG, kl)
    rollout = gathered(free)
    loose = earned(free, rollout).rewards
    tight = make_agent(along, dataclasses.replace(CONFIG, kl_clip=0.05), kl)
    bounded = earned(tight, rollout).rewards
    shares = rollout.credited - loose
    base = np.vectorize(low)(rollout.input_ids[:, rollout.start :]) * rollout.mask
    assert np.abs(base - loose).max() > 0.06 and shares.any()
    assert np.abs(base - bounded).max() == pytest.approx(0.05)


def test_a_kl_in_the_loss_is_not_in_the_reward(make_agent: Make, make_model: Make) -> None:
    reference = CausalLMReference(make_model(seed=5), bfloat16=False)
    config = dataclasses.replace(CONFIG, kl_in="loss", kl_estimator="k3")
    agent = make_agent(along, config, {"reference": reference, "coef": 0.5})
    rollout = gathered(agent)
    batch, metrics = agent.prepare(rollout)
    shares = np.vectorize(low)(rollout.input_ids[:, rollout.start :]) * rollout.mask
    np.testing.assert_allclose(batch.rewards.numpy(), shares, atol=1e-5)
    theirs = reference.completion_logprobs(rollout.input_ids, rollout.attention_mask)
    np.testing.assert_allclose(batch.reference_logprobs, theirs, atol=1e-5)
    assert metrics["kl"] == pytest.approx((batch.logprobs.numpy() - theirs).sum(1).mean(), abs=1e-3)


def test_an_unscored_episode_spreads_nothing(make_agent: Make) -> None:
    @reward(per_token=True)
    def shy(episodes: Sequence[Episode]) -> list[list[float] | None]:
        return [None for _ in episodes]

    agent = make_agent(shy, on_unscored=-7.0)
    rollout = gathered(agent)
    assert not any("reward_per_token" in info for info in rollout.infos)
    assert np.array_equal(rollout.credited, rollout.rewards)
    assert rollout.rewards.sum() == -7.0 * 8


def test_shaped_returns_differ_by_the_potential_of_the_prompt(make_agent: Make) -> None:
    """The agent's own discounted returns, at gamma below 1, move by -phi(prompt) alone."""

    def phi(prompt: Prompt, ids: Sequence[int]) -> float:
        return len(prompt.text) + sum(ids) / 100

    config = PPOConfig(gamma=0.5, gae_lambda=1.0)
    shaped = make_agent(along + PotentialShaping(phi, 0.5), config)
    plain = make_agent(along, config)
    one, two = gathered(shaped), gathered(plain)
    difference = shaped.prepare(one)[0].returns[:, 0] - plain.prepare(two)[0].returns[:, 0]
    expected = [-phi(prompt, ()) for prompt in one.prompts]
    np.testing.assert_allclose(difference.numpy(), expected, rtol=1e-4)


def test_metrics_of_terms_behind_a_gate(make_agent: Make) -> None:
    gate = Gate(lambda prompt, completion: completion[:1] < "P", 0.5 * at_the_end, otherwise=-1.0)
    agent = make_agent(gate)
    rollout = gathered(agent)
    _, metrics = agent.prepare(rollout)
    opened = [info for info in rollout.infos if "low" in info["reward_raw"]]
    assert 0 < len(opened) < 8
    assert metrics["reward_scored/low"] == len(opened) / 8
    assert metrics["reward_raw/low"] == np.mean([info["reward_raw"]["low"] for info in opened])
    assert metrics["reward/low"] == pytest.approx(0.5 * metrics["reward_raw/low"] * len(opened) / 8)
    assert metrics["reward/gate(low)"] == pytest.approx(-1 + len(opened) / 8)
    assert metrics["score"] == pytest.approx(metrics["reward/low"] + metrics["reward/gate(low)"])
    shut = [info for info in rollout.infos if info not in opened]
    assert set(term_metrics(shut)) == {
        f"{what}/gate(low)" for what in ("reward", "reward_raw", "reward_scored")
    }, "a term nobody scored is absent, not 0"


def test_a_resumed_run_keeps_the_running_moments(
    model_folder: Make, make_venv: Make, tmp_path: Path
) -> None:
    goal, folder = 8 * 4 * 4, model_folder()

    def fresh() -> PPO:
        policy = CausalLMPolicy.from_pretrained(folder, bfloat16=False)
        return PPO(policy, make_venv(8, reward=RunningNormalised(at_the_end)), CONFIG)

    def weights(agent: PPO) -> list[torch.Tensor]:
        return [p.detach().clone() for p in agent.policy.parameters()]

    whole = fresh().learn(goal)
    broken = fresh().learn(goal, lambda metrics: metrics["update"] < 2)
    path = broken.save(tmp_path / "agent")
    resumed = PPO.load(path, make_venv(8, reward=RunningNormalised(at_the_end)))
    resumed.learn(goal, reset_num_timesteps=False)
    assert all(map(torch.equal, weights(whole), weights(resumed)))
    forgetful = RunningNormalised(at_the_end)
    other = PPO.load(path, make_venv(8, reward=forgetful))
    forgetful.load_state_dict({"moments": {"count": 0, "mean": 0.0, "squares": 0.0}})
    other.learn(goal, reset_num_timesteps=False)
    assert not all(map(torch.equal, weights(whole), weights(other)))
