"""GRPO: group advantages, the weights of tokens, dropped groups, and learning itself."""

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.advantages import group_normalised, group_statistics
from agents.batch import Batch, BatchSize
from agents.grpo import GRPO, GRPOConfig, overlong_share
from agents.policy import CausalLMPolicy, Evaluation
from agents.rollout import collect
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.types import Prompt

Make = Callable[..., Any]
RETURNS = torch.tensor([1.0, 3.0, 2.0, 4.0, 900.0, 6.0, 5.0])
GROUPS = torch.tensor([7, 7, 3, 3, 3, 3, 4])
COUNTED = torch.tensor([True, True, True, True, False, True, True])


@pytest.fixture
def make_agent(make_learner: Make) -> Make:
    """Return a maker of agents that see each prompt of a toy environment four times."""
    return partial(make_learner, GRPO, 16, samples_per_prompt=4)


def prepared(agent: GRPO) -> tuple[Any, Batch, dict[str, float]]:
    rollout = collect(agent.policy, agent.env, generator=agent.generator)
    return rollout, *agent.prepare(rollout)


def test_statistics_by_hand() -> None:
    """Group 3 counts 2, 4 and 6; its fourth return, 900, enters nothing."""
    found = group_statistics(RETURNS, GROUPS, COUNTED)
    assert found.size.tolist() == [2, 2, 3, 3, 3, 3, 1]
    assert found.mean.tolist() == [2, 2, 4, 4, 4, 4, 5]
    deviations = [math.sqrt(2)] * 2 + [2.0] * 4 + [0.0]
    assert found.std.tolist() == pytest.approx(deviations)


@pytest.mark.parametrize(
    ("scale", "deviations"),
    [
        ("group", [math.sqrt(2)] * 2 + [2.0] * 4 + [1.0]),
        ("batch", [math.sqrt(3.5)] * 7),
        ("none", None),
    ],
)
def test_advantages_by_hand(scale: str, deviations: list[float] | None) -> None:
    """The six counted returns have mean 3.5 and squared differences of 17.5 in all."""
    centred = [-1.0, 1.0, -2.0, 0.0, 0.0, 2.0, 0.0]
    expected = centred
    if deviations is not None:
        expected = [c / (d + 1e-4) for c, d in zip(centred, deviations, strict=True)]
    found = group_normalised(RETURNS, GROUPS, COUNTED, scale=scale)
    assert found.tolist() == pytest.approx(expected, rel=1e-6)


def test_a_constant_added_to_a_group_changes_nothing() -> None:
    raised = RETURNS + torch.where(GROUPS == 3, 1000.0, 0.0)
    for scale in ("group", "none"):
        before = group_normalised(RETURNS, GROUPS, COUNTED, scale=scale)
        after = group_normalised(raised, GROUPS, COUNTED, scale=scale)
        torch.testing.assert_close(before, after)
    spread = group_normalised(raised, GROUPS, COUNTED, scale="batch")
    assert spread[0] > group_normalised(RETURNS, GROUPS, COUNTED, scale="batch")[0]


def test_only_division_makes_the_scale_of_rewards_irrelevant() -> None:
    def of(factor: float, scale: str) -> torch.Tensor:
        return group_normalised(factor * RETURNS, GROUPS, COUNTED, scale=scale)

    for scale in ("group", "batch"):
        torch.testing.assert_close(of(1.0, scale), of(50.0, scale), rtol=1e-3, atol=0)
    torch.testing.assert_close(50 * of(1.0, "none"), of(50.0, "none"))


def test_nan_of_uncounted_episodes_stays_out() -> None:
    returns = torch.where(COUNTED, RETURNS, torch.nan)
    found = group_normalised(returns, GROUPS, COUNTED, scale="batch")
    torch.testing.assert_close(found, group_normalised(RETURNS, GROUPS, COUNTED, scale="batch"))
    with pytest.raises(UnknownNameError, match="batch"):
        group_normalised(RETURNS, GROUPS, COUNTED, scale="bath")


def test_overlong_share_by_hand() -> None:
    """DAPO's example: a budget of 20 with a buffer of 4 charges from the 17th token on."""
    lengths = torch.tensor([1, 16, 17, 18, 20])
    assert overlong_share(lengths, 20, 4).tolist() == [0.0, 0.0, 0.25, 0.5, 1.0]


