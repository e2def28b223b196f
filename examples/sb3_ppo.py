"""Stable-Baselines3's own PPO on `textenvs/Enumerable-v0`, from scratch, within a minute."""

import sys

import gymnasium as gym
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

import textenvs  # noqa: F401  # registers the environments
from agents.sb3 import TransformerExtractor
from textenvs.bridges.sb3 import SB3VecEnv

ID = "textenvs/Enumerable-v0"
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 60_000

venv = SB3VecEnv(gym.make_vec(ID, num_envs=64))
model = PPO(
    "MultiInputPolicy",
    venv,
    policy_kwargs={"features_extractor_class": TransformerExtractor},
    **{"n_steps": 16, "batch_size": 512, "n_epochs": 4, "learning_rate": 3e-3},
    **{"gamma": 1.0, "ent_coef": 0.03, "normalize_advantage": False, "seed": 0, "device": "cpu"},
)
model.learn(steps)

mean, deviation = evaluate_policy(model, venv, n_eval_episodes=256)
best = float(gym.make(ID).unwrapped.optimum())
print(f"mean reward {mean:.3f} of at most {best:.3f} after {model.num_timesteps} tokens")
