"""`textenvs check`: is an environment sound?"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.table import Table
from rich.text import Text

from agents.command_line.console import Console
from agents.command_line.settings import EnvSettings
from agents.runs import write_text
from textenvs.checker import Report, check
from textenvs.checker.run import SAMPLED_PROMPTS
from textenvs.errors import ConfigError

STYLES = {"ok": "green", "fault": "bold red", "note": "yellow", "skipped": "dim"}


def print_check(arguments: Sequence[str], console: Console) -> int:
    """Check an environment and print what was found; 1 if it is at fault."""
    parser = report_parser("check", print_check.__doc__, SAMPLED_PROMPTS)
    given = read_arguments(parser, arguments)
    report = check(given.id, seed=given.seed, sampled_prompts=given.prompts, **given.options)
    if given.json is not None:
        write_text(given.json, json.dumps(report.to_dict(), indent=2) + "\n")
    show_report(report, console)
    return 0 if report.ok else 1


def report_parser(command: str, words: str | None, prompts: int) -> argparse.ArgumentParser:
    """Return the parser of a command that reports on an environment.

    Args:
        command: Its name.
        words: What it does.
        prompts: How many prompts it looks at by default.
    """
    parser = argparse.ArgumentParser(prog=f"textenvs {command}", description=words)
    parser.add_argument("id", help='of the environment; "module:id" imports the module first')
    parser.add_argument("-o", "--option", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the report there as well")
    parser.add_argument("--seed", type=int, default=0, help="of every random choice")
    parser.add_argument(
        "--prompts",
        type=int,
        default=prompts,
        metavar="N",
        help=f"prompts to look at (default {prompts})",
    )
    return parser


def read_arguments(parser: argparse.ArgumentParser, arguments: Sequence[str]) -> argparse.Namespace:
    """Return what was given, `options` the environment's.

    Raises:
        ConfigError: if an option is no NAME=VALUE, or the folder of `--json` is not there.
    """
    given = parser.parse_args(list(arguments))
    if given.json is not None and not given.json.absolute().parent.is_dir():
        raise ConfigError(f"--json: there is no folder {str(given.json.parent)!r}; make it first")
    given.options = EnvSettings(env=given.id, option=tuple(given.option)).options()
    return given


def show_report(report: Report, console: Console) -> None:
    """Print a report as a table, with a line that sums it up."""
    table = Table("", "check", "finding", title=report.subject)
    for row in report.rows:
        mark = Text("FAULT" if row.status == "fault" else row.status, STYLES[row.status])
        table.add_row(mark, Text(row.name), Text(row.words))
    console.print(table)
    faults = report.count("fault")
    verdict = "sound" if report.ok else f"{faults} fault{'s' if faults > 1 else ''}"
    console.say(
        f"{report.subject}: {verdict} ({report.count('ok')} ok, {report.count('note')} notes, "
        f"{report.count('skipped')} skipped)"
    )
