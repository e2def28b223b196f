"""`textenvs replay`: a recording through its environment again."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from agents.command_line.console import Console
from agents.command_line.settings import EnvSettings
from agents.runs import write_text
from textenvs.rendering import visible
from textenvs.replay import Difference, ReplayReport, replay

SHOWN = 10
"""Differences printed; --json holds them all."""


def replay_recording(arguments: Sequence[str], console: Console) -> int:
    """Replay recorded episodes and compare them bit for bit; 1 if something differs."""
    parser = argparse.ArgumentParser(
        prog="textenvs replay", description=replay_recording.__doc__, allow_abbrev=False
    )
    parser.add_argument("file", help="a recording, e.g. runs/train-0/episodes.jsonl")
    parser.add_argument(
        "-o",
        "--option",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="an option of the environment over the recorded one",
    )
    parser.add_argument(
        "--reward",
        metavar="NAME|module:object",
        help="score with another reward; scores are then shown, not compared",
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there too")
    given = parser.parse_args(list(arguments))
    options = EnvSettings(option=tuple(given.option)).options()
    report = replay(given.file, reward=given.reward, options=options)
    _print(report, console)
    if given.json is not None:
        write_text(given.json, json.dumps(report.as_dict(), indent=2) + "\n")
    return int(not report.ok)


def _print(report: ReplayReport, console: Console) -> None:
    env_id = visible(report.header.env_id or "an environment without id")
    console.say(f"{report.episodes} episodes of {env_id}, {report.equal} equal")
    for difference in report.differences[:SHOWN]:
        console.say(_sentence(difference))
    if len(report.differences) > SHOWN:
        console.say(f"... and {len(report.differences) - SHOWN} more differences")
    means = report.means()
    if not means:
        return
    table = Table("mean", "recorded", "rescored" if report.rescored else "replayed")
    for name, (recorded, replayed) in means.items():
        table.add_row(Text(visible(name)), _figure(recorded), _figure(replayed))
    console.print(table)


def _sentence(difference: Difference) -> str:
    # `repr` and `visible`: a recording is a file from anywhere, and may hold escape sequences.
    return (
        f"line {difference.line}, prompt {difference.prompt_id!r:.60}: "
        f"{visible(difference.what)} recorded {_shown(difference.recorded)}, "
        f"replayed {_shown(difference.replayed)}"
    )


def _shown(value: Any) -> str:
    words = repr(value)
    return words if len(words) <= 100 else f"{words[:100]}..."


def _figure(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
