"""PPO: learning itself, determinism, and the parts of an update."""

import dataclasses
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from agents.config import LoRAConfig, PPOConfig
from agents.policy import CausalLMPolicy
from agents.ppo import PPO
from agents.token_rewards import token_rewards
from textenvs.errors import ConfigError, ModelError
from textenvs.kl import KLCoefficient
from textenvs.reference import CausalLMReference
from textenvs.wrappers.reference_kl import VectorReferenceKL

QUICK = PPOConfig(learning_rate=1e-2, n_epochs=2, batch_size=16)
Make = Callable[..., Any]


def weights(agent: PPO) -> list[torch.Tensor]:
    return [p.detach().clone() for p in agent.policy.parameters()]


def same(one: list[torch.Tensor], two: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.fixture
def make_agent(make_policy: Make, make_venv: Make) -> Make:
    """Return a maker of agents on a toy environment of four tokens an answer."""

    def make(
        num_envs: int = 8, seed: int = 0, lora: Any = None, kl: Any = None, **changes: Any
    ) -> PPO:
        fields = {field.name for field in dataclasses.fields(PPOConfig)}
        config = dataclasses.replace(QUICK, **{k: changes.pop(k) for k in fields & set(changes)})
        venv = make_venv(num_envs, **changes)
        policy = make_policy(lora=lora)
        if kl is not None:
            venv = VectorReferenceKL(venv, policy.reference(), **kl)
        return PPO(policy, venv, config, seed=seed)

    return make


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_solves_a_toy_environment(mode: AutoresetMode, make_agent: Make) -> None:
    """From chance to near the maximum of 1, in every autoreset mode."""
    agent = make_agent(32, autoreset_mode=mode)
    scores: list[float] = []
    agent.learn(32 * 4 * 24, lambda metrics: scores.append(metrics["score"]))
    assert scores[0] < 0.5
    assert np.mean(scores[-2:]) > 0.9


def test_learns_nothing_from_a_constant_reward(make_agent: Make) -> None:
    """Negative control: the same run under a flat reward does not find the letters."""
    agent = make_agent(32, reward=lambda prompt, completion: 1.0, metrics=low_letters)
    shares: list[float] = []
    agent.learn(32 * 4 * 24, lambda metrics: shares.append(metrics["gold/low"]))
    assert shares[0] < 0.5
    assert np.mean(shares[-2:]) < 0.6


def low_letters(episodes: Any) -> dict[str, np.ndarray]:
    shares = [sum(c < "P" for c in e.completion) / max(1, len(e.completion)) for e in episodes]
    return {"low": np.array(shares)}


@pytest.mark.parametrize("lora", [None, LoRAConfig(r=2)])
def test_same_seed_same_weights_and_another_seed_others(lora: Any, make_agent: Make) -> None:
    before = weights(make_agent(lora=lora))
    one, two, other = (
        weights(make_agent(seed=seed, lora=lora).learn(8 * 4 * 2)) for seed in (0, 0, 1)
    )
    assert same(one, two)
    assert not same(one, other) and not same(one, before)


def test_one_update_from_several_waves(make_agent: Make) -> None:
    agent = make_agent(4, rollout_episodes=12)
    metrics = agent.step()
    assert metrics["episodes"] == 12
    assert agent.num_timesteps == metrics["timesteps"] == pytest.approx(12 * metrics["length"])
    assert make_agent(4, rollout_episodes=6).step()["episodes"] == 6


@pytest.mark.parametrize("ent_coef", [0.0, 0.1])
def test_accumulated_gradients_equal_one_pass(ent_coef: float, make_agent: Make) -> None:
    gradients = []
    for tokens in (4096, 30, 1):
        agent = make_agent(8, micro_batch_tokens=tokens, max_grad_norm=None, ent_coef=ent_coef)
        agent.policy.value_head.weight.data.fill_(0.1)
        rollout = collected(agent)
        batch, _ = agent.prepare(rollout)
        parts = len(agent._micro_batches(batch, torch.arange(8)))
        assert parts == {4096: 1, 1: 8}.get(tokens, parts) and (tokens == 4096 or parts > 1)
        agent._optimizer_step(batch, torch.arange(8))
        gradients.append([p.grad.clone() for p in agent.parameters if p.grad is not None])
    assert len(gradients[0]) > 10 and any(g.abs().max() > 1e-3 for g in gradients[0])
    for other in gradients[1:]:
        torch.testing.assert_close(gradients[0], other, atol=1e-6, rtol=1e-4)


def collected(agent: PPO) -> Any:
    from agents.rollout import collect

    return collect(agent.policy, agent.env, generator=agent.generator)


def test_before_the_first_step_the_ratio_is_one(make_agent: Make) -> None:
    agent = make_agent(8, n_epochs=1, batch_size=8, normalize_advantage=False)
    metrics = agent.step()
    assert metrics["ratio"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["clip_fraction"] == 0.0 and abs(metrics["approx_kl"]) < 1e-6


def test_missing_eos_penalty(make_agent: Make) -> None:
    plain, charged = make_agent(8), make_agent(8, missing_eos_penalty=2.5)
    rollout = collected(plain)
    for row, info in enumerate(rollout.infos):
        info["finish_reason"] = "length" if row % 2 else "eos"
    free = token_rewards(rollout, rollout.logprobs, None, plain.config).rewards
    paid = token_rewards(rollout, rollout.logprobs, None, charged.config).rewards
    expected = np.zeros_like(free)
    last = rollout.lengths - 1
    expected[np.arange(8), last] = np.where(np.arange(8) % 2, -2.5, 0.0)
    np.testing.assert_allclose(paid - free, expected)


def test_reward_clip_bounds_the_score_alone(make_agent: Make) -> None:
    agent = make_agent(8, reward=lambda prompt, completion: 7.0, reward_clip=1.5)
    rollout = collected(agent)
    rewards = token_rewards(rollout, rollout.logprobs, None, agent.config).rewards
    np.testing.assert_allclose(rewards.sum(1), np.full(8, 1.5))


@pytest.mark.parametrize("clip", [None, 1.0])
def test_unscored_episodes_are_left_out(clip: float | None, make_agent: Make) -> None:
    """Every second episode is unscored; its stated reward of -1000 must not be learned from."""
    calls = iter(range(10_000))

    def every_second(prompt: Any, completion: str) -> float | None:
        return None if next(calls) % 2 else 1.0

    options = {"on_unscored": -1000.0, "reward_clip": clip, "normalize_advantage": False}
    agent = make_agent(8, reward=every_second, **options)
    rollout = collected(agent)
    batch, metrics = agent.prepare(rollout)
    scored = torch.tensor([info["scored"] for info in rollout.infos])
    assert metrics["unscored"] == 4 and metrics["score"] == 1.0
    assert not batch.mask[~scored].any() and batch.mask[scored].any(1).all()
    assert batch.advantages[scored].max() == 1.0 and batch.advantages[scored].min() > 0.8
    before = weights(agent)
    agent.update(batch)
    assert all(p.isfinite().all() for p in weights(agent)) and not same(before, weights(agent))


def test_all_unscored_changes_nothing(make_agent: Make) -> None:
    agent = make_agent(8, reward=lambda prompt, completion: None, on_unscored=-1.0)
    before = weights(agent)
    assert agent.step()["optimizer_steps"] == 0
    assert same(before, weights(agent))


def test_target_kl_stops_the_epochs(make_agent: Make) -> None:
    changes = {"n_epochs": 6, "batch_size": 8, "learning_rate": 0.05}
    free = make_agent(8, **changes).step()
    stopped = make_agent(8, target_kl=1e-6, **changes).step()
    loose = make_agent(8, target_kl=1e6, **changes).step()
    assert free["optimizer_steps"] == loose["optimizer_steps"] == 6
    assert 1 < stopped["optimizer_steps"] < 6


def test_critic_warmup_leaves_the_policy_alone(make_agent: Make) -> None:
    agent = make_agent(8, critic_warmup=1)
    before = [p.clone() for p in agent.policy.model.parameters()]
    head = agent.policy.value_head.weight.clone()
    agent.step()
    assert same(before, list(agent.policy.model.parameters()))
    assert not torch.equal(head, agent.policy.value_head.weight)
    agent.step()
    assert not same(before, list(agent.policy.model.parameters()))


def test_learning_rate_falls_linearly(make_agent: Make) -> None:
    rates, steps = [], []
    agent = make_agent(8)

    def note(metrics: Any) -> None:
        rates.append(metrics["learning_rate"])
        steps.append(metrics["timesteps"])

    agent.learn(120, note)
    expected = [1e-2 * (1 - done / 120) for done in [0, *steps[:-1]]]
    assert len(rates) > 2 and rates == pytest.approx(expected)
    steady = make_agent(8, anneal=False)
    assert steady.learn(60).optimizer.param_groups[0]["lr"] == 1e-2


def test_callback_stops_and_learn_counts(make_agent: Make) -> None:
    agent = make_agent(8)
    agent.learn(10_000, lambda metrics: metrics["update"] < 2)
    assert agent.num_updates == 2
    agent.learn(1)
    assert agent.num_updates == 3 and agent.num_timesteps <= 32
    with pytest.raises(ConfigError, match="total_timesteps must be at least 1, got 0"):
        agent.learn(0)


@pytest.mark.parametrize("timing", ["step", "episode"])
@pytest.mark.parametrize("policy_logprob", [False, True])
def test_kl_reward_is_whole_whoever_pays(
    timing: str, policy_logprob: bool, make_agent: Make, make_model: Make
) -> None:
    """r_t - beta * (log pi - log pi_ref), token by token, in all four arrangements."""
    reference = CausalLMReference(make_model(seed=5), bfloat16=False)
    agent = make_agent(8)
    venv = VectorReferenceKL(
        agent.env, reference, 0.5, timing=timing, policy_logprob=policy_logprob
    )
    agent = PPO(agent.policy, venv, QUICK)
    rollout = collected(agent)
    earned = token_rewards(rollout, rollout.logprobs, agent.shaping, agent.config)
    rewards, kl = earned.rewards, earned.sequence_kl
    theirs = reference.completion_logprobs(rollout.input_ids, rollout.attention_mask)
    expected = -0.5 * (rollout.logprobs - theirs)
    for row, info in enumerate(rollout.infos):
        expected[row, rollout.lengths[row] - 1] += sum(info["reward_terms"].values())
    np.testing.assert_allclose(rewards, expected, atol=1e-4)
    np.testing.assert_allclose(kl, (rollout.logprobs - theirs).sum(1), atol=1e-3)


def test_kl_to_oneself_is_zero_and_the_coefficient_adapts_once(make_agent: Make) -> None:
    for policy_logprob in (False, True):
        coefficient = KLCoefficient(0.1, target=1.0, horizon=100)
        kl = {"coef": coefficient, "policy_logprob": policy_logprob, "timing": "episode"}
        agent = make_agent(8, kl=kl)
        rollout = collected(agent)
        _, metrics = agent.prepare(rollout)
        assert abs(metrics["kl"]) < 1e-3
        if not policy_logprob:
            assert coefficient.value == pytest.approx(0.1 * (1 - 0.2 * 8 / 100))
        assert 0.1 * (1 - 0.2 * 8 / 100) ** 1.2 < coefficient.value < 0.1


def test_a_strong_kl_holds_the_policy_back(make_agent: Make) -> None:
    """The same run ends nearer to the reference under a strong coefficient."""
    ends = []
    for coef in (1e-6, 1.0):
        kls: list[float] = []
        agent = make_agent(16, kl={"coef": coef})
        agent.learn(16 * 4 * 8, lambda metrics, kls=kls: kls.append(metrics["kl"]))
        ends.append(kls[-1])
    assert ends[1] < 0.5 * ends[0]


def test_predict_plays_an_environment(make_agent: Make) -> None:
    agent = make_agent(4, autoreset_mode=AutoresetMode.DISABLED)
    observation, _ = agent.env.reset(seed=0)
    actions, state = agent.predict(observation, deterministic=True)
    observation, *_ = agent.env.step(actions)
    following, _ = agent.predict(observation, state, np.zeros(4, bool), deterministic=True)
    anew, _ = agent.predict(observation, deterministic=True)
    assert following.tolist() == anew.tolist()


def test_a_policy_of_fewer_tokens_is_refused(
    make_policy: Make, make_venv: Make, make_model: Make
) -> None:
    from agents.policy import CausalLMPolicy

    with pytest.raises(ModelError, match="give the environment the model's own tokenizer"):
        PPO(CausalLMPolicy(make_model(vocab_size=100)), make_venv(2))


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("learning_rate", 0.0, "above 0"),
        ("clip_range", float("nan"), "above 0"),
        ("gamma", 1.1, "between 0 and 1"),
        ("n_epochs", 1.5, "a whole number"),
        ("batch_size", True, "a whole number"),
        ("dual_clip", 1.0, "above 1"),
        ("ent_coef", -0.1, "at least 0"),
        ("target_kl", "small", "above 0"),
    ],
)
def test_bad_settings(name: str, value: Any, rule: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} must be {rule}.*the default is"):
        PPOConfig(**{name: value})


def test_a_reference_at_another_temperature_is_refused() -> None:
    venv = gym.make_vec(
        "textenvs/ContextSelect-v0", num_envs=2, n_items=2, reference="tiny-lm", kl_coef=0.1
    )
    policy = CausalLMPolicy.from_pretrained("tiny-lm", temperature=0.7)
    with pytest.raises(ConfigError, match="temperature"):
        PPO(policy, venv)
