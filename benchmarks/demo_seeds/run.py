"""Five seeds of `textenvs demo`: what each stage of the road is worth on held-out titles.

`python benchmarks/demo_seeds/run.py` (about an hour on two cores) runs the command once a
seed and writes README.md beside this file. A seed whose run folder is whole is not run again.
With `--jobs N` so many seeds run side by side, each with one thread.
"""

import argparse
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

HERE = Path(__file__).parent
STAGES = ("base", "SFT", "best of 16", "DPO", "PPO, rule", "PPO, learned")
METRICS = ("correct", "listed", "recall", "reward")


def run_seed(seed: int, folder: Path, *, one_thread: bool) -> dict:
    """Return the manifest of one seed's demo, running it if need be."""
    manifest = folder / f"seed-{seed}" / "manifest.json"
    if not manifest.is_file():
        command = [sys.executable, "-m", "agents.cli", "demo", "--seed", str(seed)]
        threads = {"OMP_NUM_THREADS": "1"} if one_thread else {}
        environment = {**os.environ, **threads}
        subprocess.run([*command, "--out", str(manifest.parent)], check=True, env=environment)
    return json.loads(manifest.read_text(encoding="utf-8"))


def t_interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the mean over seeds with its 95% Student interval."""
    low, high = stats.t.interval(
        0.95, len(values) - 1, loc=np.mean(values), scale=stats.sem(values)
    )
    return float(np.mean(values)), float(low), float(high)


def report(manifests: list[dict], jobs: int) -> str:
    """Return the figures as Markdown."""
    seeds = [m["summary"] for m in manifests]
    first = manifests[0]
    lines = [
        "# `textenvs demo` over seeds",
        "",
        f"Command: `python benchmarks/demo_seeds/run.py --jobs {jobs}`, which runs "
        f"`textenvs demo --seed K` for K = 0 to {len(seeds) - 1}. Each seed has its own batches, "
        "rankings and rollouts; all start from the shipped base model and answer the same 300 "
        "held-out lists of 8 films greedily.",
        "",
        f"Machine: {first['machine']}, CPU only. "
        + ", ".join(f"{k} {v}" for k, v in first["packages"].items() if v)
        + f". Seconds a seed, {jobs} side by side: "
        + ", ".join(format(s["seconds"], ".0f") for s in seeds)
        + ".",
        "",
        "Means over seeds, with 95% Student intervals:",
        "",
        "| | " + " | ".join(f"`{metric}`" for metric in METRICS) + " | `correct` minus SFT |",
        "|---" * (len(METRICS) + 2) + "|",
    ]
    for stage in STAGES:
        cells = [_told([seed[stage][metric][0] for seed in seeds]) for metric in METRICS]
        gains = [seed[stage]["correct"][0] - seed["SFT"]["correct"][0] for seed in seeds]
        gain = "" if stage in ("base", "SFT") else _told(gains, "+.3f")
        lines.append(f"| {stage} | {' | '.join(cells)} | {gain} |")
    lines += [
        "",
        "`correct` is the share of answer lines that are, letter for letter, a listed title of the "
        "asked genre. `reward` is `context-match-f1`, which *PPO, rule* was trained on. *PPO, "
        "learned* was trained on the reward model of its seed, which also chose the *best of 16*: "
        "of samples at temperature 1, where every other row answers greedily.",
        "",
        "`correct` by seed:",
        "",
        "| seed | " + " | ".join(STAGES) + " | reward model, held-out pairs | length ruler |",
        "|---" * (len(STAGES) + 3) + "|",
    ]
    for k, seed in enumerate(seeds):
        cells = [format(seed[stage]["correct"][0], ".3f") for stage in STAGES]
        judged = seed["reward model"]
        cells += [_of_pairs(judged["pair_accuracy"]), _of_pairs(judged["length_ruler"])]
        lines.append(f"| {k} | {' | '.join(cells)} |")
    perplexities = [[s["perplexity"][when][0] for s in seeds] for when in ("before", "after")]
    lines += [
        "",
        "Perplexity of held-out titles, before and after pretraining: "
        + " and ".join(_told(values, ".1f") for values in perplexities)
        + ".",
        "",
    ]
    return "\n".join(lines)


def _told(values: Sequence[float], form: str = ".3f") -> str:
    """Return a mean over seeds with its interval; of one number, the number."""
    if len(set(values)) == 1:
        return format(values[0], form)
    mean, low, high = (format(number, form) for number in t_interval(np.array(values)))
    return f"{mean} [{low}, {high}]"


def _of_pairs(interval: Sequence[float]) -> str:
    mean, low, high = interval
    return f"{mean:.3f} [{low:.3f}, {high:.3f}]"


def main() -> None:
    """Run the seeds and write the report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--runs", type=Path, default=Path("runs/demo_seeds"))
    given = parser.parse_args()
    run = partial(run_seed, folder=given.runs, one_thread=given.jobs > 1)
    with ThreadPoolExecutor(given.jobs) as pool:
        manifests = list(pool.map(run, range(given.seeds)))
    (HERE / "README.md").write_text(report(manifests, given.jobs), encoding="utf-8")


if __name__ == "__main__":
    main()
