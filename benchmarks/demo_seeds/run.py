"""Five seeds of `textenvs demo`: is PPO above SFT above base on held-out titles?

`python benchmarks/demo_seeds/run.py` (about 20 minutes on two cores) runs the command once a
seed and writes README.md beside this file. A seed whose run folder is whole is not run again.
With `--jobs N` so many seeds run side by side, each with one thread.
"""

import argparse
import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from scipy import stats

HERE = Path(__file__).parent
STAGES = ("base", "SFT", "PPO")
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
        f"`textenvs demo --seed K` for K = 0 to {len(seeds) - 1}. Each seed has its own SFT "
        "batches, rollouts and PPO batches; "
        "all start from the shipped base model and answer the same 300 held-out lists of 8 films "
        "greedily.",
        "",
        f"Machine: {first['machine']}, CPU only, network off. "
        + ", ".join(f"{k} {v}" for k, v in first["packages"].items() if v)
        + f". Seconds a seed: {', '.join(format(s['seconds'], '.0f') for s in seeds)}.",
        "",
        "| seed | " + " | ".join(f"{s} correct" for s in STAGES) + " | PPO minus SFT |",
        "|---|---|---|---|---|",
    ]
    for k, seed in enumerate(seeds):
        cells = [format(seed[s]["correct"][0], ".3f") for s in STAGES]
        gain = seed["PPO"]["correct"][0] - seed["SFT"]["correct"][0]
        lines.append(f"| {k} | {' | '.join(cells)} | {gain:+.3f} |")
    lines += ["", "Means over seeds, with 95% Student intervals:", ""]
    lines += ["| | " + " | ".join(STAGES) + " | PPO minus SFT |", "|---|---|---|---|---|"]
    for metric in METRICS:
        table = np.array([[seed[s][metric][0] for s in STAGES] for seed in seeds])
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*t_interval(column)) for column in table.T[1:]]
        gain = "{:+.3f} [{:+.3f}, {:+.3f}]".format(*t_interval(table[:, 2] - table[:, 1]))
        lines.append(f"| {metric} | {table[0, 0]:.3f} | {' | '.join(cells)} | {gain} |")
    lines += [
        "",
        "`correct` is the share of answer lines that are, letter for letter, a listed title of the "
        "asked genre. `reward` is what PPO was trained on (`context-match-f1`).",
        "",
    ]
    return "\n".join(lines)


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
