"""The report of a study, from its summary and the files of its cells."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textenvs.benchmark.report import rollouts, study_charts, study_tables
from textenvs.benchmark.report.blocks import (
    Block,
    Figure,
    Gallery,
    Listing,
    Page,
    Section,
    Table,
    Words,
)
from textenvs.benchmark.report.chart import Chart, Series
from textenvs.benchmark.report.json_lines import read_object, read_text
from textenvs.benchmark.report.rollout_view import Rollout
from textenvs.benchmark.report.study_origins import origins
from textenvs.benchmark.results import load_study
from textenvs.benchmark.summary import SCHEMA, VERSION, summarise
from textenvs.benchmark.timings import timings
from textenvs.errors import ConfigError

Json = Mapping[str, Any]

TRACEBACKS = 10
"""Of failed cells, at most."""

SCATTERED = 250
"""Points of a scatter chart; more rollouts are thinned out evenly."""


@dataclass(frozen=True)
class StudyFiles:
    """What a report reads of a study's folder.

    Attributes:
        folder: Of the study.
        summary: As `textenvs.benchmark.summary` describes it.
        timings: Likewise; empty where there are none.
        configs: `cell.json` of each cell of the summary that has one, by id.
    """

    folder: Path
    summary: Json
    timings: Json
    configs: Mapping[str, Json]

    @classmethod
    def read(cls, folder: Path) -> "StudyFiles":
        """Read a folder; a summary that is not there is computed from the cells.

        Raises:
            ConfigError: if the summary is of another version, or there is none and no cell.
        """
        summary, times = read_object(folder / "summary.json"), read_object(folder / "timings.json")
        if not summary:
            results = load_study(folder)
            summary, times = summarise(results), timings(results)
        if (summary.get("schema"), summary.get("version")) != (SCHEMA, VERSION):
            raise ConfigError(
                f"{folder / 'summary.json'} has schema {summary.get('schema')!r}, version "
                f"{summary.get('version')!r}; this textenvs reads {SCHEMA!r}, version {VERSION}. "
                "Move it away, and the report computes a new one from the cells"
            )
        ids = [row["id"] for row in summary["cells"]["rows"] if row["id"] is not None]
        found = {cell: read_object(_cell(folder, cell) / "cell.json") for cell in ids}
        configs = {cell: config for cell, config in found.items() if config}
        return cls(folder, summary, times, configs)

    def cell(self, cell_id: str) -> Path:
        """Return the folder of a cell."""
        return _cell(self.folder, cell_id)

    def rollouts(self, group: Json, design: str) -> list[Rollout]:
        """Return all rollouts of a design in a group, over its finished seeds."""
        gold = group["gold"].removeprefix("gold/") if group["gold"] else None
        place = (group["environment"], group["agent"], design)
        return [
            rollout
            for row in self.summary["cells"]["rows"]
            if (row["environment"], row["agent"], row["design"]) == place and row["id"] is not None
            for rollout in rollouts.read_rollouts(
                self.cell(row["id"]) / "rollouts.jsonl",
                gold,
                f"seed {row['seed']}",
            )
        ]


def _cell(study: Path, cell_id: str) -> Path:
    """Return the folder of a cell; an id from a file cannot lead out of the study."""
    return study / "cells" / Path(cell_id).name


def study_page(folder: Path) -> Page:
    """Return the report of a study.

    Raises:
        ConfigError: as `StudyFiles.read`.
        CheckpointError: if there is no summary and a cell cannot be read.
    """
    files = StudyFiles.read(folder)
    summary = files.summary
    counts, statistics = summary["cells"], summary["statistics"]
    groups = summary["groups"]
    several = sum(len(group["designs"]) for group in groups)
    sections = [
        _group_section(files, group, f"{i}", rollouts.per_pick(several))
        for i, group in enumerate(groups, 1)
    ]
    sections += [
        Section("cells-and-failures", "Cells and failures", list(_failures(files))),
        Section("timings", "Timings", list(study_tables.timings(files.timings))),
        Section("versions", "Designs, versions and hashes", _origins(files)),
    ]
    lead = (
        f"{counts['finished']} of {counts['planned']} cells finished: reward designs × agents × "
        f"seeds, each a training run that was evaluated along the way on held-out prompts. "
        f"Intervals are {statistics['level']:.0%} bootstrap intervals over seeds and prompts, "
        f"{statistics['resamples']:,} resamples, seed {statistics['seed']}. No design is called "
        f"better below {statistics['least_seeds']} seeds."
    )
    return Page(str(summary["study"]["name"]), lead, sections, summary["warnings"])


def _group_section(files: StudyFiles, group: Json, name: str, count: int) -> Section:
    galleries: list[Block] = []
    scatters: list[Chart] = []
    shown = total = 0
    for i, design in enumerate(group["designs"], 1):
        found = files.rollouts(group, design["name"])
        scatters += _scatter(design["name"], found)
        if found:
            picked, of_these, of_all = rollouts.gallery(
                design["name"], f"rollouts-{name}-{i}", found, count, opened=i == 1
            )
            galleries.append(picked)
            shown, total = shown + of_these, total + of_all
    parts = _parts(group, name, scatters)
    parts.append(Section(f"rollouts-{name}", "Rollouts", _viewer(galleries, shown, total)))
    anchors = _anchors(parts)
    order = {design["name"]: i for i, design in enumerate(group["designs"], 1)}

    def evidence(place: str, design: str) -> str | None:
        anchor = PLACES[place].format(group=name, design=order[design])
        return anchor if anchor in anchors else None

    first = list(study_tables.verdicts(group, f"verdicts-{name}", evidence))
    verdicts = Section(f"verdict-{name}", "Verdicts", first)
    title = f"{group['environment']}, {group['agent']}"
    return Section(f"group-{name}", title, (), [verdicts, *parts])


PLACES = {
    "proxy and gold": "figure-kl-{group}",
    "fits": "figure-fits-{group}",
    "curves": "figure-curves-{group}",
    "more metrics": "figure-more-curves-{group}",
    "terms": "figure-terms-{group}",
    "length": "figure-length-{group}",
    "frontier": "figure-frontier-{group}",
    "matrix": "matrix-{group}",
    "rollouts": "rollouts-{group}-{design}",
    "cells": "cells",
}
"""Kind of evidence -> its anchor."""


def _parts(group: Json, name: str, scatters: Sequence[Chart]) -> list[Section]:
    length: list[Block] = list(study_tables.lengths(group))
    if scatters:
        length.append(
            Figure(
                f"length-{name}",
                scatters,
                f"Length against reward, a mark an answer of the last checkpoint (at most "
                f"{SCATTERED} a design). A cloud that rises to the right pays for words.",
            )
        )
    charts = study_charts
    return [
        Section(
            f"kl-{name}",
            "Proxy and gold against KL",
            [*charts.against_kl(group, name), *study_tables.fits(group)],
        ),
        Section(f"frontier-{name}", "Frontier", list(charts.frontier(group, name))),
        Section(f"curves-{name}", "Learning curves", list(charts.learning_curves(group, name))),
        Section(f"terms-{name}", "Terms of the reward", list(charts.term_stacks(group, name))),
        Section(f"length-{name}", "Length against reward", length),
        Section(
            f"improvement-{name}",
            "Improvement matrix",
            list(study_tables.improvement(group, f"matrix-{name}")),
        ),
        Section(f"profiles-{name}", "Performance profiles", list(charts.profiles(group, name))),
    ]


def _viewer(galleries: Sequence[Block], shown: int, total: int) -> list[Block]:
    if not total:
        return [Words("No rollouts were kept.", "soft")]
    said = (
        f"Showing {shown} of {total:,} rollouts of the last checkpoint. Best and worst are by gold "
        "(without gold, by proxy); the third kind ranks far higher by proxy than by gold."
    )
    return [Words(said), rollouts.LEGEND, *galleries]


def _anchors(parts: Sequence[Section]) -> set[str]:
    blocks = [block for part in parts for block in part.blocks]
    return {block.anchor for block in blocks if isinstance(block, (Figure, Gallery, Table))} | {
        "cells"
    }


def _scatter(design: str, found: Sequence[Rollout]) -> list[Chart]:
    known = [r for r in found if r.proxy is not None and math.isfinite(r.proxy) and r.tokens]
    if not known:
        return []
    kept = known[:: math.ceil(len(known) / SCATTERED)]
    golds = [r.gold for r in kept if r.gold is not None]
    mean = sum(golds) / len(golds) if golds else math.inf
    high = [r for r in kept if r.gold is not None and r.gold > mean]
    rest = [r for r in kept if r.gold is None or r.gold <= mean]
    series = []
    named = ((high, "gold above the mean"), (rest, "not above" if golds else "answers"))
    for tone, (these, words) in enumerate(named):
        x, y = [float(len(r.tokens)) for r in these], [r.proxy or 0.0 for r in these]
        notes = [f"{r.prompt_id}, {r.where}: {len(r.tokens)} tokens, {r.proxy:.3g}" for r in these]
        series.append(Series(words, x, y, tone=tone, style="points", notes=notes))
    return [Chart(design, "length, tokens", "proxy of an answer", series)]


def _failures(files: StudyFiles) -> Iterator[Block]:
    yield from study_tables.failures(files.summary)
    failed = [row for row in files.summary["cells"]["rows"] if row["status"] == "failed"]
    for row in failed[:TRACEBACKS]:
        trouble = read_object(files.cell(row["id"]) / "FAILED.json")
        if trouble.get("traceback"):
            yield Listing(f"Traceback of {row['id']}", str(trouble["traceback"]))


def _origins(files: StudyFiles) -> list[Block]:
    blocks = list(origins(list(files.configs.values())))
    text = read_text(files.folder / "study.toml")
    return [*blocks, Listing("study.toml", text)] if text else blocks
