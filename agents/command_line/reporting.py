"""`textenvs report`: one page of a run or a benchmark."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from agents.command_line.console import Console
from textenvs.benchmark.report import write_report


def report(arguments: Sequence[str], console: Console) -> int:
    """Write one page of a run or a benchmark, readable offline, and the same as Markdown."""
    parser = argparse.ArgumentParser(
        prog="textenvs report", description=report.__doc__, allow_abbrev=False
    )
    parser.add_argument(
        "folder", type=Path, metavar="RUN_OR_BENCH", help="of a run, or of a study; finished or not"
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="the page (default report.html in the folder); FILE.md and FILE_charts/ go beside it",
    )
    given = parser.parse_args(list(arguments))
    path = write_report(given.folder, given.out)
    console.say(f"Report: {path} ({path.stat().st_size / 1e6:.2f} MB)")
    console.say(f"Markdown: {path.with_suffix('.md')}")
    return 0
