"""Token-steps a second of the environments, without any model: `python benchmarks/env_speed.py`.

Every figure is the median of several rounds in one process, the kinds taking turns, so that
whatever else the machine does falls on all of them alike.
"""

import argparse
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import gymnasium as gym
import numpy as np

import textenvs
from textenvs.prompts import PromptList
from textenvs.vector_env import TextVectorEnv

ID = "textenvs/ContextSelect-v0"
ROWS, COLUMNS, NEW_TOKENS = 64, 512, 32
TASK = {"max_prompt_tokens": COLUMNS - NEW_TOKENS, "max_new_tokens": NEW_TOKENS}
FEW, MANY = 10, 300_000
CHUNK = 128


def main() -> None:
    """Measure every kind and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0)
    given = parser.parse_args()
    kinds: dict[str, Callable[[float], float]] = {
        "numpy copy alone: 64 rows, an upper bound": copy_alone(),
        "native vector environment, 64 rows": stepping(native(FEW), ROWS),
        "`SyncVectorEnv`, 8 rows": stepping(
            gym.make_vec(ID, 8, vectorization_mode="sync", n_prompts=FEW, **TASK), 8
        ),
        "single environment (`unwrapped`)": stepping_alone(),
        f"native, a list of {FEW} prompts": stepping(listed(FEW), ROWS),
        f"native, a list of {MANY:,} prompts": stepping(listed(MANY), ROWS),
        f"native, {MANY:,} prompts made as they are drawn": stepping(native(MANY), ROWS),
    }
    rates: dict[str, list[float]] = {name: [] for name in kinds}
    for _ in range(given.rounds):
        for name, run in kinds.items():
            rates[name].append(run(given.seconds))
    print(f"textenvs {textenvs.__version__}, gymnasium {gym.__version__}, numpy {np.__version__}\n")
    print("| | token-steps/s, median | lowest | highest |\n|---|---:|---:|---:|")
    for name, found in rates.items():
        print(f"| {name} | {median(found):,.0f} | {min(found):,.0f} | {max(found):,.0f} |")
    few, many = (rates[f"native, a list of {n:,} prompts"] for n in (FEW, MANY))
    ratios = [a / b for a, b in zip(few, many, strict=True)]
    print(f"\nCost a step with {MANY:,} prompts over cost with {FEW}: {median(ratios):.2f}")


def native(n_prompts: int) -> TextVectorEnv:
    """Return the default environment with the default rule reward."""
    made: Any = gym.make_vec(ID, ROWS, n_prompts=n_prompts, **TASK)
    return made


def listed(n_prompts: int) -> TextVectorEnv:
    """Return an environment over a list of prompts held in memory."""
    texts = [f"Question {i}: which of the two is the larger number?" for i in range(n_prompts)]
    return TextVectorEnv(PromptList(texts), length_reward, num_envs=ROWS, **TASK)  # type: ignore[arg-type]


def length_reward(prompt: Any, completion: str) -> float:
    """Score an answer by its length."""
    return float(len(completion))


def tokens_for(vocab_size: int, rows: int) -> np.ndarray:
    """Return random tokens [CHUNK, rows], as an untrained policy would say."""
    return np.random.default_rng(0).integers(2, vocab_size, (CHUNK, rows))


def stepping(venv: Any, rows: int) -> Callable[[float], float]:
    """Return a function that steps a vector environment for some seconds."""
    actions = tokens_for(int(venv.single_action_space.n), rows)
    venv.reset(seed=0)

    def play() -> None:
        for tokens in actions:
            venv.step(tokens)

    return lambda seconds: rows * CHUNK * repeats(play, seconds)


def stepping_alone() -> Callable[[float], float]:
    """Return a function that steps a single environment, resets included."""
    env: Any = gym.make(ID, n_prompts=FEW, **TASK).unwrapped
    actions = tokens_for(int(env.action_space.n), 1)[:, 0].tolist()
    env.reset(seed=0)

    def play() -> None:
        for action in actions:
            if env.step(action)[2]:
                env.reset()

    return lambda seconds: CHUNK * repeats(play, seconds)


def copy_alone() -> Callable[[float], float]:
    """Return a function that writes a token a row and copies the buffers: the least there is."""
    ids, mask = np.zeros((ROWS, COLUMNS), np.int64), np.zeros((ROWS, COLUMNS), np.int8)
    rows, actions = np.arange(ROWS), tokens_for(5000, ROWS)

    def play() -> None:
        for t, tokens in enumerate(actions):
            ids[rows, t % COLUMNS] = tokens
            mask[rows, t % COLUMNS] = 1
            ids.copy(), mask.copy()

    return lambda seconds: ROWS * CHUNK * repeats(play, seconds)


def repeats(play: Callable[[], Any], seconds: float) -> float:
    """Return how often a second `play` can be called."""
    play()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        play()
        count += 1
    return count / (time.perf_counter() - began)


if __name__ == "__main__":
    main()
