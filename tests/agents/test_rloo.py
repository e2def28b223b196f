"""RLOO: the leave-one-out baseline, the answer as one action, and learning itself."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from agents.advantages import leave_one_out
from agents.batch import Batch, BatchSize
from agents.policy import Evaluation
from agents.rloo import RLOO, RLOOConfig
from agents.rollout import collect
from textenvs.errors import ConfigError
from textenvs.types import Prompt

Make = Callable[..., Any]
RETURNS = torch.tensor([1.0, 3.0, 2.0, 4.0, 900.0, 6.0, 5.0])
GROUPS = torch.tensor([7, 7, 3, 3, 3, 3, 4])
COUNTED = torch.tensor([True, True, True, True, False, True, True])


@pytest.fixture
def make_agent(make_learner: Make) -> Make:
    """Return a maker of agents that see each prompt of a toy environment four times."""
    return partial(make_learner, RLOO, 16, samples_per_prompt=4)


def prepared(agent: RLOO) -> tuple[Any, Batch, dict[str, float]]:
    rollout = collect(agent.policy, agent.env, generator=agent.generator)
    return rollout, *agent.prepare(rollout)


def test_leave_one_out_by_hand() -> None:
    """2 against (4 + 6) / 2, 4 against (2 + 6) / 2, ...; the last has none to compare with."""
    found = leave_one_out(RETURNS, GROUPS, COUNTED)
    assert found.tolist() == [-2.0, 2.0, -3.0, 0.0, 0.0, 3.0, 0.0]


def test_leave_one_out_is_the_stretched_difference_from_the_mean() -> None:
    returns = torch.randn(12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    groups, every = torch.arange(12) // 4, torch.ones(12, dtype=torch.bool)
    means = returns.view(3, 4).mean(1).repeat_interleave(4)
    found = leave_one_out(returns, groups, every)
    torch.testing.assert_close(found, (returns - means) * 4 / 3)
    raised = leave_one_out(returns + 5.0 * groups, groups, every)
    torch.testing.assert_close(found, raised, msg="a constant added to a group changes nothing")


def test_the_baseline_of_an_episode_does_not_know_it() -> None:
    returns, groups = torch.tensor([1.0, 2.0, 6.0]), torch.zeros(3, dtype=torch.int64)
    every = torch.ones(3, dtype=torch.bool)
    other = torch.tensor([100.0, 2.0, 6.0])
    assert (returns - leave_one_out(returns, groups, every))[0] == 4.0
    assert (other - leave_one_out(other, groups, every))[0] == 4.0


def test_nan_of_uncounted_episodes_stays_out() -> None:
    found = leave_one_out(torch.where(COUNTED, RETURNS, torch.nan), GROUPS, COUNTED)
    torch.testing.assert_close(found, leave_one_out(RETURNS, GROUPS, COUNTED))


def by_hand(logprobs: torch.Tensor, agent: RLOO) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """Return the loss of answers of 1 and 3 tokens, advantages 4 and -1, sampled at -1.5."""
    mask = torch.tensor([[True, False, False, False], [True, True, True, False]])
    empty = torch.zeros(2, 4)
    part = Batch(
        input_ids=torch.zeros(2, 11, dtype=torch.int64),
        attention_mask=torch.ones(2, 11, dtype=torch.int8),
        mask=mask,
        groups=torch.zeros(2, dtype=torch.int64),
        scores=empty[:, 0],
        rewards=empty,
        logprobs=torch.full((2, 4), -1.5),
        values=empty,
        advantages=torch.tensor([[4.0], [-1.0]]) * mask,
        returns=empty,
    )
    now = Evaluation(logprobs, empty, torch.zeros(2, 5))
    return agent.loss(part, now, BatchSize(mask.sum(), 2))


def test_on_policy_gradient_by_hand(make_agent: Make) -> None:
    """Each token of an answer has the gradient -A / episodes, however long the answer is."""
    logprobs = torch.full((2, 4), -1.5, requires_grad=True)
    loss, diagnostics = by_hand(logprobs, make_agent())
    loss.backward()
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-2.0, 0, 0, 0], [0.5, 0.5, 0.5, 0]]
    assert diagnostics["ratio"] == 1.0
    assert diagnostics["approx_kl"] == diagnostics["clip_fraction"] == 0.0


def test_the_ratio_is_of_whole_answers(make_agent: Make) -> None:
    """Tokens at 1.1 times their old probability: 1.1 is within the clip, 1.1^3 is not.

    The second answer has a negative advantage, so its ratio above 1.2 is not clipped.
    """
    logprobs = torch.full((2, 4), -1.5 + math.log(1.1))
    loss, diagnostics = by_hand(logprobs, make_agent())
    assert loss.item() == pytest.approx((-4 * 1.1 + 1.1**3) / 2, rel=1e-5)
    assert diagnostics["clip_fraction"].item() == 0.5
    assert diagnostics["ratio"].item() == pytest.approx(1.1), "a token's, as for all learners"
    wide, _ = by_hand(logprobs + math.log(1.1), make_agent())
    assert wide.item() == pytest.approx((-4 * 1.2 + 1.1**6) / 2, rel=1e-5)


def test_accumulated_gradients_equal_one_pass(make_agent: Make) -> None:
    gradients = []
    for tokens in (4096, 30):
        agent = make_agent(micro_batch_tokens=tokens, max_grad_norm=None)
        _, batch, _ = prepared(agent)
        agent._optimizer_step(batch, torch.arange(16))
        gradients.append([p.grad.clone() for p in agent.parameters if p.grad is not None])
    assert len(gradients[0]) > 10 and any(g.abs().max() > 1e-3 for g in gradients[0])
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_unscored_episodes_are_left_out(make_agent: Make) -> None:
    calls = iter(range(10_000))

    def mostly(prompt: Prompt, completion: str) -> float | None:
        call = next(calls)
        return None if call % 3 == 0 else float(call)

    agent = make_agent(venv={"reward": mostly, "on_unscored": -1000.0})
    rollout, batch, _ = prepared(agent)
    scored = np.array([info["scored"] for info in rollout.infos])
    scores = np.array([sum(info["reward_terms"].values()) for info in rollout.infos])
    for row in range(16):
        others = scored & (rollout.groups == rollout.groups[row])
        others[row] = False
        compared = scored[row] and others.any()
        expected = scores[row] - scores[others].mean() if compared else 0.0
        np.testing.assert_allclose(
            batch.advantages[row].numpy(), expected * rollout.mask[row], atol=1e-4
        )
    assert not batch.mask[~scored].any()


def test_kl_is_part_of_the_return(make_agent: Make) -> None:
    agent = make_agent(kl_coef=0.5)
    agent.step()  # moves away from the reference, on which the KL is 0
    _, batch, _ = prepared(agent)
    assert batch.reference_logprobs is not None
    kl = ((batch.logprobs - batch.reference_logprobs) * batch.mask).sum(1)
    assert kl.abs().max() > 1e-3
    torch.testing.assert_close(batch.returns[:, 0], batch.scores - 0.5 * kl)


def test_normalised_advantages_have_variance_one(make_agent: Make) -> None:
    _, plain, _ = prepared(make_agent())
    _, whitened, _ = prepared(make_agent(normalize_advantage=True))
    assert whitened.advantages[:, 0].var().item() == pytest.approx(1.0, rel=1e-4)
    assert plain.advantages[:, 0].var().item() < 0.9
    order = plain.advantages[:, 0].argsort(stable=True)
    assert whitened.advantages[order, 0].diff().min() > -1e-5


def test_solves_a_toy_environment(make_agent: Make) -> None:
    agent = make_agent(learning_rate=2e-2, batch_size=16, rollout_episodes=32)
    scores: list[float] = []
    agent.learn(32 * 4 * 20, lambda metrics: scores.append(metrics["score"]))
    assert scores[0] < 0.5
    assert np.mean(scores[-2:]) > 0.7


def test_learns_nothing_from_a_constant_reward(make_agent: Make) -> None:
    """Negative control: nothing to compare, and the weights stay as they are."""
    agent = make_agent(venv={"reward": lambda prompt, text: 0.3})
    before = [p.detach().clone() for p in agent.policy.parameters()]
    agent.learn(16 * 4 * 4)
    for old, new in zip(before, agent.policy.parameters(), strict=True):
        torch.testing.assert_close(old, new, atol=1e-7, rtol=0)


def test_same_seed_same_weights(make_agent: Make) -> None:
    one, two, other = (
        torch.cat([p.detach().flatten() for p in make_agent(seed=s).learn(130).parameters])
        for s in (0, 0, 1)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_bad_settings(make_policy: Make, make_venv: Make) -> None:
    with pytest.raises(ConfigError, match="clip_range must be above 0, got -1"):
        RLOOConfig(clip_range=-1)
    with pytest.raises(ConfigError, match="gamma must be 1, since an answer is one action"):
        RLOOConfig(gamma=0.99)
    with pytest.raises(ConfigError, match="samples_per_prompt=4"):
        RLOO(make_policy(), make_venv(4))
