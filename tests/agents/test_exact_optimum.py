"""Learners against the exact optimum of the KL-regularised objective, on a small task.

`benchmarks/optimum` is the same at full length, on the environment as it is registered.
"""

from typing import Any

import gymnasium as gym
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from agents.config import PPOConfig
from agents.on_policy import OnPolicyAgent
from agents.policy import CausalLMPolicy
from agents.ppo import PPO
from agents.rloo import RLOO, RLOOConfig
from textenvs.optimum import objective, optimum
from textenvs.wrappers.reference_kl import VectorReferenceKL

ENV = "textenvs/Enumerable-v0"
TASK: dict[str, Any] = {"n_prompts": 2, "n_symbols": 2, "horizon": 2}
BETA = 0.1
EPISODES, TOKENS = 128, 15_000
PPO_SETTINGS = PPOConfig(
    learning_rate=3e-3, batch_size=64, gae_lambda=1.0, clip_range_vf=None, vf_coef=0.5
)
RLOO_SETTINGS = RLOOConfig(learning_rate=3e-3, batch_size=64, n_epochs=2)


def fresh_policy(vocab_size: int) -> CausalLMPolicy:
    """Return an untrained policy.

    GPT-2 has embeddings of absolute positions. With rotary ones and no token before the prompt,
    "A" and "A A" look alike at every layer, and the optimum could not be represented.
    """
    config = GPT2Config(
        vocab_size=vocab_size,
        n_embd=32,
        n_layer=1,
        n_head=2,
        n_positions=8,
        initializer_range=0.1,
        bos_token_id=1,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return CausalLMPolicy(GPT2LMHeadModel(config).eval(), bfloat16=False)


@pytest.mark.parametrize(
    ("learner", "config", "group"), [(PPO, PPO_SETTINGS, 1), (RLOO, RLOO_SETTINGS, 4)]
)
def test_comes_near_the_exact_optimum(
    learner: type[OnPolicyAgent], config: Any, group: int
) -> None:
    """Untrained, it is far away; trained, it has 95% of J*, and of the way there."""
    env: Any = gym.make(ENV, **TASK).unwrapped
    completions = env.completions
    policy = fresh_policy(env.tokenizer.vocab_size)
    reference = policy.reference()
    venv = gym.make_vec(ENV, num_envs=EPISODES, samples_per_prompt=group, **TASK)

    def value() -> float:
        current = policy.reference()
        current.bind(completions.prompt_ids.shape[1], completions.vocab_size)
        return objective(completions, current.completion_logprobs, BETA, reference)

    best, untrained = float(optimum(completions, BETA, reference)), value()
    assert untrained < 0.5 * best
    learner(policy, VectorReferenceKL(venv, reference, BETA), config, seed=0).learn(TOKENS)
    assert 0.95 * best < value() < best
    assert value() - untrained > 0.95 * (best - untrained)
