"""README.md of the benchmark, from `results.json`."""

from pathlib import Path
from typing import Any

import numpy as np
from cases import CASES
from statistics_of_turns import Ratio, paired_ratio

MIB = 2**20
TEXT = Path(__file__).parent / "README.head.md"
SideResult = dict[str, Any]


def write_report(results: dict[str, Any], path: Path) -> str:
    """Write the report; return its text."""
    machine = results["machine"]
    parts = [TEXT.read_text(encoding="utf-8").rstrip(), "", "## Results", ""]
    parts += [
        f"Machine: {machine['processor']}, {machine['count']} processors, {machine['device']}, "
        f"{machine['threads']} threads a side; model `{machine['model']}`. {_versions(results)}",
        "",
        *_summary(results["cases"]),
    ]
    for name, measured in results["cases"].items():
        parts += ["", *_case(name, measured)]
    if results["tuning"]:
        parts += ["", *_tuning(results["tuning"])]
    text = "\n".join(parts) + "\n"
    path.write_text(text, encoding="utf-8")
    return text


def _versions(results: dict[str, Any]) -> str:
    known: dict[str, str] = {}
    for measured in results["cases"].values():
        for side in measured["sides"]:
            known |= side["versions"]
    return ", ".join(f"{name} {known[name]}" for name in sorted(known)) + "."


def _per_second(side: SideResult, unit: str) -> list[float]:
    return [update[unit] / update["seconds"] for update in side["updates"]]


def _median(values: list[float]) -> float:
    return float(np.median(values))


def _shown(ratio: Ratio) -> str:
    if np.isnan(ratio.low):
        return f"{ratio.mean:.2f} (one turn)"
    return f"{ratio.mean:.2f} [{ratio.low:.2f}, {ratio.high:.2f}]"


def _peak(side: SideResult) -> float:
    last = side["updates"][-1]
    return float(last["device_peak"] or last["peak"])


def _growth(side: SideResult) -> float:
    last = side["updates"][-1]
    return float(last["device_peak"] or last["peak"] - side["resident_before"])


def _summary(cases: dict[str, Any]) -> list[str]:
    lines = [
        "| case | against | times as fast | wanted | peak memory, share of theirs | wanted |",
        "|---|---|---|---|---|---|",
    ]
    for name, measured in cases.items():
        case, (ours, *others) = CASES[name], measured["sides"]
        for i, other in enumerate(others):
            speed = paired_ratio(_per_second(ours, "tokens"), _per_second(other, "tokens"))
            wanted = f">= {case.target:g}" if i == 0 else ""
            limit = f"<= {case.memory_target:g}" if i == 0 and case.memory_target else ""
            lines.append(
                f"| {case.title} | {other['label']} | {_shown(speed)} | {wanted} "
                f"| {_peak(ours) / _peak(other):.2f} | {limit} |"
            )
    return lines


def _case(name: str, measured: dict[str, Any]) -> list[str]:
    case, sides = CASES[name], measured["sides"]
    lines = [
        f"### {case.title}: prompt {case.prompt_tokens}, answer {case.new_tokens}, "
        f"{case.samples} a prompt, {case.episodes} answers, {case.epochs} epochs",
        "",
        "| side | episodes/s | actions/s | s an update | of it | optimiser steps "
        "| peak MiB | above the start, MiB | processor s |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for side in sides:
        updates = side["updates"]
        of_it = ", ".join(
            f"{part} {_median([update['parts'][part] for update in updates]):.2f}"
            for part in updates[0]["parts"]
        )
        lines.append(
            f"| {side['label']}{_batches(side['settings'])} "
            f"| {_median(_per_second(side, 'episodes')):.2f} "
            f"| {_median(_per_second(side, 'tokens')):.1f} "
            f"| {_median([update['seconds'] for update in updates]):.2f} | {of_it} "
            f"| {updates[0]['optimizer_steps']:.0f} | {_peak(side) / MIB:.0f} "
            f"| {_growth(side) / MIB:.0f} "
            f"| {_median([update['cpu_seconds'] for update in updates]):.2f} |"
        )
    lines += ["", *_ratios(sides)]
    return lines


def _ratios(sides: list[SideResult]) -> list[str]:
    ours, *others = sides
    lines = []
    for other in others:
        processor = paired_ratio(
            [update["cpu_seconds"] for update in other["updates"]],
            [update["cpu_seconds"] for update in ours["updates"]],
        )
        update = paired_ratio(
            [made["parts"]["update"] for made in other["updates"]],
            [made["parts"]["update"] for made in ours["updates"]],
        )
        lines.append(
            f"- Against {other['label']}: times as fast in the update alone {_shown(update)}, "
            f"by processor seconds of the whole {_shown(processor)}; growth of memory "
            f"{_growth(ours) / _growth(other):.2f} of theirs. Turns: {len(ours['updates'])}."
        )
    return lines


def _batches(settings: dict[str, Any]) -> str:
    if "micro_batch" in settings:
        return f" (batches of {settings['micro_batch']}, rollout {settings['rollout_batch']})"
    return f" (batches of {settings['batch_rows']} rows)" if "batch_rows" in settings else ""


def _tuning(tuning: dict[str, Any]) -> list[str]:
    lines = [
        "### TRL's batch sizes",
        "",
        "| shape | precision | batch | s an update | its update | processor s | peak MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, tried in tuning.items():
        for row in tried:
            lines.append(
                f"| {CASES[name].title} | {'bf16' if row['bf16'] else 'float32'} | {row['batch']} "
                f"| {row['seconds']:.1f} | {row['parts']['update']:.1f} "
                f"| {row['cpu_seconds']:.1f} | {row['peak'] / MIB:.0f} |"
            )
    return lines
