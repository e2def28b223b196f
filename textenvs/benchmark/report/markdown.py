"""The report as Markdown, with its charts as SVG files in a folder beside it."""

import html
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from textenvs.benchmark.report.blocks import (
    Block,
    Cell,
    Figure,
    Gallery,
    Listing,
    Page,
    Section,
    Table,
    Words,
)
from textenvs.benchmark.report.svg import draw_sheet
from textenvs.rendering import visible

SHOWN_LETTERS = 160
"""Longer answers are cut in the table of rollouts; the page shows them whole."""


def markdown(page: Page, charts: str) -> str:
    """Return the Markdown of a report; all texts are escaped.

    Args:
        page: What it says.
        charts: Folder of the charts, relative to the file.
    """
    lines = [f"# {escape(page.title)}", "", escape(page.lead)]
    lines += [f"\n> **Note:** {escape(warning)}" for warning in page.warnings]
    for section in page.sections:
        lines += _section(section, 2, charts)
        for part in section.parts:
            lines += _section(part, 3, charts)
    return "\n".join(lines).rstrip() + "\n"


def write_charts(page: Page, folder: Path) -> None:
    """Write the charts of a report, one SVG file a figure, into a folder, made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    for figure in page.figures():
        (folder / f"{figure.name}.svg").write_text(draw_sheet(figure.charts), encoding="utf-8")


def escape(text: str) -> str:
    """Return a text that Markdown shows letter for letter, on one line."""
    flat = " ⏎ ".join(visible(text).replace("\t", " ").splitlines())
    return re.sub(r"([\\`*_\[\]|~])", r"\\\1", html.escape(flat, quote=False))


def _section(section: Section, level: int, charts: str) -> Iterator[str]:
    yield from ("", f'<a id="{section.anchor}"></a>', "", f"{'#' * level} {escape(section.title)}")
    for block in section.blocks:
        yield ""
        yield from _block(block, charts)


def _block(block: Block, charts: str) -> Iterator[str]:
    if isinstance(block, Words):
        yield escape(block.text)
    elif isinstance(block, Figure):
        yield f'<a id="{block.anchor}"></a>'
        titles = ", ".join(chart.title for chart in block.charts)
        yield f"\n![{escape(_cut(titles))}]({charts}/{block.name}.svg)\n"
        yield escape(block.caption)
    elif isinstance(block, Table):
        if block.anchor:
            yield f'<a id="{block.anchor}"></a>\n'
        if block.folded:
            yield _summary(block.caption)
        elif block.caption:
            yield escape(block.caption) + "\n"
        yield from _table(block.header, block.rows)
        if block.folded:
            yield "\n</details>"
    elif isinstance(block, Listing):
        yield _summary(block.name)
        # Indented, since no text can end an indented block as it can end a fence.
        yield "\n".join(f"    {line}" for line in visible(block.text).splitlines())
        yield "\n</details>"
    else:
        yield from _gallery(block)


def _summary(text: str) -> str:
    """Return the opening of a folded part; within HTML a backslash would show."""
    return f"<details><summary>{html.escape(visible(text))}</summary>\n"


def _gallery(block: Gallery) -> Iterator[str]:
    yield f'<a id="{block.anchor}"></a>\n\n{escape(block.name)}\n'
    rows = [
        [
            Cell(why),
            Cell(rollout.title),
            *(Cell(rollout.figures.get(name, "")) for name in ("proxy", "gold", "KL", "tokens")),
            Cell(_cut(rollout.plain)),
        ]
        for why, rollouts in block.picks
        for rollout in rollouts
    ]
    yield from _table(("", "prompt", "proxy", "gold", "KL, nats", "tokens", "answer"), rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Iterator[str]:
    yield f"| {' | '.join(map(escape, header))} |"
    yield "|---" * len(header) + "|"
    for row in rows:
        yield f"| {' | '.join(map(_cell, row))} |"


def _cell(cell: Cell) -> str:
    links = [f"[{escape(words)}](#{anchor})" for words, anchor in cell.links]
    return " ".join([escape(cell.text), *links]).strip()


def _cut(text: str) -> str:
    return text if len(text) <= SHOWN_LETTERS else text[: SHOWN_LETTERS - 1] + "…"
