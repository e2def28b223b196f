"""The learners that are compared, each with its settings, from the same saved model on."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
from curve import ENV_ID, TASK, Curve
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnvWrapper

from agents.command_line.catalogue import find_learner
from agents.policy import CausalLMPolicy
from agents.sb3 import CausalLMActorCriticPolicy
from textenvs.bridges.sb3 import SB3VecEnv
from textenvs.wrappers.reference_kl import VectorReferenceKL

UPDATES, BATCH_EPISODES, EVALUATE_EVERY = 24, 64, 6
EPISODES = UPDATES * BATCH_EPISODES
GROUP_SIZE = 8
KL_COEF = 0.02

CLIPPED = {"n_epochs": 2, "batch_size": 64, "gae_lambda": 1.0, "learning_rate": 1.5e-4}
OURS: dict[str, dict[str, Any]] = {
    "PPO": CLIPPED,
    "NLPO": CLIPPED,
    "GRPO": {"n_epochs": 2, "batch_size": 64, "learning_rate": 1.5e-4},
    "RLOO": {"n_epochs": 2, "batch_size": 64, "learning_rate": 1.5e-4},
}
"""What differs from the defaults of each agent's config; `anneal` is off in all."""

SB3_ENVS = 16
SB3_SECONDS = 90.0
"""Stable-Baselines3 stops after so many seconds of training if it is not done by then."""

SB3: dict[str, Any] = {
    "learning_rate": 1.5e-4,
    "n_steps": 32,
    "batch_size": 128,
    "n_epochs": 2,
    "gamma": 1.0,
    "gae_lambda": 1.0,
    "vf_coef": 0.1,
}

TRL: dict[str, Any] = {"num_iterations": 2, "learning_rate": 1.5e-4, "beta": KL_COEF}


def train_ours(name: str, folder: Path, seed: int) -> dict[str, Any]:
    """Train one of our agents; return its settings and its curve."""
    learner = find_learner(name)
    policy = CausalLMPolicy.from_pretrained(folder)
    samples = GROUP_SIZE if learner.needs_groups else 1
    venv = gym.make_vec(ENV_ID, num_envs=BATCH_EPISODES, samples_per_prompt=samples, **TASK)
    shaped = VectorReferenceKL(venv, policy.reference(), KL_COEF)
    config = learner.config_class(anneal=False, **OURS[name])
    agent = learner(policy, shaped, config, seed=seed)
    curve = Curve(agent)
    curve.measure(0, 0)
    for update in range(1, UPDATES + 1):
        agent.step()
        if update % EVALUATE_EVERY == 0:
            curve.measure(update * BATCH_EPISODES, agent.num_timesteps)
    settings = {**OURS[name], "kl_coef": KL_COEF, "bfloat16": policy.use_bfloat16}
    return curve.result(settings | ({"samples_per_prompt": samples} if samples > 1 else {}))


class EpisodeCounter(VecEnvWrapper):
    """Counts the episodes that end.

    Attributes:
        episodes: So far.
    """

    episodes = 0

    def reset(self) -> Any:
        """Reset the environment; the count goes on."""
        return self.venv.reset()

    def step_wait(self) -> Any:
        """Step, and count."""
        observation, rewards, dones, infos = self.venv.step_wait()
        self.episodes += int(dones.sum())
        return observation, rewards, dones, infos


def train_sb3(name: str, folder: Path, seed: int) -> dict[str, Any]:
    """Train Stable-Baselines3's PPO, unmodified, for the same episodes or `SB3_SECONDS`.

    A point is measured when the share of episodes or of seconds is reached. The language model
    inside is what answers then: the same greedy answers, with a cache.
    """
    venv = EpisodeCounter(SB3VecEnv(gym.make_vec(ENV_ID, num_envs=SB3_ENVS, **TASK)))
    model = PPO(
        CausalLMActorCriticPolicy,
        venv,
        policy_kwargs={"model": str(folder)},
        seed=seed,
        device="cpu",
        **SB3,
    )
    curve = Curve(model.policy.lm)
    curve.measure(0, 0)
    parts = UPDATES // EVALUATE_EVERY
    while len(curve.points) <= parts:
        model.learn(SB3["n_steps"] * SB3_ENVS, reset_num_timesteps=False)
        share = len(curve.points) / parts
        if venv.episodes >= share * EPISODES or curve.seconds >= share * SB3_SECONDS:
            curve.measure(venv.episodes, model.num_timesteps)
    return curve.result({**SB3, "num_envs": SB3_ENVS, "bfloat16": False})


def train_trl(name: str, folder: Path, seed: int) -> dict[str, Any]:
    """Train TRL's GRPO through the bridge."""
    from trl_grpo import TRLSettings, train_trl_grpo

    settings = TRLSettings(
        updates=UPDATES,
        batch_episodes=BATCH_EPISODES,
        num_generations=GROUP_SIZE,
        evaluate_every=EVALUATE_EVERY,
        **TRL,
    )
    return train_trl_grpo(folder, seed, settings)


TRAINERS: dict[str, Callable[[str, Path, int], dict[str, Any]]] = {
    **dict.fromkeys(OURS, train_ours),
    "SB3-PPO": train_sb3,
    "TRL-GRPO": train_trl,
}
"""Name in the table -> how it is trained."""