@pytest.mark.parametrize(
    ("loss_type", "expected"), [("grpo", -2.5), ("dapo", -7 / 4), ("dr_grpo", -7 / 8)]
)
def test_weights_of_tokens_by_hand(loss_type: str, expected: float, make_agent: Make) -> None:
    """One answer of one token with advantage 4, one of three tokens with 1; budget 4."""
    mask = torch.tensor([[True, False, False, False], [True, True, True, False]])
    logprobs = torch.full((2, 4), -1.5)
    empty = torch.zeros(2, 4)
    part = Batch(
        input_ids=torch.zeros(2, 11, dtype=torch.int64),
        attention_mask=torch.ones(2, 11, dtype=torch.int8),
        mask=mask,
        groups=torch.zeros(2, dtype=torch.int64),
        scores=empty[:, 0],
        rewards=empty,
        logprobs=logprobs,
        values=empty,
        advantages=torch.tensor([[4.0], [1.0]]) * mask,
        returns=empty,
    )
    now = Evaluation(logprobs, empty, torch.zeros(2, 5))
    agent = make_agent(loss_type=loss_type)
    loss, diagnostics = agent.loss(part, now, BatchSize(mask.sum(), 2))
    assert loss.item() == pytest.approx(expected)
    assert (diagnostics["ratio"].item(), diagnostics["approx_kl"].item()) == (1.0, 0.0)
    moved = now._replace(logprobs=logprobs + math.log(1.25))
    for high, factor in ((None, 1.2), (0.28, 1.25)):
        agent = make_agent(loss_type=loss_type, clip_range_high=high)
        loss, diagnostics = agent.loss(part, moved, BatchSize(mask.sum(), 2))
        assert loss.item() == pytest.approx(factor * expected)
        assert diagnostics["clip_fraction"].item() == (high is None)


@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "dr_grpo"])
def test_accumulated_gradients_equal_one_pass(loss_type: str, make_agent: Make) -> None:
    gradients = []
    for tokens in (4096, 30):
        agent = make_agent(micro_batch_tokens=tokens, max_grad_norm=None, loss_type=loss_type)
        _, batch, _ = prepared(agent)
        agent._optimizer_step(batch, torch.arange(16))
        gradients.append([p.grad.clone() for p in agent.parameters if p.grad is not None])
    assert len(gradients[0]) > 10 and any(g.abs().max() > 1e-3 for g in gradients[0])
    torch.testing.assert_close(*gradients, atol=1e-6, rtol=1e-4)


def test_advantages_of_a_rollout(make_agent: Make) -> None:
    """Against a loop over the groups; every token of an answer has its advantage."""
    agent = make_agent()
    rollout, batch, metrics = prepared(agent)
    scores = np.array([sum(info["reward_terms"].values()) for info in rollout.infos])
    assert len(set(rollout.groups)) == 4
    for group in set(rollout.groups):
        own = np.flatnonzero(rollout.groups == group)
        expected = (scores[own] - scores[own].mean()) / (scores[own].std(ddof=1) + 1e-4)
        for row, advantage in zip(own, expected, strict=True):
            found = batch.advantages[row].numpy()
            np.testing.assert_allclose(found, advantage * rollout.mask[row], atol=1e-5)
    deviations = [scores[rollout.groups == g].std(ddof=1) for g in rollout.groups]
    assert metrics["group_std"] == pytest.approx(np.mean(deviations), rel=1e-5)


def test_unscored_episodes_are_left_out(make_agent: Make) -> None:
    calls = iter(range(10_000))

    def mostly(prompt: Prompt, completion: str) -> float | None:
        call = next(calls)
        return None if call % 3 == 0 else float(call)

    agent = make_agent(venv={"reward": mostly, "on_unscored": -1000.0}, scale_rewards="none")
    rollout, batch, metrics = prepared(agent)
    scored = np.array([info["scored"] for info in rollout.infos])
    assert 4 < metrics["unscored"] < 8
    scores = np.array([sum(info["reward_terms"].values()) for info in rollout.infos])
    for row in range(16):
        others = scores[scored & (rollout.groups == rollout.groups[row])]
        expected = scores[row] - others.mean() if scored[row] else 0.0
        assert batch.advantages[row, 0].item() == pytest.approx(expected, abs=1e-4)
    assert not batch.mask[~scored].any()


def easy_for_some(prompt: Prompt, completion: str) -> float:
    """Pay the same for whatever is said after an even prompt."""
    low = sum(c < "P" for c in completion) / max(1, len(completion))
    return 1.0 if int(prompt.id[1:]) % 2 == 0 else low


def test_uniform_groups_are_dropped_where_asked(make_agent: Make) -> None:
    kept, dropped = (
        make_agent(venv={"reward": easy_for_some}, drop_uniform_groups=drop, seed=2)
        for drop in (False, True)
    )
    rollout, before, metrics = prepared(kept)
    _, after, again = prepared(dropped)
    easy = torch.tensor([int(prompt.id[1:]) % 2 == 0 for prompt in rollout.prompts])
    assert 0 < metrics["uniform_groups"] == again["uniform_groups"] == easy.float().mean() < 1
    assert before.mask.any(1).all() and not before.advantages[easy].any()
    assert not after.mask[easy].any()
    assert torch.equal(after.mask[~easy], before.mask[~easy])


