"""A random policy that can only say what is listed. Needs neither torch nor a network."""

import gymnasium as gym
import numpy as np

import textenvs  # noqa: F401  # registers the environments
from textenvs.masks import ContextTrie
from textenvs.wrappers.action_mask import ActionMask

env = ActionMask(
    gym.make("textenvs/ContextSelect-v0", n_items=6), ContextTrie(max_items=2, allow_empty=False)
)
generator = np.random.default_rng(0)
observation, info = env.reset(seed=0)
print(info["prompt"])

terminated = False
while not terminated:
    token = generator.choice(np.flatnonzero(env.action_masks()))
    observation, reward, terminated, truncated, info = env.step(token)

print(info["completion"])
print(f"reward {reward}, listed {info['metrics']['listed']}")
