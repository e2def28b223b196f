"""Unmodified Stable-Baselines3 on our environments: how near to the exact optimum?

`python benchmarks/sb3_optimum/run.py` trains `PPO` on the environments whose optimum is known
and sb3-contrib's `MaskablePPO` on `ContextSelect-v0`, one seed after the other, and writes
README.md beside this file. A seed whose result is in the run folder is not run again.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy
from scipy import stats
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback

import agents
from agents.sb3 import TransformerExtractor
from textenvs.bridges.sb3 import SB3VecEnv
from textenvs.wrappers.action_mask import VectorActionMask

HERE = Path(__file__).parent
EXACT = ("textenvs/TokenBandit-v0", "textenvs/Enumerable-v0")
SELECT = "textenvs/ContextSelect-v0"
FIRST_SEED = 5
"""The settings were chosen on seeds 0 to 2 of `Enumerable-v0`; these are others."""

TIMESTEPS, NUM_ENVS = 100_000, 64
SETTINGS: dict[str, Any] = {
    "learning_rate": 3e-3,
    "n_steps": 16,
    "batch_size": 512,
    "n_epochs": 4,
    "gamma": 1.0,
    "gae_lambda": 0.95,
    "normalize_advantage": False,
}
ENTROPY = (0.08, 0.005)
"""Entropy coefficient at the start and at the end. Rewards lie in [0, 1]: at 0.08 the policy
looks around, at 0.005 it has settled. `normalize_advantage` is off because it would
rescale the rewards, and so this trade-off, at every batch."""

SELECT_TASK: dict[str, Any] = {
    "n_items": 6,
    "max_prompt_tokens": 256,
    "reward": "context-match-f1",
}
SELECT_TIMESTEPS, SELECT_ENVS, SELECT_PROMPTS = 16_384, 32, 200
SELECT_SETTINGS = {**SETTINGS, "learning_rate": 1e-3, "n_epochs": 2, "batch_size": 256}


class EntropyAnneal(BaseCallback):
    """Moves `ent_coef` linearly from its first value to its last: exploration, then none."""

    def __init__(self, first: float, last: float) -> None:
        """Remember both ends."""
        super().__init__()
        self.first, self.last = first, last

    def _on_rollout_start(self) -> None:
        remaining = self.model._current_progress_remaining
        self.model.ent_coef = self.last + (self.first - self.last) * remaining

    def _on_step(self) -> bool:
        return True


def small_transformer(width: int) -> dict[str, Any]:
    """Return the `policy_kwargs` of a transformer of one layer."""
    return {
        "features_extractor_class": TransformerExtractor,
        "features_extractor_kwargs": {"width": width, "n_layers": 1},
    }


def run_exact(env_id: str, seed: int) -> dict[str, float]:
    """Train PPO and return its reward over all prompts as a share of the optimum.

    Returns:
        `untrained` and `sampled`, the exact expected reward of the policy as it samples;
        `greedy`, that of its likeliest answers; `seconds` of processor time in training.
    """
    env: Any = gym.make(env_id).unwrapped
    venv = SB3VecEnv(gym.make_vec(env_id, num_envs=NUM_ENVS))
    model = PPO(
        "MultiInputPolicy",
        venv,
        policy_kwargs=small_transformer(32),
        seed=seed,
        device="cpu",
        **SETTINGS,
    )
    optimum = float(env.optimum(0.0))
    policy = env.completions.stepwise(next_logprobs(model))
    untrained = env.objective(policy)
    began = time.process_time()
    model.learn(TIMESTEPS, EntropyAnneal(*ENTROPY))
    seconds = time.process_time() - began
    greedy = agents.evaluate(model, env, len(env.prompts))["reward"].mean
    return {
        "untrained": untrained / optimum,
        "sampled": env.objective(policy) / optimum,
        "greedy": greedy / optimum,
        "seconds": seconds,
    }


def next_logprobs(model: Any) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the policy's distribution of the next token as a function of observations."""

    @torch.no_grad()
    def logprobs(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        observation = {
            "input_ids": torch.from_numpy(input_ids),
            "attention_mask": torch.from_numpy(attention_mask),
        }
        distribution = model.policy.get_distribution(observation).distribution
        return distribution.logits.double().log_softmax(-1).numpy()

    return logprobs


def masked_env(split: str) -> SB3VecEnv:
    """Return `ContextSelect-v0` in which only listed titles can be said."""
    venv = gym.make_vec(SELECT, num_envs=SELECT_ENVS, split=split, **SELECT_TASK)
    return SB3VecEnv(VectorActionMask(venv, "context-trie"))


def run_select(seed: int) -> dict[str, float]:
    """Train MaskablePPO with the mask of listed titles.

    Returns:
        Mean reward and gold metrics of greedy answers to prompts of the test split, before
        training (`untrained/...`) and after (`trained/...`); `seconds` of processor time in
        training.
    """
    model = MaskablePPO(
        "MultiInputPolicy",
        masked_env("train"),
        policy_kwargs=small_transformer(64),
        seed=seed,
        device="cpu",
        **SELECT_SETTINGS,
    )
    measured = {f"untrained/{k}": v for k, v in held_out(model).items()}
    began = time.process_time()
    model.learn(SELECT_TIMESTEPS, EntropyAnneal(*ENTROPY))
    measured["seconds"] = time.process_time() - began
    return measured | {f"trained/{k}": v for k, v in held_out(model).items()}


def held_out(model: Any) -> dict[str, float]:
    """Return the mean reward and gold metrics of greedy answers to test prompts."""
    told: list[dict[str, float]] = []

    def note(seen: dict[str, Any], _: Any) -> None:
        info = seen["info"]
        if seen["done"]:
            told.append({"reward": info["episode"]["r"], **info["metrics"]})

    venv = masked_env("test")
    venv.seed(0)
    evaluate_policy(model, venv, SELECT_PROMPTS, deterministic=True, callback=note)
    return {name: float(np.mean([each[name] for each in told])) for name in told[0]}


def kept(path: Path, run: Callable[[], dict[str, float]]) -> dict[str, float]:
    """Return the result in a file, running for it and writing it if need be."""
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        result = run()
        path.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def interval(values: list[float], digits: int = 3) -> str:
    """Return the mean with its 95% Student interval, in words where all values are equal."""
    mean = float(np.mean(values))
    if np.ptp(values) == 0:
        return f"{mean:.{digits}f} (all equal)"
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=stats.sem(values))
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def machine() -> str:
    """Return the machine and the packages in words."""
    packages = ("gymnasium", "numpy", "torch", "stable-baselines3", "sb3-contrib")
    threads = torch.get_num_threads()
    return (
        f"{platform.machine()}, {os.cpu_count()} processors, CPU only, {threads} thread"
        f"{'' if threads == 1 else 's'}. " + ", ".join(f"{p} {version(p)}" for p in packages)
    )


