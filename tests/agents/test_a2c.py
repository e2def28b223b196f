"""A2C: the critic's targets, the loss, and learning itself."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.a2c import A2C, A2CConfig
from agents.batch import Batch, BatchSize
from agents.policy import CausalLMPolicy, Evaluation
from agents.rollout import collect
from textenvs.errors import ConfigError
from textenvs.types import Prompt

Make = Callable[..., Any]


@pytest.fixture
def make_agent(make_learner: Make) -> Make:
    """Return a maker of agents on a toy environment of four tokens an answer."""
    return partial(make_learner, A2C, 8)


def prepared(agent: A2C) -> tuple[Any, Batch, dict[str, float]]:
    rollout = collect(agent.policy, agent.env, generator=agent.generator)
    return rollout, *agent.prepare(rollout)


def by_hand() -> Batch:
    """Return answers of two tokens and of one, with scores of 3 and 5 and values of 1 and 2."""
    mask = torch.tensor([[True, True], [True, False]])
    empty = torch.zeros(2, 2)
    return Batch(
        input_ids=torch.zeros(2, 5, dtype=torch.int64),
        attention_mask=torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 1, 0]], dtype=torch.int8),
        mask=mask,
        groups=torch.arange(2),
        scores=torch.tensor([3.0, 5.0]),
        rewards=torch.tensor([[0.0, 3.0], [5.0, 0.0]]),
        logprobs=torch.tensor([[-1.0, -2.0], [-3.0, 0.0]]),
        values=torch.tensor([[1.0, 1.0], [2.0, 0.0]]),
        advantages=empty,
        returns=empty,
    )


@pytest.mark.parametrize(
    ("gae_lambda", "gamma", "expected"),
    [
        (1.0, 1.0, [3 - 1, 3 - 1, 5 - 2]),
        (1.0, 0.5, [1.5 - 1, 3 - 1, 5 - 2]),
        (0.0, 1.0, [1 - 1, 3 - 1, 5 - 2]),
    ],
)
def test_advantages_by_hand(
    gae_lambda: float, gamma: float, expected: list[float], make_agent: Make
) -> None:
    agent, batch = make_agent(gae_lambda=gae_lambda, gamma=gamma), by_hand()
    advantages, returns = agent.targets(batch)
    assert advantages[batch.mask].tolist() == expected
    torch.testing.assert_close(returns[batch.mask], (advantages + batch.values)[batch.mask])


def test_loss_by_hand(make_agent: Make) -> None:
    """Advantages 2, 2, 3 and returns 3, 3, 5, against values that are 2 now; three tokens."""
    agent, batch = make_agent(vf_coef=0.5), by_hand()
    advantages, returns = agent.targets(batch)
    part = batch._replace(advantages=advantages * batch.mask, returns=returns)
    logprobs = batch.logprobs.clone().requires_grad_()
    values = torch.full((2, 3), 2.0, requires_grad=True)
    now = Evaluation(logprobs, torch.zeros(2, 2), values)
    loss, diagnostics = agent.loss(part, now, BatchSize(batch.mask.sum(), 2))
    policy, value = (2 * 1 + 2 * 2 + 3 * 3) / 3, 0.5 * (1 + 1 + 9) / 3
    assert diagnostics["policy_loss"].item() == pytest.approx(policy)
    assert diagnostics["value_loss"].item() == pytest.approx(value)
    assert loss.item() == pytest.approx(policy + 0.5 * value)
    assert diagnostics["ratio"] == 1.0 and diagnostics["approx_kl"] == 0.0
    loss.backward()
    assert logprobs.grad is not None and values.grad is not None
    torch.testing.assert_close(logprobs.grad, -torch.tensor([[2.0, 2.0], [3.0, 0.0]]) / 3)
    expected = 0.5 * torch.tensor([[-1.0, -1.0, 0.0], [-3.0, 0.0, 0.0]]) / 3
    torch.testing.assert_close(values.grad, expected)


def test_a_moved_policy_is_not_clipped(make_agent: Make) -> None:
    """Unlike PPO: the gradient does not know how far the policy has moved."""
    agent, batch = make_agent(vf_coef=0.0), by_hand()
    part = batch._replace(advantages=batch.mask.float())
    gradients = []
    for shift in (0.0, 3.0):
        logprobs = (batch.logprobs + shift).requires_grad_()
        now = Evaluation(logprobs, torch.zeros(2, 2), torch.zeros(2, 3))
        loss, diagnostics = agent.loss(part, now, BatchSize(batch.mask.sum(), 2))
        loss.backward()
        gradients.append(logprobs.grad)
    assert torch.equal(*gradients) and diagnostics["ratio"].item() > 10  # type: ignore[arg-type]


def test_advantages_of_a_rollout(make_agent: Make) -> None:
    """By default the score minus the value; whitened they have mean 0 and variance 1."""
    agent = make_agent()
    agent.policy.value_head.weight.data.fill_(0.1)
    rollout, batch, _ = prepared(agent)
    assert batch.values.abs().max() > 0.01
    expected = (batch.scores[:, None] - batch.values) * batch.mask
    torch.testing.assert_close(batch.advantages * batch.mask, expected)
    _, batch, _ = prepared(make_agent(normalize_advantage=True))
    kept = batch.advantages[batch.mask]
    assert kept.mean().item() == pytest.approx(0.0, abs=1e-5)
    assert kept.var().item() == pytest.approx(1.0, rel=1e-4)


def test_unscored_episodes_are_left_out(make_agent: Make) -> None:
    calls = iter(range(10_000))

    def every_second(prompt: Prompt, completion: str) -> float | None:
        return None if next(calls) % 2 else 1.0

    agent = make_agent(
        venv={"reward": every_second, "on_unscored": -1000.0}, normalize_advantage=True
    )
    rollout, batch, _ = prepared(agent)
    scored = torch.tensor([info["scored"] for info in rollout.infos])
    assert not batch.mask[~scored].any()
    assert not batch.advantages.any(), "all that were scored had 1: whitened they are 0"


def test_accumulated_gradients_equal_one_pass(make_agent: Make) -> None:
    gradients = []
    for tokens in (4096, 20):
        agent = make_agent(micro_batch_tokens=tokens, max_grad_norm=None)
        agent.policy.value_head.weight.data.fill_(0.1)
        _, batch, _ = prepared(agent)
        agent._optimizer_step(batch, torch.arange(8))
        gradients.append([p.grad.clone() for p in agent.parameters if p.grad is not None])
    assert len(gradients[0]) > 10 and any(g.abs().max() > 1e-3 for g in gradients[0])
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_solves_a_toy_environment(critic: str, make_agent: Make) -> None:
    agent = make_agent(critic=critic, learning_rate=2e-2, batch_size=16, rollout_episodes=32)
    updates: list[dict[str, float]] = []
    agent.learn(32 * 4 * 20, lambda metrics: updates.append(dict(metrics)))
    assert updates[0]["score"] < 0.5
    assert np.mean([update["score"] for update in updates[-2:]]) > 0.7
    assert updates[-1]["value_loss"] < updates[0]["value_loss"]


def low_letters(episodes: Any) -> dict[str, np.ndarray]:
    shares = [sum(c < "P" for c in e.completion) / max(1, len(e.completion)) for e in episodes]
    return {"low": np.array(shares)}


def test_learns_nothing_from_a_constant_reward(make_agent: Make) -> None:
    """Negative control: the same run under a flat reward does not find the letters."""
    venv = {"reward": lambda prompt, text: 1.0, "metrics": low_letters}
    agent = make_agent(venv=venv, learning_rate=2e-2, batch_size=16, rollout_episodes=32)
    shares: list[float] = []
    agent.learn(32 * 4 * 20, lambda metrics: shares.append(metrics["gold/low"]))
    assert np.mean(shares[-2:]) < 0.6


def test_same_seed_same_weights(make_agent: Make) -> None:
    one, two, other = (
        torch.cat([p.detach().flatten() for p in make_agent(seed=s).learn(70).parameters])
        for s in (0, 0, 1)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_resumed_equals_unbroken(model_folder: Make, make_venv: Make, tmp_path: Path) -> None:
    folder, goal = model_folder(), 8 * 4 * 5
    config = A2CConfig(learning_rate=1e-2, batch_size=4)
    policy, again = (CausalLMPolicy.from_pretrained(folder, bfloat16=False) for _ in range(2))
    unbroken = A2C(policy, make_venv(8), config, seed=3).learn(goal)
    broken = A2C(again, make_venv(8), config, seed=3)
    broken.learn(goal, lambda metrics: metrics["update"] < 2)
    resumed = A2C.load(broken.save(tmp_path / "checkpoint"), make_venv(8))
    resumed.learn(goal, reset_num_timesteps=False)
    goals, ends = unbroken.policy.state_dict(), resumed.policy.state_dict()
    assert all(torch.equal(goals[name], ends[name]) for name in goals)
    begun = broken.policy.state_dict()
    assert not all(torch.equal(goals[name], begun[name]) for name in goals)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("n_epochs", 4, "1, since nothing corrects for a policy that has moved"),
        ("gae_lambda", 1.5, "between 0 and 1"),
        ("vf_coef", -0.5, "at least 0"),
    ],
)
def test_bad_settings(name: str, value: Any, rule: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be {rule}.*the default is"):
        A2CConfig(**{name: value})
