"""The floor and the ceiling of a comparison, against what can be computed."""

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.baselines import Oracle, Random, Reference
from agents.config import LoRAConfig
from agents.evaluation import answer_prompts, evaluate
from textenvs.env import TextEnv
from textenvs.errors import ConfigError, UnknownNameError

Make = Callable[..., Any]


def test_oracle_reaches_the_maximum_of_context_select() -> None:
    env: Any = gym.make("textenvs/ContextSelect-v0", split="test", n_prompts=30)
    result = evaluate(Oracle(env), env, 30, num_envs=8)
    task = env.unwrapped
    best = [task.reward.bounds(prompt)[1] for prompt in task.prompts]
    assert result["reward"].mean == pytest.approx(np.mean(best)) and np.mean(best) > 0
    assert result["correct"].mean == result["recall"].mean == result["eos"].mean == 1.0


@pytest.mark.parametrize("num_envs", [1, 3, 64])
def test_oracle_reaches_the_maximum_of_enumerable(num_envs: int) -> None:
    env = gym.make("textenvs/Enumerable-v0")
    result = evaluate(Oracle(env), env, num_envs=num_envs)
    assert result["best"].mean == 1.0 and result["regret"].mean == 0.0
    assert result["reward"].mean == pytest.approx(1.0)


def test_oracle_wants_an_environment_that_knows(byte_tokenizer: Any) -> None:
    env = TextEnv(["no reference"], lambda prompt, completion: 0.0, byte_tokenizer)
    with pytest.raises(ConfigError, match="no right answer is known for the prompt"):
        Oracle(env)


def test_oracle_is_cut_by_the_budget_as_anyone_is(byte_tokenizer: Any) -> None:
    env = TextEnv(
        [{"text": "p", "reference": "abcdef"}],
        lambda prompt, completion: float(len(completion)),
        byte_tokenizer,
        max_prompt_tokens=2,
        max_new_tokens=4,
    )
    assert [answer.completion for answer in answer_prompts(Oracle(env), env)] == ["abcd"]


def test_random_earns_what_the_uniform_policy_does() -> None:
    """The exact expectation, by enumeration; a floor far under the oracle's 1."""
    env: Any = gym.make("textenvs/Enumerable-v0", n_prompts=1)
    every = env.unwrapped.completions
    expected = (6.0 ** -every.mask.sum(1, dtype=float)) @ every.rewards
    venv = gym.make_vec("textenvs/Enumerable-v0", num_envs=500, n_prompts=1)
    agent, scores = Random(venv, seed=1), np.zeros(500)
    observation, _ = venv.reset(seed=0)
    waiting = np.ones(500, bool)
    while waiting.any():
        actions, state = agent.predict(observation)
        assert state is None
        observation, rewards, terminated, _, _ = venv.step(actions)
        scores[waiting & terminated] = rewards[waiting & terminated]
        waiting &= ~terminated
    assert abs(scores.mean() - expected) < 4 * scores.std() / math.sqrt(500)
    assert scores.mean() < 0.3


def test_random_draws_every_token_and_repeats_itself_by_seed(make_venv: Make) -> None:
    venv = make_venv(2)
    observation, _ = venv.reset(seed=0)
    drawn = [
        np.concatenate([agent.predict(observation, deterministic=True)[0] for _ in range(1500)])
        for agent in (Random(venv), Random(venv), Random(venv, seed=1))
    ]
    assert set(drawn[0].tolist()) == set(range(258))
    assert (drawn[0] == drawn[1]).all() and (drawn[0] != drawn[2]).any()
    single = {key: value[0] for key, value in observation.items()}
    assert venv.single_action_space.contains(Random(venv).predict(single)[0])


@pytest.mark.parametrize("lora", [None, LoRAConfig(r=2)])
def test_reference_stays_as_the_policy_was(lora: Any, make_policy: Make, make_venv: Make) -> None:
    venv = make_venv(6)
    policy = make_policy(lora=lora)
    observation, _ = venv.reset(seed=0)
    before, _ = policy.predict(observation, deterministic=True)
    reference, generator = Reference(policy), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator))
    after, _ = policy.predict(observation, deterministic=True)
    kept, state = reference.predict(observation, deterministic=True)
    assert kept.tolist() == before.tolist() != after.tolist()
    venv.step(kept)
    assert not any(p.requires_grad for p in reference.policy.parameters())


def test_reference_by_name_samples_by_its_seed() -> None:
    env: Any = gym.make("textenvs/ContextSelect-v0", n_items=2, n_prompts=4, max_new_tokens=4)
    said = [
        [a.completion for a in answer_prompts(Reference("tiny-lm", seed=seed), env, 4, False)]
        for seed in (0, 0, 1)
    ]
    assert said[0] == said[1] != said[2]
    with pytest.raises(UnknownNameError):
        Reference("tiny-ml")
