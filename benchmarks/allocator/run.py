"""Seconds an update of PPO takes under different memory allocators, in turns, on one machine.

`python benchmarks/allocator/run.py --preload /usr/lib/x86_64-linux-gnu/libjemalloc.so.2 --write`
(about a quarter of an hour on two cores) trains two models for a few updates, in fresh processes:
with the C library as it is, with its two settings that keep memory, and with a library preloaded.
It writes README.md beside this file.
"""

import argparse
import importlib.metadata
import json
import os
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from agents.machine import machine

HERE = Path(__file__).parent
ENV = "textenvs/ContextSelect-v0"
PLAIN, KEEPING = "glibc", "glibc, nothing returned"
KEEPS = {
    "MALLOC_MMAP_MAX_": "0",
    "MALLOC_TRIM_THRESHOLD_": str(2**40),
    "MALLOC_TOP_PAD_": "67108864",
}
DECAY = "thp:always,dirty_decay_ms:20000,muzzy_decay_ms:20000"
CASES: dict[str, dict[str, Any]] = {
    "tiny-lm": {"lora": False, "num_envs": 128, "n_items": 8, "max_prompt_tokens": 208},
    "smollm2-135m": {"lora": True, "num_envs": 32, "n_items": 10, "max_prompt_tokens": 400},
}
WORDS = {
    "tiny-lm": "tiny-lm, all 2.8M parameters, 128 answers an update to lists of 8 titles",
    "smollm2-135m": "SmolLM2-135M with LoRA, 32 answers an update to lists of 10 titles",
}


def work(case: str, updates: int) -> None:
    """Train in this process; print what each update took and learned, a line of JSON each."""
    import gymnasium as gym

    import agents

    task = dict(CASES[case])
    policy = agents.CausalLMPolicy.from_pretrained(case, lora=task.pop("lora"))
    reference = policy.reference()
    task |= {"tokenizer": case, "max_new_tokens": 24, "reference": reference, "kl_coef": 0.02}
    venv = gym.make_vec(ENV, samples_per_prompt=8, **task)
    agent = agents.PPO(policy, venv, agents.PPOConfig(n_epochs=2, anneal=False), seed=0)

    def log(metrics: Mapping[str, float]) -> bool:
        seconds = sum(metrics[f"seconds_{part}"] for part in ("rollout", "reference", "update"))
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20  # GiB
        print(json.dumps([seconds, peak, metrics["policy_loss"], metrics["kl"]]), flush=True)
        return agent.num_updates < updates

    agent.learn(10**9, log)


@dataclass(frozen=True)
class Run:
    """One process.

    Attributes:
        seconds: Of each update.
        peak: The most memory resident at once, GiB.
        learned: Loss and KL of each update.
    """

    seconds: list[float]
    peak: float
    learned: list[list[float]]

    @property
    def last_half(self) -> float:
        """Seconds of the last half of the updates."""
        return sum(self.seconds[len(self.seconds) // 2 :])


def measure(case: str, variant: Mapping[str, str], updates: int) -> Run:
    """Train in a fresh process."""
    command = [sys.executable, __file__, "--work", case, "--updates", str(updates)]
    ended = subprocess.run(
        command, env={**os.environ, **variant}, check=True, capture_output=True, text=True
    )
    lines = [json.loads(line) for line in ended.stdout.splitlines()]
    return Run([line[0] for line in lines], lines[-1][1], [line[2:] for line in lines])


def report(library: str, runs: Mapping[str, Mapping[str, Sequence[Run]]]) -> str:
    """Return the figures as Markdown.

    Args:
        library: Name of the preloaded file.
        runs: Case -> variant -> one run a turn.
    """
    turns = len(next(iter(runs.values()))[PLAIN])
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in ("torch", "peft"))
    lines = [
        "# The allocator under training on processors",
        "",
        "Command: `python benchmarks/allocator/run.py "
        f"--preload {library} --turns {turns} --write`. "
        "Each line is a fresh process; the variants take turns.",
        "",
        f"Machine: {machine()}. {versions}. *{KEEPING}*: "
        + " ".join(f"`{name}={value}`" for name, value in KEEPS.items())
        + f". The preloaded library runs with `MALLOC_CONF={DECAY}`.",
        "",
    ]
    for case, variants in runs.items():
        lines += [
            f"## {WORDS[case]}",
            "",
            "| allocator | turn | seconds of each update | ratio | peak, GiB |",
            "|---|---|---|---|---|",
        ]
        for name, measured in variants.items():
            for turn, run in enumerate(measured):
                shown = " ".join(format(s, ".1f") for s in run.seconds)
                ratio = run.last_half / variants[library][turn].last_half
                lines.append(f"| {name} | {turn} | {shown} | {ratio:.2f} | {run.peak:.1f} |")
        pairs = zip(variants[PLAIN], variants[library], strict=True)
        told = median(plain.last_half / preloaded.last_half for plain, preloaded in pairs)
        lines += [
            "",
            "The ratio compares the last half of the updates with that of the preloaded run of "
            f"the turn. glibc as it is takes {told:.2f} times as long (median).",
            "",
        ]
    same = all(
        run.learned == variants[PLAIN][0].learned
        for variants in runs.values()
        for measured in variants.values()
        for run in measured
    )
    equal = "equal bit for bit" if same else "NOT equal"
    lines += [f"Losses and KL of all updates were {equal} under every allocator.", ""]
    return "\n".join(lines)


def main() -> None:
    """Measure in turns, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preload", help="a shared library: jemalloc's or tcmalloc's")
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write README.md beside this file")
    parser.add_argument("--work", choices=CASES, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.work, given.updates)
        return
    if not given.preload or not Path(given.preload).is_file():
        parser.error(f"--preload is the path of a shared library, got {given.preload!r}")
    library = Path(given.preload).name
    preloaded = {"LD_PRELOAD": given.preload, "MALLOC_CONF": DECAY}
    variants = {PLAIN: {}, KEEPING: KEEPS, library: preloaded}
    runs: dict[str, dict[str, list[Run]]] = {
        case: {name: [] for name in variants} for case in CASES
    }
    for turn in range(given.turns):
        order = list(variants) if turn % 2 == 0 else list(variants)[::-1]
        for case in CASES:
            for name in order:
                run = measure(case, variants[name], given.updates)
                runs[case][name].append(run)
                print(case, name, *(f"{s:.1f}" for s in run.seconds), flush=True)
    text = report(library, runs)
    print(text)
    if given.write:
        (HERE / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
