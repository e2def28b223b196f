"""Online DPO: the loss by hand, the pairs, learning, and a KL that is charged once."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from agents.losses import dpo_loss
from agents.online_dpo import OnlineDPO, OnlineDPOConfig, best_and_worst
from agents.rollout import collect
from textenvs.errors import ConfigError, DoubleCountingError, UnknownNameError
from textenvs.wrappers.reference_kl import VectorReferenceKL

QUICK = OnlineDPOConfig(learning_rate=1e-2, n_epochs=2, batch_size=8)
Make = Callable[..., Any]
GROUPS = torch.tensor([0, 0, 0, 1, 1, 1])


@pytest.fixture
def make_agent(make_policy: Make, make_venv: Make) -> Make:
    """Return a maker of agents that draw four answers to each prompt."""

    def make(
        num_envs: int = 8, seed: int = 0, coef: float = 0.1, kl: Any = (), **changes: Any
    ) -> OnlineDPO:
        fields = {field.name for field in dataclasses.fields(OnlineDPOConfig)}
        config = dataclasses.replace(QUICK, **{k: changes.pop(k) for k in fields & set(changes)})
        policy, venv = make_policy(), make_venv(num_envs, **{"samples_per_prompt": 4, **changes})
        venv = VectorReferenceKL(venv, policy.reference(), coef, **dict(kl))
        return OnlineDPO(policy, venv, config, seed=seed)

    return make


def weights(agent: OnlineDPO) -> list[torch.Tensor]:
    return [p.detach().clone() for p in agent.policy.parameters()]


def same(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def pair_loss(**options: Any) -> tuple[float, float]:
    """Of a pair with log-ratios 1.5 and -0.5, so a difference of 2 nats."""
    numbers = (torch.tensor([x]) for x in (-1.0, -3.0, -2.5, -2.5))
    losses, margins = dpo_loss(*numbers, **{"beta": 0.5, **options})
    return losses.item(), margins.item()


def test_loss_by_hand() -> None:
    sigmoid = 1 / (1 + math.exp(-1.0))
    assert pair_loss() == pytest.approx((-math.log(sigmoid), 1.0))
    smoothed = -0.9 * math.log(sigmoid) - 0.1 * math.log(1 - sigmoid)
    assert pair_loss(label_smoothing=0.1) == pytest.approx((smoothed, 1.0))
    assert pair_loss(loss_type="ipo") == pytest.approx((1.0, 1.0)), "(2 - 1 / (2 * 0.5))^2"
    assert pair_loss(loss_type="ipo", beta=0.25) == pytest.approx((0.0, 0.5))
    with pytest.raises(UnknownNameError, match="sigmoid"):
        pair_loss(loss_type="sigmoyd")


def test_gradient_is_the_papers() -> None:
    """-beta * sigmoid(-beta * h) for the chosen answer, the opposite for the rejected (eq. 7)."""
    chosen, rejected = (torch.tensor([x], requires_grad=True) for x in (-1.0, -3.0))
    losses, _ = dpo_loss(chosen, rejected, torch.zeros(1), torch.zeros(1), beta=0.3)
    losses.sum().backward()
    expected = -0.3 / (1 + math.exp(0.6))
    assert chosen.grad is not None and chosen.grad.item() == pytest.approx(expected)
    assert rejected.grad is not None and rejected.grad.item() == pytest.approx(-expected)


def test_best_and_worst_by_hand() -> None:
    scored = torch.ones(6, dtype=torch.bool)
    scores = torch.tensor([0.5, 0.1, 0.5, 2.0, 2.0, 2.0])
    assert best_and_worst(scores, scored, GROUPS).tolist() == [1, -1, 0, 0, 0, 0]
    scored[1] = scored[3] = False
    scores = torch.tensor([0.5, -9.0, 0.4, 9.0, 2.0, 3.0])
    assert best_and_worst(scores, scored, GROUPS).tolist() == [1, 0, -1, 0, -1, 1]
    scored[4] = False
    assert best_and_worst(scores, scored, GROUPS).tolist() == [1, 0, -1, 0, 0, 0]


@pytest.mark.parametrize(("loss_type", "beta"), [("sigmoid", 0.1), ("ipo", 0.02)])
def test_solves_a_toy_environment(loss_type: str, beta: float, make_agent: Make) -> None:
    agent, scores = make_agent(32, loss_type=loss_type, beta=beta), []
    agent.learn(32 * 4 * 30, lambda metrics: scores.append(metrics["score"]))
    assert scores[0] < 0.5
    assert np.mean(scores[-3:]) > 0.75


def test_learns_nothing_from_a_constant_reward(make_agent: Make) -> None:
    """Negative control: every group is tied, so no step is taken."""
    agent = make_agent(8, reward=lambda prompt, completion: 1.0)
    before = weights(agent)
    metrics = agent.step()
    assert metrics["tied_groups"] == 1.0 and metrics["optimizer_steps"] == 0
    assert same(before, weights(agent))


def test_pairs_are_the_best_and_the_worst_answers(make_agent: Make) -> None:
    agent = make_agent(16, n_epochs=1, batch_size=16)
    rollout = collect(agent.policy, agent.env, generator=agent.generator)
    batch, metrics = agent.prepare(rollout)
    scores = np.array([sum(i["reward_terms"].values()) for i in rollout.infos]).reshape(-1, 4)
    first = 4 * np.arange(4)
    pairs = np.sort(np.concatenate([scores.argmax(1) + first, scores.argmin(1) + first]))
    assert batch.mask.any(1).nonzero()[:, 0].tolist() == pairs.tolist()
    assert metrics["tied_groups"] == 0.0
    said = agent.update(batch)
    assert said["policy_loss"] == pytest.approx(math.log(2), abs=1e-3), "no margin at the start"
    assert said["preference_margin"] == pytest.approx(0.0, abs=1e-3)
    after = agent._optimizer_step(batch, batch.mask.any(1).nonzero()[:, 0])
    assert after["policy_loss"] < said["policy_loss"] and after["preference_accuracy"] > 0.5


def test_accumulated_gradients_equal_one_pass(make_agent: Make) -> None:
    gradients = []
    for budget in (4096, 1):
        agent = make_agent(16, micro_batch_tokens=budget, max_grad_norm=None)
        rollout = collect(agent.policy, agent.env, generator=agent.generator)
        batch, _ = agent.prepare(rollout)
        agent._optimizer_step(batch, batch.mask.any(1).nonzero()[:, 0].flip(0))
        gradients.append([p.grad.clone() for p in agent.parameters if p.grad is not None])
    assert len(gradients[0]) > 10 and any(g.abs().max() > 1e-3 for g in gradients[0])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("kl", [{}, {"timing": "step"}, {"policy_logprob": True}])
def test_the_environments_coefficient_changes_nothing(kl: Any, make_agent: Make) -> None:
    """Beta holds the policy to the reference; the KL that the environment pays is left out."""
    weak, strong = (make_agent(8, coef=c, kl=kl).learn(8 * 4 * 3) for c in (0.0, 5.0))
    stiff = make_agent(8, coef=0.0, kl=kl, beta=5.0).learn(8 * 4 * 3)
    assert same(weights(weak), weights(strong))
    assert not same(weights(weak), weights(stiff))


def test_a_strong_beta_holds_the_policy_back(make_agent: Make) -> None:
    ends = []
    for beta in (0.05, 20.0):
        kls: list[float] = []
        agent = make_agent(32, beta=beta, loss_type="ipo")
        agent.learn(32 * 4 * 12, lambda metrics, kls=kls: kls.append(metrics["kl"]))
        ends.append(kls[-1])
    assert ends[1] < 0.5 * ends[0]


def test_unscored_answers_are_in_no_pair(make_agent: Make) -> None:
    calls = iter(range(10_000))

    def some(prompt: Any, completion: str) -> float | None:
        return None if next(calls) % 4 == 0 else float(len(set(completion)))

    agent = make_agent(16, reward=some, on_unscored=-1000.0)
    rollout = collect(agent.policy, agent.env, generator=agent.generator)
    batch, _ = agent.prepare(rollout)
    unscored = torch.tensor([not info["scored"] for info in rollout.infos])
    assert unscored.any() and not batch.mask[unscored].any()


def test_same_seed_same_weights_and_another_seed_others(make_agent: Make) -> None:
    one, two, other = (weights(make_agent(seed=s).learn(8 * 4 * 3)) for s in (0, 0, 1))
    assert same(one, two) and not same(one, other)


def test_refuses_what_cannot_work(make_agent: Make, make_policy: Make, make_venv: Make) -> None:
    with pytest.raises(ConfigError, match="samples_per_prompt=4"):
        make_agent(8, samples_per_prompt=1)
    with pytest.raises(ConfigError, match="OnlineDPO needs the reference"):
        OnlineDPO(make_policy(), make_venv(8, samples_per_prompt=4))
    with pytest.raises(DoubleCountingError, match="a second time"):
        OnlineDPOConfig(kl_in="loss", kl_estimator="k3")
    with pytest.raises(ConfigError, match="label_smoothing"):
        OnlineDPOConfig(loss_type="ipo", label_smoothing=0.1)
    with pytest.raises(ConfigError, match="label_smoothing must be at least 0 and below 0.5"):
        OnlineDPOConfig(label_smoothing=0.5)
    with pytest.raises(ConfigError, match="beta must be above 0"):
        OnlineDPOConfig(beta=0.0)
