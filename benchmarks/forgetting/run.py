"""Does PPO-ptx keep what pretraining taught? Perplexity and reward, with the mix and without.

`OMP_NUM_THREADS=1 python benchmarks/forgetting/run.py --jobs 2 --write` reads the titles of the
films as running text, fine-tunes on right answers, and lets PPO go on from that one model with
every coefficient and seed; then it writes README.md beside this file. What stands in the output
folder is not run again.
"""

import argparse
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

HERE = Path(__file__).parent
ENV = "textenvs/ContextSelect-v0"
TASK = {"n_items": 8, "max_prompt_tokens": 208, "reward": "context-match-f1"}
TEXT = "films"
COEFFICIENTS = (0.0, 0.1, 0.5)
SEEDS = range(5)
PRETRAINING_STEPS, SFT_STEPS, UPDATES = 60, 60, 32
ROWS, KL_COEF, LEARNING_RATE = 64, 0.02, 1.5e-4
PROMPTS, TEXTS = 300, 300
PACKAGES = ("textenvs", "gymnasium", "numpy", "torch", "transformers")
METRICS = {"perplexity": 2, "reward": 3, "correct": 3}


def begin(folder: Path) -> None:
    """Make the model that every run begins with, and measure it."""
    import gymnasium as gym

    import agents
    from agents.pretraining_texts import pretraining_texts

    policy = agents.CausalLMPolicy.from_pretrained("tiny-lm")
    env = gym.make(ENV, **TASK)
    reading = agents.PretrainingConfig(steps=PRETRAINING_STEPS, learning_rate=2e-4)
    agents.pretrain(policy, env.unwrapped.tokenizer, pretraining_texts(TEXT), reading)
    agents.sft(policy, env, agents.SFTConfig(steps=SFT_STEPS, learning_rate=3e-4))
    policy.save_pretrained(folder / "begin")
    _keep(folder / "begin.json", measure(policy))


def train(coefficient: float, seed: int, folder: Path) -> None:
    """Train by PPO with a coefficient of the mix and measure what came out."""
    import gymnasium as gym

    import agents
    from agents.pretraining_mix import PretrainingMix
    from agents.pretraining_texts import pretraining_texts
    from textenvs.wrappers.reference_kl import VectorReferenceKL

    policy = agents.CausalLMPolicy.from_pretrained(folder / "begin")
    venv = gym.make_vec(ENV, num_envs=ROWS, **TASK)
    mix = None
    if coefficient:
        tokenizer = venv.unwrapped.tokenizer
        mix = PretrainingMix(pretraining_texts(TEXT), tokenizer, seed=seed)
    config = agents.PPOConfig(
        learning_rate=LEARNING_RATE,
        anneal=False,
        n_epochs=2,
        batch_size=64,
        gae_lambda=1.0,
        ptx_coef=coefficient,
    )
    shaped = VectorReferenceKL(venv, policy.reference(), KL_COEF)
    agent = agents.PPO(policy, shaped, config, seed=seed, pretraining=mix)
    agent.learn(UPDATES * ROWS * 1_000, lambda metrics: agent.num_updates < UPDATES)
    _keep(folder / f"{coefficient}-{seed}.json", measure(policy))


def measure(policy: Any) -> dict[str, float]:
    """Return perplexity on held-out titles, and reward and `correct` on held-out lists."""
    import agents
    from agents.perplexity import perplexity
    from agents.pretraining_texts import pretraining_texts

    texts = pretraining_texts(TEXT, "held-out")[:TEXTS]
    table = agents.evaluate(policy, ENV, PROMPTS, env_kwargs=TASK)
    found = {name: table[name].mean for name in ("reward", "correct")}
    return {"perplexity": perplexity(policy, policy.tokenizer, texts).mean, **found}


def _keep(path: Path, values: dict[str, float]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(values) + "\n", encoding="utf-8")
    partial.replace(path)


