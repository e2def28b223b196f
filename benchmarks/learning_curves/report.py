"""The report of the learning curves: tables with intervals over seeds, and a figure."""

import os
import platform
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from scipy import stats

Runs = dict[str, list[dict[str, Any]]]
METRICS = ("correct", "listed", "recall", "reward")
COLUMNS = (METRICS[0], "gain", *METRICS[1:], "episodes", "tokens", "seconds")
PACKAGES = ("textenvs", "gymnasium", "numpy", "torch", "transformers", "stable-baselines3", "trl")
COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#009e73", "#cc79a7")


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the mean over seeds with its 95% Student interval; one value has no width."""
    mean = float(np.mean(values))
    if len(values) < 2 or np.ptp(values) == 0:
        return mean, mean, mean
    low, high = stats.t.interval(0.95, len(values) - 1, loc=mean, scale=stats.sem(values))
    return mean, float(low), float(high)


def write_report(runs: Runs, folder: Path, jobs: int) -> None:
    """Write README.md and curves.svg.

    Args:
        runs: Agent -> its runs, each a result or one with `error`.
        folder: Where.
        jobs: How many runs shared the machine.
    """
    finished = {name: [run for run in each if "error" not in run] for name, each in runs.items()}
    finished = {name: each for name, each in finished.items() if each}
    lines = [*_heading(jobs), *_final(finished), *_along(finished), *_failures(runs)]
    lines += _settings(finished)
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")
    draw(finished, folder / "curves.svg")


def _heading(jobs: int) -> list[str]:
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    return [
        "# Learning curves on `ContextSelect-v0`",
        "",
        f"Command: `python benchmarks/learning_curves/run.py --jobs {jobs} --write`.",
        "",
        "The task is that of `textenvs demo`: lists of 8 films, one genre asked, reward "
        "`context-match-f1`. For each seed the shipped model is fine-tuned on right answers (the "
        "demo's 60 steps), and every agent goes on from that same model. A point is the answers "
        "to the same 300 held-out lists, greedily; `correct` is the share of answer lines that "
        "are, letter for letter, a listed title of the asked genre. *Seconds* are processor "
        "seconds of training, evaluations left out.",
        "",
        f"Machine: {platform.machine()}, {os.cpu_count()} processors, CPU only, one "
        f"thread a run. {packages}.",
        "",
        "![held-out correct along training](curves.svg)",
    ]


def _final(runs: Runs) -> list[str]:
    lines = [
        "",
        "After training; means over seeds, with 95% Student intervals. The gain is over the "
        "model each run began with, seed by seed.",
        "",
        f"| agent | seeds | {' | '.join(COLUMNS)} |",
        "|---" * (2 + len(COLUMNS)) + "|",
    ]
    first = max(runs.values(), key=len, default=[])
    if first:
        start = [_cell([run["curve"][0][m][0] for run in first]) for m in METRICS]
        cells = [start[0], "", *start[1:], "0", "0", ""]
        lines.append(f"| where all begin | {len(first)} | {' | '.join(cells)} |")
    for name, each in runs.items():
        last = {m: [run["curve"][-1][m][0] for run in each] for m in METRICS}
        gains = [run["curve"][-1]["correct"][0] - run["curve"][0]["correct"][0] for run in each]
        cells = [_cell(last["correct"]), _cell(gains, "+.3f")]
        cells += [_cell(last[m]) for m in METRICS[1:]]
        cells += [f"{np.mean([run[k] for run in each]):,.0f}" for k in ("episodes", "tokens")]
        cells.append(_cell([run["seconds"] for run in each], ".0f"))
        lines.append(f"| {name} | {len(each)} | {' | '.join(cells)} |")
    return lines


def _along(runs: Runs) -> list[str]:
    """Return `correct` at each point: its mean, and the mean episodes and seconds till then."""
    lines = ["", "`correct` along training, with the mean episodes and seconds until then:", ""]
    count = max((len(run["curve"]) for each in runs.values() for run in each), default=0)
    lines += ["| agent | " + " | ".join(f"point {i}" for i in range(count)) + " |"]
    lines += ["|---" * (count + 1) + "|"]
    for name, each in runs.items():
        cells = []
        for i in range(min(len(run["curve"]) for run in each)):
            mean = {k: _mean_at(each, i, k) for k in ("correct", "episodes", "seconds")}
            cells.append(
                f"{mean['correct']:.3f} ({mean['episodes']:,.0f}; {mean['seconds']:.0f} s)"
            )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return lines


def _failures(runs: Runs) -> list[str]:
    failed = [run for each in runs.values() for run in each if "error" in run]
    if not failed:
        return []
    lines = ["", "Runs that failed, and count nowhere above:", "", "| agent | seed | error |"]
    lines.append("|---|---|---|")
    for run in failed:
        why = run["error"].replace("|", "\\|")
        lines.append(f"| {run['agent']} | {run['seed']} | {why[:200]} |")
    return lines


def _settings(runs: Runs) -> list[str]:
    lines = ["", "Settings; everything else is the default of the agent:", ""]
    for name, each in runs.items():
        settings = ", ".join(f"`{k}={v}`" for k, v in each[0]["settings"].items())
        lines.append(f"- {name}: {settings}")
    lines += [
        "",
        "One learning rate for all, that of the demo's PPO: no agent was tuned here beyond a look "
        "at one seed that is not among these, so a better setting of any of them is likely. Our "
        "agents and TRL play the same number of episodes. Stable-Baselines3 pays a pass over the "
        "whole prompt for each token, in the rollout and in every epoch, so it is stopped after "
        "a share of the episodes, by the clock. It charges no KL; TRL charges it in the loss "
        "(`beta`).",
    ]
    return lines


def draw(runs: Runs, path: Path) -> None:
    """Draw `correct` over episodes and over seconds, a band for the 95% Student interval."""
    mpl.use("agg")
    from matplotlib import pyplot as plt

    mpl.rcParams.update({"svg.hashsalt": "textenvs", "svg.fonttype": "none"})
    figure, axes = plt.subplots(1, 2, figsize=(11, 4.2), sharey=True, layout="constrained")
    for axis, key in zip(axes, ("episodes", "seconds"), strict=True):
        for (name, each), colour in zip(runs.items(), COLOURS, strict=False):
            points = range(min(len(run["curve"]) for run in each))
            across = [_mean_at(each, i, key) for i in points]
            mean, low, high = np.array([interval(_at(each, i, "correct")) for i in points]).T
            axis.plot(across, mean, marker="o", markersize=3, color=colour, label=name)
            axis.fill_between(across, low, high, color=colour, alpha=0.15, linewidth=0)
        axis.set_xlabel({"episodes": "episodes", "seconds": "processor seconds of training"}[key])
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("correct, held out, greedy")
    axes[0].legend(frameon=False)
    figure.savefig(path, metadata={"Date": None})
    plt.close(figure)


def _at(each: list[dict[str, Any]], point: int, key: str) -> list[float]:
    """Return a number of one point, a run each; of a metric its mean."""
    found = [run["curve"][point][key] for run in each]
    return [value[0] if isinstance(value, list) else value for value in found]


def _mean_at(each: list[dict[str, Any]], point: int, key: str) -> float:
    return float(np.mean(_at(each, point, key)))


def _cell(values: Sequence[float], form: str = ".3f") -> str:
    mean, low, high = interval(values)
    if len(values) < 2:
        return f"{mean:{form}}"
    return f"{mean:{form}} [{low:{form}}, {high:{form}}]"