def exact_section(results: dict[str, list[dict[str, float]]]) -> list[str]:
    """Return the lines on the environments with a known optimum."""
    lines = [
        "## PPO on environments with a known optimum",
        "",
        "Stable-Baselines3's `PPO`, unmodified, with `TransformerExtractor` (one layer, width "
        f"32), {TIMESTEPS:,} steps in {NUM_ENVS} environments, no KL term. Settings: "
        + ", ".join(f"`{k}={v}`" for k, v in SETTINGS.items())
        + f"; `ent_coef` goes from {ENTROPY[0]} to {ENTROPY[1]} by a callback. They are the same "
        "for both environments, and were chosen on seeds 0 to 2 of `Enumerable-v0`.",
        "",
        "The reward over all prompts as a share of `optimum(0.0)`. *Sampled* is the exact "
        "expectation of the policy as it samples, by enumeration; *greedy* is of its likeliest "
        "answers.",
        "",
        "| environment | seed | untrained, sampled | sampled | greedy | processor seconds |",
        "|---|---|---|---|---|---|",
    ]
    for env_id, runs in results.items():
        for seed, run in enumerate(runs, FIRST_SEED):
            shares = " | ".join(f"{run[k]:.4f}" for k in ("untrained", "sampled", "greedy"))
            lines.append(f"| `{env_id}` | {seed} | {shares} | {run['seconds']:.0f} |")
    lines += ["", "Means over seeds, with 95% Student intervals:", ""]
    lines += ["| environment | sampled | greedy |", "|---|---|---|"]
    for env_id, runs in results.items():
        cells = [interval([run[k] for run in runs], 4) for k in ("sampled", "greedy")]
        lines.append(f"| `{env_id}` | {' | '.join(cells)} |")
    return lines


def select_section(runs: list[dict[str, float]]) -> list[str]:
    """Return the lines on MaskablePPO."""
    task = ", ".join(f"`{k}={v!r}`" for k, v in SELECT_TASK.items())
    changed = ", ".join(f"`{k}={v}`" for k, v in SELECT_SETTINGS.items() if SETTINGS[k] != v)
    lines = [
        "",
        "## MaskablePPO on ContextSelect-v0",
        "",
        f"sb3-contrib's `MaskablePPO`, unmodified, on `{SELECT}` ({task}) under the mask "
        '`"context-trie"`: only listed titles can be said. `TransformerExtractor` from scratch '
        f"(one layer, width 64), {SELECT_TIMESTEPS:,} steps in {SELECT_ENVS} environments. "
        f"Settings: {changed}, the rest as above. Greedy answers to {SELECT_PROMPTS} prompts of "
        f"the test split; means over {len(runs)} seeds, with 95% Student intervals.",
        "",
        "| | untrained | trained |",
        "|---|---|---|",
    ]
    names = [name.partition("/")[2] for name in runs[0] if name.startswith("trained/")]
    for name in names:
        cells = [
            interval([run[f"{when}/{name}"] for run in runs]) for when in ("untrained", "trained")
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    seconds = ", ".join(f"{run['seconds']:.0f}" for run in runs)
    lines += [
        "",
        f"Processor seconds of training, by seed: {seconds}. This shows that the parts work "
        "together, not how far masking can carry. The mask sees to it that a title is listed; "
        "which of them is right has to be read from the prompt, by a network that starts from "
        "nothing. `copied_fraction` is the share of the list that is repeated: where it rises "
        "and `precision` hardly does, the policy names more titles without choosing better.",
        "",
    ]
    return lines


def main() -> None:
    """Run the seeds and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--select-seeds", type=int, default=3)
    parser.add_argument("--runs", type=Path, default=Path("runs/sb3_optimum"))
    given = parser.parse_args()
    seeds = range(FIRST_SEED, FIRST_SEED + given.seeds)
    exact = {
        env_id: [
            kept(
                given.runs / f"{env_id.partition('/')[2]}-{seed}.json",
                lambda env_id=env_id, seed=seed: run_exact(env_id, seed),
            )
            for seed in seeds
        ]
        for env_id in EXACT
    }
    select = [
        kept(given.runs / f"ContextSelect-{seed}.json", lambda seed=seed: run_select(seed))
        for seed in range(given.select_seeds)
    ]
    lines = [
        "# Stable-Baselines3 against the exact optimum",
        "",
        "Command: `OMP_NUM_THREADS=1 python benchmarks/sb3_optimum/run.py`.",
        "",
        f"Machine: {machine()}.",
        "",
        *exact_section(exact),
        *select_section(select),
    ]
    (HERE / "README.md").write_text("\n".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
