"""A new environment in a dozen lines: register it, check it, step it."""

import gymnasium as gym

import textenvs
from textenvs.checker import check

WORDS = ("salt", "bread", "water", "cheese")
prompts = [{"text": f"Ask politely for {word}:", "reference": f"{word}, please"} for word in WORDS]


def polite(prompt, completion):
    """Pay for the thing that was wanted, and for asking politely."""
    return float(completion.strip() == prompt.reference)


textenvs.register("me/Polite-v0", prompts=prompts, reward=polite, max_new_tokens=16)

for row in check("me/Polite-v0").rows:
    print(row)
env = gym.make("me/Polite-v0")
observation, info = env.reset(seed=0)
print(info["prompt"], env.unwrapped.oracle(env.unwrapped.prompts[0]))