def _interval(values: np.ndarray) -> tuple[float, float, float]:
    spread = stats.sem(values) * stats.t.ppf(0.975, len(values) - 1)
    return float(values.mean()), float(values.mean() - spread), float(values.mean() + spread)


def report(folder: Path, jobs: int) -> str:
    """Return the page."""
    start = json.loads((folder / "begin.json").read_text(encoding="utf-8"))
    runs = {
        coefficient: [
            json.loads((folder / f"{coefficient}-{seed}.json").read_text(encoding="utf-8"))
            for seed in SEEDS
        ]
        for coefficient in COEFFICIENTS
    }
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    lines = [
        "# Forgetting, with the pretraining mix and without",
        "",
        f"Command: `OMP_NUM_THREADS=1 python benchmarks/forgetting/run.py --jobs {jobs} --write`.",
        "",
        f"`tiny-lm` reads the titles of the films with their genres as running text "
        f"({PRETRAINING_STEPS} steps), is fine-tuned on right answers ({SFT_STEPS} steps), and "
        f"goes on by PPO for {UPDATES} updates of {ROWS} answers on lists of 8 films. All runs "
        "begin from that one model. With the mix (`ptx_coef`, InstructGPT's PPO-ptx) every "
        "optimiser step also predicts 8 blocks of 128 tokens of the text. Perplexity a token is "
        f"of {TEXTS} held-out titles, reward and `correct` of greedy answers to {PROMPTS} "
        "held-out lists; no title is in two splits.",
        "",
        f"Machine: {platform.machine()}, {os.cpu_count()} processors, CPU only, one thread a run. "
        f"{versions}.",
        "",
        f"Means over {len(SEEDS)} seeds with 95% Student intervals:",
        "",
        "| ptx_coef | " + " | ".join(METRICS) + " |",
        "|---" * (len(METRICS) + 1) + "|",
    ]
    began = [f"{start[name]:.{n}f}" if name in start else "" for name, n in METRICS.items()]
    lines.append(f"| before PPO | {' | '.join(began)} |")
    columns = {
        coefficient: {name: np.array([run[name] for run in each]) for name in METRICS}
        for coefficient, each in runs.items()
    }
    for coefficient, column in columns.items():
        cells = [_cell(_interval(column[name]), n) for name, n in METRICS.items()]
        lines.append(f"| {coefficient:g} | {' | '.join(cells)} |")
    lines += ["", "With the mix minus without, seed by seed:", ""]
    for coefficient in COEFFICIENTS[1:]:
        gains = {
            name: _cell(_interval(columns[coefficient][name] - columns[0.0][name]), n, "+")
            for name, n in METRICS.items()
        }
        told = ", ".join(f"{name} {cell}" for name, cell in gains.items())
        lines.append(f"- `ptx_coef={coefficient:g}`: {told}.")
    return "\n".join(lines) + "\n"


def _cell(interval: tuple[float, float, float], digits: int, sign: str = "") -> str:
    mean, low, high = (f"{value:{sign}.{digits}f}" for value in interval)
    return f"{mean} [{low}, {high}]"


def main() -> None:
    """Run what is not there yet, then print or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, a thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/forgetting"))
    parser.add_argument("--write", action="store_true", help="write README.md beside this file")
    parser.add_argument("--one", nargs=2, metavar=("COEF", "SEED"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if given.one is not None:
        train(float(given.one[0]), int(given.one[1]), given.out)
        return
    if not (given.out / "begin.json").is_file():
        begin(given.out)
    wanted = [(str(c), str(s)) for s in SEEDS for c in COEFFICIENTS]
    missing = [each for each in wanted if not (given.out / f"{'-'.join(each)}.json").is_file()]

    def run(each: tuple[str, str]) -> None:
        command = [sys.executable, __file__, "--out", str(given.out), "--one", *each]
        subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})

    with ThreadPoolExecutor(given.jobs) as pool:
        list(pool.map(run, missing))
    page = report(given.out, given.jobs)
    print(page)
    if given.write:
        (HERE / "README.md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