def test_a_constant_reward_leaves_nothing_to_do(make_agent: Make) -> None:
    agent = make_agent(venv={"reward": lambda prompt, text: 0.1}, drop_uniform_groups=True)
    before = agent.policy.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    metrics = agent.step()
    assert metrics["uniform_groups"] == 1.0 and metrics["optimizer_steps"] == 0
    assert all(torch.equal(value, before[k]) for k, value in agent.policy.state_dict().items())


def test_overlong_answers_are_charged(make_agent: Make) -> None:
    """With a flat reward the charge alone is left; it is not part of the score."""
    agent = make_agent(
        venv={"reward": lambda prompt, text: 1.0}, overlong_tokens=4, overlong_penalty=2.0
    )
    rollout, batch, metrics = prepared(agent)
    expected = 1.0 - 2.0 * rollout.lengths / 4
    np.testing.assert_allclose(batch.returns[:, 0].numpy(), expected)
    assert metrics["score"] == 1.0


def test_kl_is_charged_in_the_loss_or_the_reward(make_agent: Make) -> None:
    in_loss = make_agent(kl_coef=0.5)
    assert in_loss.config.kl_estimator == "k3"
    in_loss.step()  # moves away from the reference, on which the KL is 0
    _, batch, _ = prepared(in_loss)
    torch.testing.assert_close(batch.returns[:, 0], batch.scores)
    assert in_loss.step()["kl_loss"] > 0
    in_reward = make_agent(kl_coef=0.5, kl_in="reward", kl_estimator="k1")
    in_reward.step()
    _, batch, _ = prepared(in_reward)
    assert batch.reference_logprobs is not None
    kl = ((batch.logprobs - batch.reference_logprobs) * batch.mask).sum(1)
    assert kl.abs().max() > 1e-3
    torch.testing.assert_close(batch.returns[:, 0], batch.scores - 0.5 * kl)
    assert "kl_loss" not in make_agent().step(), "no reference, nothing to charge"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"scale_rewards": "none", "loss_type": "dr_grpo"},
        {"loss_type": "dapo", "clip_range_high": 0.28, "drop_uniform_groups": True},
    ],
)
def test_solves_a_toy_environment(settings: dict[str, Any], make_agent: Make) -> None:
    agent = make_agent(learning_rate=2e-2, batch_size=16, rollout_episodes=32, **settings)
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


def test_resumed_equals_unbroken(model_folder: Make, make_venv: Make, tmp_path: Path) -> None:
    folder, goal = model_folder(), 8 * 4 * 5
    config = GRPOConfig(learning_rate=1e-2, batch_size=4, drop_uniform_groups=True)

    def fresh() -> GRPO:
        policy = CausalLMPolicy.from_pretrained(folder, bfloat16=False)
        return GRPO(policy, make_venv(8, samples_per_prompt=4), config, seed=3)

    unbroken = fresh().learn(goal)
    broken = fresh().learn(goal, lambda metrics: metrics["update"] < 2)
    path = broken.save(tmp_path / "checkpoint")
    resumed = GRPO.load(path, make_venv(8, samples_per_prompt=4))
    assert resumed.config == config
    resumed.learn(goal, reset_num_timesteps=False)
    assert resumed.num_updates == unbroken.num_updates > broken.num_updates
    goals, ends = unbroken.policy.state_dict(), resumed.policy.state_dict()
    assert all(torch.equal(goals[name], ends[name]) for name in goals)
    begun = broken.policy.state_dict()
    assert not all(torch.equal(goals[name], begun[name]) for name in goals)


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("clip_range", 0.0, "above 0"),
        ("clip_range_high", -0.1, "above 0"),
        ("dual_clip", 1.0, "above 1"),
        ("overlong_tokens", 0, "a whole number"),
        ("overlong_penalty", 0.0, "above 0"),
        ("gamma", 0.9, "1, since whole answers are compared"),
    ],
)
def test_bad_settings(name: str, value: Any, rule: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be {rule}.*the default is"):
        GRPOConfig(**{name: value})


def test_unknown_names() -> None:
    with pytest.raises(UnknownNameError, match="dr_grpo"):
        GRPOConfig(loss_type="drgrpo")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="group"):
        GRPOConfig(scale_rewards="groups")  # type: ignore[arg-type]


def test_environments_that_do_not_fit(make_agent: Make, make_venv: Make, make_policy: Make) -> None:
    with pytest.raises(ConfigError, match="samples_per_prompt=4"):
        GRPO(make_policy(), make_venv(4))
    with pytest.raises(ConfigError, match="at most the environment's max_new_tokens=4, got 5"):
        make_agent(overlong_tokens=5)
