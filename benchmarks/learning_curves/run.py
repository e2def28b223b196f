"""Learning curves on ContextSelect-v0: our agents, Stable-Baselines3's PPO and TRL's GRPO.

`python benchmarks/learning_curves/run.py --jobs 2 --write` fine-tunes one model a seed on right
answers, lets every agent go on from it, each in a process and thread of its own, and writes
README.md and curves.svg beside this file. What is in the output folder is not run again, so an
interrupted run goes on where it was, and `--agents` runs some of them now and others later. A
run that fails is a row of the report.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from report import write_report

HERE = Path(__file__).parent
AGENTS = ("PPO", "NLPO", "GRPO", "RLOO", "SB3-PPO", "TRL-GRPO")
SFT = "SFT"
ERROR_LINES = 20


def run_one(name: str, seed: int, out: Path) -> None:
    """Train one agent on one seed, or make the model they begin with, in this process."""
    import torch

    torch.set_num_threads(1)
    if name == SFT:
        fine_tune(seed, out / "sft" / str(seed))
        return
    from learners import TRAINERS

    result = TRAINERS[name](name, out / "sft" / str(seed), seed)
    write(result_file(out, name, seed), json.dumps({"agent": name, "seed": seed, **result}))


def fine_tune(seed: int, folder: Path) -> None:
    """Save the shipped model after the demo's supervised fine-tuning."""
    import gymnasium as gym
    from curve import ENV_ID, TASK

    from agents.command_line.settings import DemoSettings
    from agents.demo import SFT as SETTINGS
    from agents.fine_tuning import sft
    from agents.policy import CausalLMPolicy

    began = time.perf_counter()
    policy = CausalLMPolicy.from_pretrained("tiny-lm")
    config = dataclasses.replace(SETTINGS, steps=DemoSettings().sft_steps)
    sft(policy, gym.make(ENV_ID, **TASK), config, seed=seed)
    policy.save_pretrained(folder)
    seconds = {"seconds": time.perf_counter() - began, "steps": config.steps}
    write(folder / "done.json", json.dumps(seconds))


def run_apart(name: str, seed: int, out: Path) -> None:
    """Do `run_one` in a process of its own; keep the end of what it printed if it fails."""
    done = out / "sft" / str(seed) / "done.json" if name == SFT else result_file(out, name, seed)
    error = out / f"{name}-{seed}.error.txt"
    if done.is_file():
        return
    command = [sys.executable, __file__, "--out", str(out), "--one", name, str(seed)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    finished = subprocess.run(command, capture_output=True, text=True, env=environment)
    seconds = time.perf_counter() - began
    if finished.returncode == 0 and done.is_file():
        error.unlink(missing_ok=True)
        print(f"{name} seed {seed}: {seconds:.0f} s", flush=True)
        return
    last = finished.stderr.strip().splitlines()[-ERROR_LINES:]
    write(error, "\n".join(last or [f"exit code {finished.returncode}"]) + "\n")
    print(f"{name} seed {seed} failed after {seconds:.0f} s, see {error}", flush=True)


def run_all(names: Iterable[str], seeds: range, jobs: int, out: Path) -> None:
    """Make the models to begin with, then train every agent on every seed."""
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda seed: run_apart(SFT, seed, out), seeds))
        pairs = [(name, seed) for name in names for seed in seeds]
        list(pool.map(lambda pair: run_apart(*pair, out), pairs))


def collect(out: Path, seeds: range) -> dict[str, list[dict[str, Any]]]:
    """Return what each agent's runs gave: a result, or `seed` and `error`."""
    found: dict[str, list[dict[str, Any]]] = {}
    for name in AGENTS:
        for seed in seeds:
            file, error = result_file(out, name, seed), out / f"{name}-{seed}.error.txt"
            if file.is_file():
                found.setdefault(name, []).append(json.loads(file.read_text(encoding="utf-8")))
            elif error.is_file():
                why = error.read_text(encoding="utf-8").strip().splitlines()[-1]
                found.setdefault(name, []).append({"agent": name, "seed": seed, "error": why})
    return found


def result_file(out: Path, name: str, seed: int) -> Path:
    """Return where the result of a run is kept."""
    return out / f"{name}-{seed}.json"


def write(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.partial-{os.getpid()}")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def main() -> None:
    """Run what is missing; with --write, report what there is."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", nargs="+", choices=AGENTS, default=AGENTS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1, help="runs side by side, a thread each")
    parser.add_argument("--out", type=Path, default=Path("runs/learning_curves"))
    parser.add_argument("--write", action="store_true", help="write README.md and curves.svg")
    parser.add_argument("--one", nargs=2, metavar=("AGENT", "SEED"), help="a single run, in here")
    given = parser.parse_args()
    given.out = given.out.resolve()
    if given.one:
        run_one(given.one[0], int(given.one[1]), given.out)
        return
    seeds = range(given.seeds)
    run_all(given.agents, seeds, given.jobs, given.out)
    if given.write:
        write_report(collect(given.out, seeds), HERE, given.jobs)


if __name__ == "__main__":
    main()
