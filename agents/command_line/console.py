"""What the commands print: rich on a terminal, plain lines off it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

Advance = Callable[[str], None]
PLAIN_EVERY = 10
"""Off a terminal, every so many steps give a line."""


class Console:
    """Prints; text of users and models is never read as markup."""

    def __init__(self) -> None:
        """Print to standard output."""
        self.rich = RichConsole(highlight=False, markup=False)
        if not self.rich.is_terminal:
            self.rich.width = 120

    def say(self, text: str) -> None:
        """Print a line."""
        self.rich.print(text, soft_wrap=True)

    def print(self, renderable: Any) -> None:
        """Print a table or anything else rich knows."""
        self.rich.print(renderable)

    @contextmanager
    def progress(self, name: str, total: int) -> Iterator[Advance]:
        """Yield a function to call after each of `total` steps with a word on it."""
        if not self.rich.is_terminal:
            yield self._plain(name, total)
            return
        columns = (
            TextColumn(name),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.description}", markup=False),
        )
        with Progress(*columns, console=self.rich) as bar:
            task = bar.add_task("", total=total)
            yield lambda words: bar.update(task, advance=1, description=words)

    def _plain(self, name: str, total: int) -> Advance:
        done = 0

        def advance(words: str) -> None:
            nonlocal done
            done += 1
            if done % PLAIN_EVERY == 0 or done == total:
                self.say(f"{name} {done}/{total}  {words}")

        return advance

    def side_by_side(self, headers: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Print texts in columns."""
        table = Table(*headers, show_lines=True)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))
        self.print(table)


def metrics_table(
    title: str, rows: Mapping[str, Mapping[str, Sequence[float]]], names: Sequence[str]
) -> Table:
    """Return a table of intervals: one row a metric, one column a stage.

    Args:
        title: Above the table.
        rows: Stage -> metric -> (mean, low, high).
        names: Metrics in the order to show them; one that no stage has is left out.
    """
    table = Table("", title=title)
    for stage in rows:
        table.add_column(stage, justify="right")
    for name in names:
        if any(name in row for row in rows.values()):
            table.add_row(name, *(_cell(row[name]) if name in row else "" for row in rows.values()))
    return table


def _cell(interval: Sequence[float]) -> Text:
    mean, low, high = interval
    return Text(f"{mean:.3f}\n{low:.2f}..{high:.2f}")
