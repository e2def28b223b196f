"""The learners that are compared, each with its one configuration; add a row to add one."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import gymnasium as gym
import stable_baselines3
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from agents.config import Critic, PPOConfig
from agents.grpo import GRPO, GRPOConfig
from agents.policy import CausalLMPolicy
from agents.ppo import PPO
from agents.reinforce import REINFORCE, REINFORCEConfig
from agents.rloo import RLOO, RLOOConfig
from agents.sb3 import CausalLMActorCriticPolicy
from textenvs.bridges.sb3 import SB3VecEnv
from textenvs.reference import CausalLMReference
from textenvs.wrappers.reference_kl import VectorReferenceKL

ENV = "textenvs/Enumerable-v0"
TOKENS = 200_000
MODEL: dict[str, Any] = {"n_embd": 64, "n_layer": 1, "n_head": 2}
"""GPT-2, for its embeddings of absolute positions. With rotary ones and no token before the
prompt, "A" and "A A" look alike at every layer, so the optimum could not be represented."""

Train = Callable[[CausalLMPolicy, CausalLMReference, float, int], None]
"""From the policy, trained in place, its reference, beta and a seed."""


class Learner(NamedTuple):
    """A row of the table.

    Attributes:
        label: As the report calls it.
        train: Trains a policy for `TOKENS` tokens.
        settings: What differs from the defaults, for the report.
        needed: The least share of J* that counts as reached; None where nothing is asked.
        critic: "shared" or "separate", as in `CausalLMPolicy`.
    """

    label: str
    train: Train
    settings: Mapping[str, Any]
    needed: float | None = None
    critic: Critic = "shared"


def fresh_policy(vocab_size: int, seed: int, critic: Critic = "shared") -> CausalLMPolicy:
    """Return an untrained float32 policy, the same for the same seed."""
    config = GPT2Config(
        vocab_size=vocab_size, n_positions=8, bos_token_id=1, eos_token_id=1, **MODEL
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return CausalLMPolicy(GPT2LMHeadModel(config).eval(), critic=critic, bfloat16=False)


def shaped_env(
    reference: CausalLMReference, beta: float, *, timing: str = "episode", **options: Any
) -> VectorReferenceKL:
    """Return the environment, paying beta * log pi_ref."""
    return VectorReferenceKL(gym.make_vec(ENV, **options), reference, beta, timing=timing)


def ours(
    learner: type[Any],
    config_class: type[Any],
    *,
    rows: int = 256,
    samples_per_prompt: int = 1,
    needed: float | None = None,
    critic: Critic = "shared",
    **settings: Any,
) -> Learner:
    """Return the row of a learner of `agents`.

    Args:
        learner: Its class.
        config_class: That of its settings.
        rows: Episodes a rollout.
        samples_per_prompt: Answers to each prompt.
        needed: As in `Learner`.
        critic: As in `Learner`.
        **settings: Of `config_class`, where they are not the defaults.
    """
    config = config_class(**settings)

    def train(policy: CausalLMPolicy, reference: CausalLMReference, beta: float, seed: int) -> None:
        venv = shaped_env(reference, beta, num_envs=rows, samples_per_prompt=samples_per_prompt)
        learner(policy, venv, config, seed=seed).learn(TOKENS)

    shown: dict[str, Any] = {"num_envs": rows}
    if learner.needs_groups:
        shown["samples_per_prompt"] = samples_per_prompt
    if learner.needs_critic:
        shown["critic"] = critic
    return Learner(learner.__name__, train, shown | settings, needed, critic)


def theirs(
    algorithm: type[Any], *, rows: int, critic: Critic = "shared", **settings: Any
) -> Learner:
    """Return the row of an algorithm of Stable-Baselines3, unmodified, on the same network.

    The environment pays it the reference's half of the KL token by token; the policy's half
    is left to `ent_coef=beta`.
    """

    def train(policy: CausalLMPolicy, reference: CausalLMReference, beta: float, seed: int) -> None:
        algorithm(
            CausalLMActorCriticPolicy,
            SB3VecEnv(shaped_env(reference, beta, timing="step", num_envs=rows)),
            policy_kwargs={"model": policy},
            ent_coef=beta,
            seed=seed,
            device="cpu",
            **settings,
        ).learn(TOKENS)

    shown = {"num_envs": rows, "critic": critic, "ent_coef": "beta", **settings}
    return Learner(f"Stable-Baselines3 {algorithm.__name__}", train, shown, critic=critic)


LEARNERS = {
    "ppo": ours(
        PPO,
        PPOConfig,
        needed=0.99,
        critic="separate",
        learning_rate=1e-3,
        batch_size=256,
        n_epochs=2,
        gae_lambda=1.0,
        clip_range_vf=None,
        vf_coef=0.5,
    ),
    "grpo": ours(
        GRPO,
        GRPOConfig,
        samples_per_prompt=4,
        needed=0.98,
        learning_rate=1e-3,
        batch_size=256,
        n_epochs=4,
        kl_in="reward",
        kl_estimator="k1",
        scale_rewards="none",
        loss_type="dr_grpo",
    ),
    "grpo-defaults": ours(
        GRPO, GRPOConfig, samples_per_prompt=4, learning_rate=1e-3, batch_size=256, n_epochs=4
    )._replace(label="GRPO, the paper's loss"),
    "rloo": ours(
        RLOO,
        RLOOConfig,
        samples_per_prompt=4,
        needed=0.98,
        learning_rate=1e-3,
        batch_size=256,
        n_epochs=2,
    ),
    "reinforce": ours(REINFORCE, REINFORCEConfig, needed=0.95, learning_rate=5e-4, batch_size=64),
    "sb3-ppo": theirs(
        stable_baselines3.PPO,
        rows=64,
        critic="separate",
        learning_rate=1e-3,
        n_steps=16,
        batch_size=512,
        n_epochs=4,
        gamma=1.0,
        gae_lambda=1.0,
        normalize_advantage=False,
    ),
}
"""By the name that `--only` takes."""
