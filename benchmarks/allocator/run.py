"""Seconds an update under two memory allocators, in turns, on one machine.

`python benchmarks/allocator/run.py --preload /usr/lib/x86_64-linux-gnu/libjemalloc.so.2 --write`
(about 10 minutes on two cores) trains SmolLM2-135M with LoRA for a few updates of PPO on lists of
titles, without and with the given library preloaded, and writes README.md beside this file.
"""

import argparse
import importlib.metadata
import os
import platform
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ENV = "textenvs/ContextSelect-v0"
PARTS = ("rollout", "reference", "update")


def work(updates: int) -> None:
    """Train in this process; print the seconds of each update, a line each."""
    import gymnasium as gym

    import agents

    policy = agents.CausalLMPolicy.from_pretrained("smollm2-135m", lora=True)
    task = {"n_items": 10, "max_prompt_tokens": 400, "max_new_tokens": 24}
    venv = gym.make_vec(
        ENV,
        num_envs=32,
        samples_per_prompt=8,
        tokenizer="smollm2-135m",
        reference=policy.reference(),
        kl_coef=0.02,
        **task,
    )
    agent = agents.PPO(policy, venv, agents.PPOConfig(n_epochs=2, anneal=False), seed=0)

    def log(metrics: dict[str, float]) -> bool:
        print(*(f"{metrics[f'seconds_{part}']:.2f}" for part in PARTS), flush=True)
        return agent.num_updates < updates

    agent.learn(10**9, log)


def measure(library: str, updates: int) -> list[float]:
    """Return the seconds of each update in a fresh process, with a library preloaded or none."""
    environment = {**os.environ, "LD_PRELOAD": library}
    command = [sys.executable, __file__, "--work", "--updates", str(updates)]
    ended = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    seconds = [sum(map(float, line.split())) for line in ended.stdout.splitlines()]
    print(Path(library).name or "the C library", *(f"{s:.1f}" for s in seconds), flush=True)
    return seconds


def report(library: str, turns: list[tuple[list[float], list[float]]]) -> str:
    """Return the figures as Markdown."""
    name = Path(library).name
    libc = " ".join(platform.libc_ver())
    versions = ", ".join(f"{n} {importlib.metadata.version(n)}" for n in ("torch", "peft"))
    updates = len(turns[0][0])
    half = updates // 2
    lines = [
        "# The allocator under training on processors",
        "",
        f"Command: `python benchmarks/allocator/run.py --preload {name} --write`, "
        f"{len(turns)} turns of both in fresh processes.",
        "",
        "PPO on `ContextSelect-v0` with SmolLM2-135M and LoRA: lists of 10 titles, 32 answers an "
        "update of up to 24 tokens, two epochs. Every update lays its episodes out in tensors of "
        "other sizes.",
        "",
        f"Machine: {platform.machine()}, {os.cpu_count()} processors, {libc}. {versions}.",
        "",
        "| turn | allocator | " + " | ".join(f"update {k + 1}" for k in range(updates)) + " |",
        "|---" * (updates + 2) + "|",
    ]
    ratios = []
    for k, (plain, preloaded) in enumerate(turns):
        for label, seconds in ((libc, plain), (name, preloaded)):
            lines.append(f"| {k} | {label} | {' | '.join(f'{s:.1f}' for s in seconds)} |")
        ratios.append(sum(plain[half:]) / sum(preloaded[half:]))
    told = ", ".join(f"{ratio:.2f}" for ratio in ratios)
    lines += [
        "",
        f"Seconds an update. Over updates {half + 1} to {updates}, the C library's allocator takes "
        f"{statistics.median(ratios):.2f} times as long (by turn: {told}).",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Measure in turns, print and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preload", help="a shared library: jemalloc's or tcmalloc's")
    parser.add_argument("--updates", type=int, default=8)
    parser.add_argument("--turns", type=int, default=2)
    parser.add_argument("--write", action="store_true", help="write README.md beside this file")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.work:
        work(given.updates)
        return
    if not given.preload or not Path(given.preload).is_file():
        parser.error(f"--preload is the path of a shared library, got {given.preload!r}")
    turns = []
    for turn in range(given.turns):
        order = ("", given.preload) if turn % 2 == 0 else (given.preload, "")
        seconds = {library: measure(library, given.updates) for library in order}
        turns.append((seconds[""], seconds[given.preload]))
    text = report(given.preload, turns)
    print(text)
    if given.write:
        (HERE / "README.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
