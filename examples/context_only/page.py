"""The page of the experiment: both metrics, the published figures, the curve and its cost."""

import dataclasses
import importlib.metadata
from pathlib import Path
from typing import Any

import numpy as np
from measures import PUBLISHED
from scipy import stats

from agents.machine import machine
from agents.runs import write_text

PACKAGES = ("textenvs", "torch", "transformers", "peft", "rapidfuzz")
SHOWN = ("published", "strict", "recall", "empty", "tokens")


def write_page(path: Path | None, settings: Any, results: list[dict[str, Any]]) -> None:
    """Print the page, and write it if a path is given.

    Args:
        path: README.md, or None.
        settings: Of the runs.
        results: Of each seed, stage -> test metrics, seconds, threads; `curve` -> its points.
    """
    text = "\n".join(_lines(settings, results)) + "\n"
    print(text)
    if path is not None:
        write_text(path, text)


def _lines(settings: Any, results: list[dict[str, Any]]) -> list[str]:
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    changed = " ".join(
        f"--{field.name.replace('_', '-')} {getattr(settings, field.name)}"
        for field in dataclasses.fields(settings)
        if getattr(settings, field.name) != field.default
    )
    command = f"python examples/context_only/run.py {changed} --seeds {len(results)} --write"
    return [
        "# Answer only from the list",
        "",
        f"Command: `{' '.join(command.split())}`.",
        "",
        f"{settings.model} with LoRA reads {settings.items} titles with categories, BBC news and "
        "films together, and is asked for those of one category. SFT takes "
        f"{settings.sft_steps} steps of {settings.sft_batch} right answers, PPO "
        f"{settings.updates} updates of {settings.episodes} answers. The base model and the "
        "trained ones read the same prompt in the model's chat template. A title belongs to one "
        f"split; the {settings.prompts} test prompts list test titles only, answered greedily.",
        "",
        f"Machine: {machine()}; the model on {settings.device}. {versions}.",
        "",
        *_table(results),
        "",
        f"*published*: share of answer lines at a fuzzy ratio of 0.9 to any listed title, the "
        "category ignored. *strict*: share of lines that are, letter for letter, a listed title "
        "of the asked category. *recall*: share of the titles asked for that are named. "
        f"{_interval_words(len(results))} The last column is the published ChatGLM-6B "
        "experiment, which measured the titles it had trained on, 30 in a list.",
        "",
        "## The curve",
        "",
        f"On {settings.curve_prompts} validation prompts, whose titles are in no other split, "
        f"against seconds of PPO training (evaluation left out). {_cost(results)}",
        "",
        *_curves(results),
    ]


def _table(results: list[dict[str, Any]]) -> list[str]:
    lines = [
        "| stage | " + " | ".join(SHOWN) + " | seconds | threads | published experiment |",
        "|---" * (len(SHOWN) + 4) + "|",
    ]
    for stage, published in PUBLISHED.items():
        if any(stage not in result for result in results):
            continue
        cells = [_cell([r[stage]["test"][name] for r in results]) for name in SHOWN]
        seconds = np.mean([r[stage]["seconds"] for r in results])
        cells += [f"{seconds:.0f}", str(results[0][stage]["threads"]), f"{published:.2f}"]
        lines.append(f"| {stage} | {' | '.join(cells)} |")
    return lines


def _cell(intervals: list[list[float]]) -> str:
    """Return the mean over seeds with a Student interval; of one seed, its own interval."""
    means = np.array([mean for mean, _, _ in intervals])
    if len(means) == 1:
        mean, low, high = intervals[0]
    else:
        error = stats.sem(means)
        mean = float(means.mean())
        spread = error * stats.t.ppf(0.975, len(means) - 1)
        low, high = mean - spread, mean + spread
    digits = 1 if mean > 2 else 3
    return f"{mean:.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def _interval_words(seeds: int) -> str:
    if seeds == 1:
        return "One seed; 95% bootstrap intervals over prompts say nothing of other seeds."
    return f"Means over {seeds} seeds with 95% Student intervals."


def _cost(results: list[dict[str, Any]]) -> str:
    """Return what an update of PPO cost."""
    ends = [result["curve"][-1] for result in results if result.get("curve")]
    if not any(end["update"] for end in ends):
        return ""
    seconds = sum(end["seconds"] for end in ends) / sum(end["update"] for end in ends)
    return f"An update took {seconds:.0f} s."


def _curves(results: list[dict[str, Any]]) -> list[str]:
    lines = ["| seed | update | strict | published | seconds |", "|---|---|---|---|---|"]
    for seed, result in enumerate(results):
        for point in result.get("curve", ()):
            cells = [_cell([point["validation"][name]]) for name in ("strict", "published")]
            lines.append(
                f"| {seed} | {point['update']} | {' | '.join(cells)} | {point['seconds']:.0f} |"
            )
    return lines
