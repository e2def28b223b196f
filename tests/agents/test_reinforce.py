"""REINFORCE: returns-to-go, the baselines, and learning itself."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.advantages import returns_to_go
from agents.batch import Batch, BatchSize
from agents.losses import policy_change, policy_gradient_loss
from agents.policy import CausalLMPolicy, Evaluation
from agents.reinforce import REINFORCE, REINFORCEConfig
from agents.rollout import collect
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.types import Prompt

Make = Callable[..., Any]


@pytest.fixture
def make_agent(make_learner: Make) -> Make:
    """Return a maker of agents on a toy environment of four tokens an answer."""
    return partial(make_learner, REINFORCE, 8)


def prepared(agent: REINFORCE) -> tuple[Any, Batch, dict[str, float]]:
    rollout = collect(agent.policy, agent.env, generator=agent.generator)
    return rollout, *agent.prepare(rollout)


def scored_batch(returns: list[float], scored: list[bool]) -> Batch:
    """Return episodes of two tokens, paid half with each."""
    empty = torch.zeros(len(returns), 2)
    return Batch(
        input_ids=torch.zeros(len(returns), 5, dtype=torch.int64),
        attention_mask=torch.ones(len(returns), 5, dtype=torch.int8),
        mask=torch.tensor(scored)[:, None].repeat(1, 2),
        groups=torch.arange(len(returns)),
        scores=torch.tensor(returns),
        rewards=torch.tensor(returns)[:, None].repeat(1, 2) / 2,
        logprobs=empty,
        values=empty,
        advantages=empty,
        returns=empty,
    )


def test_returns_to_go_by_hand() -> None:
    """From the end: 4, 2 + 4/2, 1 + 4/2; a row that ended is 0 after its end."""
    rewards = torch.tensor([[1.0, 2.0, 4.0], [8.0, 0.0, 0.0]])
    assert returns_to_go(rewards, 0.5).tolist() == [[3.0, 4.0, 4.0], [8.0, 0.0, 0.0]]
    assert returns_to_go(rewards, 1.0)[0].tolist() == [7.0, 6.0, 4.0]
    assert returns_to_go(rewards, 0.0).tolist() == rewards.tolist()


def test_loss_by_hand() -> None:
    logprobs = torch.tensor([[-1.0, -2.0], [-3.0, -50.0]], requires_grad=True)
    mask = torch.tensor([[True, True], [True, False]])
    advantages = torch.tensor([[2.0, 1.0], [-1.0, 7.0]])
    loss = policy_gradient_loss(logprobs, advantages, mask, count=2)
    loss.backward()
    assert loss.item() == (2 + 2 - 3) / 2
    assert logprobs.grad is not None
    assert logprobs.grad.tolist() == [[-1.0, -0.5], [0.5, 0.0]]


def test_the_loss_is_a_mean_over_episodes(make_agent: Make) -> None:
    """A sum over the tokens of each: -(2 * (-1.5 - 0.5) + 1 * -1.5) / 2."""
    batch = scored_batch([2.0, 1.0], [True, True])
    mask = torch.tensor([[True, True], [True, False]])
    part = batch._replace(mask=mask, advantages=torch.tensor([[2.0, 2.0], [1.0, 0.0]]))
    now = Evaluation(
        torch.tensor([[-1.5, -0.5], [-1.5, 0.0]]), torch.zeros(2, 2), torch.zeros(2, 3)
    )
    loss, diagnostics = make_agent().loss(part, now, BatchSize(mask.sum(), 2))
    assert loss.item() == diagnostics["policy_loss"].item() == 2.75


def test_change_of_the_policy_by_hand() -> None:
    """Ratios 2, 1 and (masked) 9: k3 is 1 - log 2 and 0."""
    new = torch.tensor([[2.0, 1.0, 9.0]]).log()
    mask = torch.tensor([[True, True, False]])
    change = policy_change(new, torch.zeros(1, 3), mask, tokens=2)
    assert change.approx_kl.item() == pytest.approx((1 - np.log(2)) / 2, rel=1e-5)
    assert change.ratio.item() == pytest.approx(1.5)
    assert change.ratio_square.item() == pytest.approx((4 + 1) / 2)


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        ("none", [3.0, 6.0, 0.0, 9.0]),
        ("mean", [-3.0, 0.0, 0.0, 3.0]),
        ("leave_one_out", [-4.5, 0.0, 0.0, 4.5]),
        ("moving_average", [3.0, 6.0, 0.0, 9.0]),
    ],
)
def test_baselines_by_hand(baseline: str, expected: list[float], make_agent: Make) -> None:
    """3, 6 and 9; the unscored 1000 enters nothing. The second token earned half of it."""
    agent = make_agent(baseline=baseline)
    batch = scored_batch([3.0, 6.0, 1000.0, 9.0], [True, True, False, True])
    advantages, returns = agent.targets(batch)
    assert advantages[:, 0].tolist() == expected
    halves = torch.tensor([1.5, 3.0, 0.0, 4.5])
    torch.testing.assert_close(advantages[:, 1], torch.tensor(expected) - halves)
    assert returns.tolist() == [[3.0, 1.5], [6.0, 3.0], [0.0, 0.0], [9.0, 4.5]]


def test_moving_average_by_hand(make_agent: Make) -> None:
    """Means 4, 1, 7 with decay 1/2: weights 1, then 1/3 and 2/3, then 1/7, 2/7 and 4/7."""
    agent = make_agent(baseline="moving_average", baseline_decay=0.5)
    baselines = []
    for mean in (4.0, 1.0, 7.0, 0.0):
        advantages, _ = agent.targets(scored_batch([mean - 1, mean + 1], [True, True]))
        baselines.append(mean - 1 - advantages[0, 0].item())
    expected = [0.0, 4.0, (4 + 2 * 1) / 3, (4 + 2 * 1 + 4 * 7) / 7]
    assert baselines == pytest.approx(expected)
    before = agent.extra_state()
    agent.targets(scored_batch([5.0, 5.0], [False, False]))
    assert agent.extra_state() == before, "a rollout without scores teaches nothing"


@pytest.mark.parametrize("baseline", ["mean", "leave_one_out"])
def test_a_constant_added_to_the_scores_changes_nothing(baseline: str, make_agent: Make) -> None:
    agent = make_agent(baseline=baseline)
    low, high = (
        agent.targets(scored_batch([3.0 + c, 6.0 + c, 9.0 + c], [True] * 3))[0][:, 0]
        for c in (0.0, 100.0)
    )
    torch.testing.assert_close(low, high)


def test_one_scored_episode_of_many_teaches_nothing(make_agent: Make) -> None:
    batch = scored_batch([3.0, 9.0], [False, True])
    for baseline in ("mean", "leave_one_out"):
        assert not make_agent(baseline=baseline).targets(batch)[0][:, 0].any()


def test_the_kl_is_charged_token_by_token(make_agent: Make) -> None:
    """A token answers for the KL of itself and what follows, not for what came before."""
    agent = make_agent(kl_coef=0.5, baseline="none")
    agent.step()  # moves away from the reference, on which the KL is 0
    _, batch, _ = prepared(agent)
    assert batch.reference_logprobs is not None
    kl = (batch.logprobs - batch.reference_logprobs) * batch.mask
    to_come = kl.flip(1).cumsum(1).flip(1)
    assert to_come.abs().max() > 1e-3
    expected = (batch.scores[:, None] - 0.5 * to_come) * batch.mask
    torch.testing.assert_close(batch.advantages, expected)


def test_gamma_discounts(make_agent: Make) -> None:
    agent = make_agent(gamma=0.5, baseline="none", venv={"reward": lambda prompt, text: 1.0})
    rollout, batch, _ = prepared(agent)
    expected = 0.5 ** (rollout.lengths[:, None] - 1 - np.arange(4)) * rollout.mask
    np.testing.assert_allclose(batch.advantages.numpy(), expected)


def test_unscored_episodes_are_left_out(make_agent: Make) -> None:
    calls = iter(range(10_000))

    def mostly(prompt: Prompt, completion: str) -> float | None:
        call = next(calls)
        return None if call % 3 == 0 else float(call)

    agent = make_agent(venv={"reward": mostly, "on_unscored": -1000.0}, baseline="mean")
    rollout, batch, _ = prepared(agent)
    scored = np.array([info["scored"] for info in rollout.infos])
    scores = np.array([sum(info["reward_terms"].values()) for info in rollout.infos])
    expected = np.where(scored, scores - scores[scored].mean(), 0.0)[:, None] * rollout.mask
    np.testing.assert_allclose(batch.advantages.numpy(), expected, atol=1e-5)


def test_accumulated_gradients_equal_one_pass(make_agent: Make) -> None:
    gradients = []
    for tokens in (4096, 20):
        agent = make_agent(micro_batch_tokens=tokens, max_grad_norm=None)
        _, batch, _ = prepared(agent)
        agent._optimizer_step(batch, torch.arange(8))
        gradients.append([p.grad.clone() for p in agent.parameters if p.grad is not None])
    assert len(gradients[0]) > 10 and any(g.abs().max() > 1e-3 for g in gradients[0])
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    ("baseline", "goal"),
    [("leave_one_out", 0.7), ("mean", 0.7), ("moving_average", 0.7), ("none", 0.45)],
)
def test_solves_a_toy_environment(baseline: str, goal: float, make_agent: Make) -> None:
    """From chance, about 0.3; without a baseline more slowly."""
    agent = make_agent(baseline=baseline, learning_rate=2e-2, batch_size=16, rollout_episodes=32)
    scores: list[float] = []
    agent.learn(32 * 4 * 20, lambda metrics: scores.append(metrics["score"]))
    assert scores[0] < 0.4
    assert np.mean(scores[-2:]) > goal


@pytest.mark.parametrize("baseline", ["leave_one_out", "mean"])
def test_learns_nothing_from_a_constant_reward(baseline: str, make_agent: Make) -> None:
    """Negative control: nothing to compare, and the weights stay as they are."""
    agent = make_agent(baseline=baseline, venv={"reward": lambda prompt, text: 0.3})
    before = [p.detach().clone() for p in agent.policy.parameters()]
    agent.learn(8 * 4 * 4)
    for old, new in zip(before, agent.policy.parameters(), strict=True):
        torch.testing.assert_close(old, new, atol=1e-6, rtol=0)


def test_same_seed_same_weights(make_agent: Make) -> None:
    one, two, other = (
        torch.cat([p.detach().flatten() for p in make_agent(seed=s).learn(70).parameters])
        for s in (0, 0, 1)
    )
    assert torch.equal(one, two) and not torch.equal(one, other)


def test_resumed_equals_unbroken(model_folder: Make, make_venv: Make, tmp_path: Path) -> None:
    """And negative control: without the moving average it is another run."""
    folder, goal = model_folder(), 8 * 4 * 5
    config = REINFORCEConfig(learning_rate=1e-2, batch_size=4, baseline="moving_average")
    policy, again = (CausalLMPolicy.from_pretrained(folder, bfloat16=False) for _ in range(2))
    unbroken = REINFORCE(policy, make_venv(8), config, seed=3).learn(goal)
    broken = REINFORCE(again, make_venv(8), config, seed=3)
    broken.learn(goal, lambda metrics: metrics["update"] < 2)
    path = broken.save(tmp_path / "checkpoint")
    resumed, forgetful = (REINFORCE.load(path, make_venv(8)) for _ in range(2))
    assert resumed.config == config and resumed.extra_state() == broken.extra_state()
    forgetful.load_extra_state({}, {"average": 0.0, "rollouts": 0})
    for agent in (resumed, forgetful):
        agent.learn(goal, reset_num_timesteps=False)
    assert resumed.num_updates == unbroken.num_updates > broken.num_updates
    assert resumed.extra_state() == unbroken.extra_state()
    goals = unbroken.policy.state_dict()
    for agent, equal in ((resumed, True), (forgetful, False), (broken, False)):
        ends = agent.policy.state_dict()
        assert all(torch.equal(goals[name], ends[name]) for name in goals) == equal


def test_bad_settings(make_policy: Make, make_venv: Make) -> None:
    with pytest.raises(ConfigError, match="n_epochs must be 1, since nothing corrects.*is 1"):
        REINFORCEConfig(n_epochs=2)
    with pytest.raises(ConfigError, match="baseline_decay must be at least 0 and below 1, got 1"):
        REINFORCEConfig(baseline_decay=1.0)
    with pytest.raises(UnknownNameError, match="moving_average"):
        REINFORCEConfig(baseline="moving")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match='or baseline="moving_average"'):
        REINFORCE(make_policy(), make_venv(1))
    REINFORCE(make_policy(), make_venv(1), REINFORCEConfig(rollout_episodes=2))
    REINFORCE(make_policy(), make_venv(1), REINFORCEConfig(baseline="moving_average"))
