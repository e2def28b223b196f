"""Expert iteration: which answers are kept, what is learned from them, and from what nothing."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from agents.expert_iteration import ExpertIteration, ExpertIterationConfig, best_answers
from agents.rollout import collect
from textenvs.errors import ConfigError
from textenvs.wrappers.reference_kl import VectorReferenceKL

QUICK = ExpertIterationConfig(learning_rate=1e-2, n_epochs=2, batch_size=8)
Make = Callable[..., Any]
GROUPS = torch.tensor([0, 0, 0, 1, 1, 1])
ALL = torch.ones(6, dtype=torch.bool)


@pytest.fixture
def make_agent(make_policy: Make, make_venv: Make) -> Make:
    """Return a maker of agents that draw four answers to each prompt."""

    def make(num_envs: int = 8, seed: int = 0, kl: Any = None, **changes: Any) -> ExpertIteration:
        fields = {field.name for field in dataclasses.fields(ExpertIterationConfig)}
        config = dataclasses.replace(QUICK, **{k: changes.pop(k) for k in fields & set(changes)})
        policy, venv = make_policy(), make_venv(num_envs, **{"samples_per_prompt": 4, **changes})
        if kl is not None:
            venv = VectorReferenceKL(venv, policy.reference(), kl)
        return ExpertIteration(policy, venv, config, seed=seed)

    return make


def weights(agent: ExpertIteration) -> list[torch.Tensor]:
    return [p.detach().clone() for p in agent.policy.parameters()]


def same(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def kept(scores: list[float], returns: Any = None, scored: Any = ALL, **rule: Any) -> list[int]:
    values = torch.tensor(scores)
    ranked = values if returns is None else torch.tensor(returns)
    found = best_answers(values, ranked, scored, GROUPS, **{"keep": 1, "threshold": None, **rule})
    return found.nonzero()[:, 0].tolist()


def test_best_answers_by_hand() -> None:
    scores = [0.2, 0.9, 0.5, 1.0, 0.0, 1.0]
    assert kept(scores) == [1, 3], "of equals, the earlier"
    assert kept(scores, keep=2) == [1, 2, 3, 5]
    assert kept(scores, keep=3) == [1, 2, 3, 5], "the worst of a prompt is never kept"
    assert kept(scores, keep=None, threshold=0.6) == [1, 3, 5]
    assert kept(scores, keep=1, threshold=0.95) == [3]
    assert kept(scores, keep=None, threshold=1.5) == []
    assert kept([1.0, 1.0, 1.0, 0.0, 0.0, 0.1]) == [5], "all alike: nothing to choose"


def test_unscored_answers_are_neither_kept_nor_the_worst() -> None:
    scored = torch.tensor([True, True, False, True, False, False])
    assert kept([0.2, 0.9, 5.0, 1.0, 0.0, 0.0], scored=scored, keep=2) == [1]
    assert kept([0.5, 0.5, -9.0, 1.0, 0.0, 0.0], scored=scored) == []


def test_ranked_by_all_that_was_earned() -> None:
    """A KL in the reward decides between answers that beat the worst, and lifts none of those."""
    scores, returns = [1.0, 1.0, 0.0, 0.5, 0.6, 0.4], [0.1, 0.8, 9.0, 0.2, 0.1, 0.4]
    assert kept(scores, returns) == [1, 3]


def test_solves_a_toy_environment(make_agent: Make) -> None:
    agent, scores = make_agent(32), []
    agent.learn(32 * 4 * 30, lambda metrics: scores.append(metrics["score"]))
    assert scores[0] < 0.5
    assert np.mean(scores[-3:]) > 0.8


def test_learns_nothing_from_a_constant_reward(make_agent: Make) -> None:
    """Negative control: every group is tied, so no step is taken, whatever the KL says."""
    for kl in (None, 0.5):
        agent = make_agent(8, reward=lambda prompt, completion: 1.0, kl=kl, keep=2)
        before = weights(agent)
        metrics = agent.step()
        assert metrics["tied_groups"] == 1.0 and metrics["kept"] == 0.0
        assert metrics["optimizer_steps"] == 0 and "kept_score" not in metrics
        assert same(before, weights(agent))


def test_loss_is_the_likelihood_of_the_kept_answers(make_agent: Make) -> None:
    agent = make_agent(8, n_epochs=1, batch_size=8, keep=1)
    rollout = collect(agent.policy, agent.env, generator=agent.generator)
    batch, metrics = agent.prepare(rollout)
    scores = np.array([info["task_reward"] for info in rollout.infos]).reshape(-1, 4)
    best = scores.argmax(1) + np.array([0, 4])
    assert batch.mask.any(1).nonzero()[:, 0].tolist() == best.tolist()
    assert metrics["kept"] == 2 / 8 and metrics["tied_groups"] == 0.0
    assert metrics["kept_score"] == pytest.approx(scores.max(1).mean())
    expected = -rollout.logprobs[best].sum() / rollout.lengths[best].sum()
    assert agent.update(batch)["policy_loss"] == pytest.approx(expected, abs=1e-4)


def test_accumulated_gradients_equal_one_pass(make_agent: Make) -> None:
    gradients = []
    for budget in (4096, 1):
        agent = make_agent(16, micro_batch_tokens=budget, max_grad_norm=None, keep=2)
        rollout = collect(agent.policy, agent.env, generator=agent.generator)
        batch, _ = agent.prepare(rollout)
        agent._optimizer_step(batch, batch.mask.any(1).nonzero()[:, 0])
        gradients.append([p.grad.clone() for p in agent.parameters if p.grad is not None])
    assert len(gradients[0]) > 10 and any(g.abs().max() > 1e-3 for g in gradients[0])
    torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-4)


def test_threshold_imitates_only_what_reaches_it(make_agent: Make) -> None:
    agent = make_agent(32, keep=None, threshold=0.5)
    batch, _ = agent.prepare(collect(agent.policy, agent.env, generator=agent.generator))
    chosen = batch.mask.any(1)
    assert chosen.any() and (batch.scores[chosen] >= 0.5).all()
    assert (batch.scores[~chosen] < 0.5).all()


def test_same_seed_same_weights_and_another_seed_others(make_agent: Make) -> None:
    one, two, other = (weights(make_agent(seed=s).learn(8 * 4 * 3)) for s in (0, 0, 1))
    assert same(one, two) and not same(one, other)


def test_needs_groups_and_a_rule(make_agent: Make) -> None:
    with pytest.raises(ConfigError, match="samples_per_prompt=4"):
        make_agent(8, samples_per_prompt=1)
    with pytest.raises(ConfigError, match="keep=None and threshold=None"):
        ExpertIterationConfig(keep=None)
    for name, value in (("keep", 0), ("threshold", float("nan"))):
        with pytest.raises(ConfigError, match=f"{name} must be"):
            ExpertIterationConfig(**{name: value})
