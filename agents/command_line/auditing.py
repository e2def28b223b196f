"""`textenvs audit`: how will a reward be gamed?"""

import json
import math
from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from agents.command_line.checking import STYLES, read_arguments, report_parser
from agents.command_line.console import Console
from agents.runs import write_text
from textenvs.audit import Report, Row, audit
from textenvs.audit.run import SAMPLED_PROMPTS

EXAMPLE_LENGTH = 60
"""Characters of an example answer that the table shows; the JSON file has all of it."""


def print_audit(arguments: Sequence[str], console: Console) -> int:
    """Try to game a reward and print what was paid; 1 if an exploit was."""
    parser = report_parser("audit", print_audit.__doc__, SAMPLED_PROMPTS)
    parser.add_argument(
        "--reward",
        metavar="NAME|MODULE:OBJECT",
        help="audit this reward in place of the environment's own",
    )
    parser.add_argument(
        "--gold", metavar="METRIC", help="measure answers by this metric of the environment"
    )
    parser.add_argument(
        "--reference",
        default="tiny-lm",
        metavar="MODEL",
        help="the model best-of-n samples from (default tiny-lm); none for no model",
    )
    parser.add_argument(
        "--no-search", action="store_true", help="only what is scripted: seconds, not minutes"
    )
    parser.add_argument("--all", action="store_true", help="print what was not paid as well")
    given = read_arguments(parser, arguments)
    report = audit(
        given.id,
        given.reward,
        seed=given.seed,
        n_prompts=given.prompts,
        gold=given.gold,
        reference=None if given.reference == "none" else given.reference,
        search=not given.no_search,
        **given.options,
    )
    if given.json is not None:
        write_text(given.json, json.dumps(report.to_dict(), indent=2) + "\n")
    show_audit(report, console, everything=given.all)
    return 0 if report.ok else 1


def show_audit(report: Report, console: Console, *, everything: bool = False) -> None:
    """Print a report, worst first, and a line that sums it up.

    Args:
        report: What was found.
        console: Prints.
        everything: Whether to show what was not paid or could not be tried as well.
    """
    rows = [row for row in report.rows if everything or row.status in ("fault", "note")]
    if rows:
        table = Table("", "exploit", title=report.subject)
        for name in ("reward", "honest", "gold"):
            table.add_column(name, justify="right")
        table.add_column("finding")
        for row in rows:
            table.add_row(*_cells(row))
        console.print(table)
    console.say(f"gold: {report.gold}")
    faults = report.count("fault")
    found = "no exploit was found" if report.ok else f"{faults} fault{'s' if faults > 1 else ''}"
    console.say(
        f"{report.subject}: {found} on {report.n_prompts} prompts ({report.count('ok')} ok, "
        f"{report.count('note')} notes, {report.count('skipped')} skipped)"
    )


def _cells(row: Row) -> list[Text]:
    mark = Text("FAULT" if row.status == "fault" else row.status, STYLES[row.status])
    figures = [Text(_figure(value)) for value in (row.reward, row.honest, row.gold)]
    finding = row.words if row.answer is None else f"{row.words}\n{_example(row.answer)}"
    return [mark, Text(row.name), *figures, Text(finding)]


def _figure(value: float | None) -> str:
    return "" if value is None or not math.isfinite(value) else f"{value:.2f}"


def _example(answer: str) -> str:
    """Return an answer on one line, what cannot be seen escaped."""
    shown = repr(answer)
    cut = f"{shown[:EXAMPLE_LENGTH]}..." if len(shown) > EXAMPLE_LENGTH else shown
    return f"example: {cut}"
