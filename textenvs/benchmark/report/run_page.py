"""The report of one run folder, finished or not; see `agents.runs` for what it holds."""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from textenvs.benchmark.report import rollouts
from textenvs.benchmark.report.blocks import (
    Block,
    Cell,
    Figure,
    Listing,
    Page,
    Section,
    Table,
    Words,
)
from textenvs.benchmark.report.chart import Chart, Series
from textenvs.benchmark.report.figures import figure, interval
from textenvs.benchmark.report.json_lines import number, read_lines, read_object, read_text

Json = Mapping[str, Any]

MANIFEST, METRICS, EPISODES, CONFIG = (
    "manifest.json",
    "metrics.jsonl",
    "episodes.jsonl",
    "config.toml",
)
ACROSS = {"timesteps": "tokens trained on", "update": "update", "step": "step"}
"""What a curve may be drawn against, the first that its lines have, and its label."""

FIRST = (
    "score",
    "gold/",
    "reward/",
    "kl",
    "length",
    "entropy",
    "loss",
    "accuracy",
    "episode_return",
)
"""Metrics (or beginnings of their names) that are shown unfolded, in this order."""

UNITS = {
    "score": "reward an episode",
    "episode_return": "reward an episode",
    "kl": "nats an episode",
    "entropy": "nats a token",
    "length": "tokens an episode",
    "loss": "loss, nats a token",
}
"""Metric -> the label of its axis; the others go by their names."""

NO_CURVES = {*ACROSS, "stage", "seconds"}
MOST_POINTS = 400
"""Of a curve; a longer one is thinned out evenly, its last point kept."""


def run_page(folder: Path) -> Page:
    """Return the report of a run; what is missing is left out, and said."""
    manifest = read_object(folder / MANIFEST)
    lines = list(read_lines(folder / METRICS))
    warnings = []
    if not manifest:
        warnings.append(
            "This run is not finished: it goes on, or was stopped. The page shows it as far as "
            "it got; the table of held-out results comes with the end of a run."
        )
    sections = []
    if manifest:
        sections.append(Section("results", "Results", list(_results(manifest.get("summary")))))
    curves = list(_curves(lines)) or [Words("No metrics were logged.", "soft")]
    sections.append(Section("curves", "Learning curves", curves))
    sections.append(Section("rollouts", "Episodes", _episodes(folder / EPISODES)))
    sections.append(Section("settings", "Settings, versions", list(_origins(folder, manifest))))
    count = f"{len(lines):,} lines of metrics"
    when = f"finished {manifest['finished']}" if manifest.get("finished") else "unfinished"
    return Page(
        f"Run {folder.resolve().name}", f"A run of textenvs: {count}, {when}.", sections, warnings
    )


def _results(summary: Any) -> Iterator[Block]:
    stages: dict[str, dict[str, list[Any]]] = {}
    rest = {}
    for stage, values in summary.items() if isinstance(summary, dict) else ():
        if isinstance(values, dict):
            found = {name: v for name, v in values.items() if _is_interval(v)}
            if found:
                stages[stage] = found
                continue
        rest[stage] = values
    if stages:
        names = list(dict.fromkeys(name for row in stages.values() for name in row))
        rows = [
            [Cell(name), *(Cell(_interval(row.get(name))) for row in stages.values())]
            for name in names
        ]
        yield Table(
            ("metric", *stages), rows, "Held-out prompts, mean with 95% interval.", "results-table"
        )
    if rest:
        told = [[Cell(name), Cell(_told(value))] for name, value in rest.items()]
        yield Table(("result", "value"), told)
    if not stages and not rest:
        yield Words("The run was not evaluated on held-out prompts.", "soft")


def _is_interval(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 3


def _interval(value: Sequence[Any] | None) -> str:
    if value is None:
        return ""
    return interval(*(number(item) for item in value)) or "not measured"


def _told(value: Any) -> str:
    if isinstance(value, dict):
        return "; ".join(f"{name} {_told(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(map(_told, value))
    known = number(value)
    return str(value) if known is None else figure(known)


def _curves(lines: Sequence[Json]) -> Iterator[Block]:
    """Yield the curves, those of each stage on their own."""
    stages: dict[str, list[Json]] = {}
    for line in lines:
        stages.setdefault(str(line.get("stage", "")), []).append(line)
    for i, (stage, each) in enumerate(stages.items(), 1):
        charts = {name: _curve(name, each, stage) for name in _names(each)}
        first = [name for start in FIRST for name in charts if _begins(name, start)]
        first = list(dict.fromkeys(first)) or list(charts)
        rest = [name for name in charts if name not in first]
        told = f"Stage {stage}: " if stage else ""
        if first:
            yield Figure(
                f"curves-{i}",
                [charts[name] for name in first],
                f"{told}what was logged at each update, unsmoothed, on training prompts.",
            )
        if rest:
            words = f"{told}{len(rest)} more metrics: {', '.join(rest)}"
            yield Figure(f"more-curves-{i}", [charts[n] for n in rest], words, folded=True)


def _begins(name: str, start: str) -> bool:
    return name.startswith(start) if start.endswith("/") else name == start


def _names(lines: Sequence[Json]) -> list[str]:
    return [
        name
        for name in dict.fromkeys(name for line in lines for name in line)
        if name not in NO_CURVES and any(number(line.get(name)) is not None for line in lines)
    ]


def _curve(name: str, lines: Sequence[Json], stage: str) -> Chart:
    key = next((k for k in ACROSS if all(number(line.get(k)) is not None for line in lines)), None)
    x, y = [], []
    for i, line in enumerate(lines, 1):
        value = number(line.get(name))
        place = float(i) if key is None else number(line[key])
        x.append(math.nan if place is None else place)
        y.append(math.nan if value is None else value)
    every = math.ceil(len(x) / MOST_POINTS)
    kept = [i for i in range(len(x)) if (len(x) - 1 - i) % every == 0]
    series = Series(
        "", [x[i] for i in kept], [y[i] for i in kept],
        style="line" if len(kept) <= 25 else "curve",
    )  # fmt: skip
    title = f"{stage}: {name}" if stage else name
    return Chart(title, "line" if key is None else ACROSS[key], UNITS.get(name, name), [series])


def _episodes(path: Path) -> list[Block]:
    gold = rollouts.gold_of_recording(path)
    found, shown, total = rollouts.gallery(
        "Episodes of training", "gallery", rollouts.read_recording(path, gold), 8, opened=True
    )
    if not total:
        return [Words("No episodes were recorded.", "soft")]
    judged = f"the metric {gold}" if gold else "the reward, since there is no gold metric"
    said = (
        f"Showing {shown} of {total:,} recorded episodes, sampled in training. Best and worst are "
        f"by {judged}; “proxy” is the task's reward"
    )
    said += "; the third kind ranks far higher by reward than by that metric." if gold else "."
    return [Words(said), rollouts.LEGEND, found]


def _origins(folder: Path, manifest: Json) -> Iterator[Block]:
    packages = manifest.get("packages")
    if isinstance(packages, dict):
        rows = [[Cell(str(n)), Cell(str(v) if v else "not installed")] for n, v in packages.items()]
        rows.append([Cell("python"), Cell(str(manifest.get("python", "")))])
        rows.append([Cell("machine"), Cell(str(manifest.get("machine", "")))])
        yield Table(("package", "version"), rows, "Versions")
    text = read_text(folder / CONFIG)
    yield Listing(CONFIG, text) if text else Words("The run kept no settings.", "soft")
