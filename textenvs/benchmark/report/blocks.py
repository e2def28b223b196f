"""A report as data: sections of words, tables, charts and rollouts, in no format yet.

The page and the Markdown file are written from the same blocks, so that they cannot say
different things. All texts are plain: whoever writes a format escapes them.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from textenvs.benchmark.report.chart import Chart
from textenvs.benchmark.report.rollout_view import Piece, RolloutView

Mood = Literal["", "good", "bad", "warn", "soft", "p0", "p1", "p2", "p3", "p4", "p5", "p6"]
"""How a cell looks; `p0` to `p6` shade a probability, p3 being one half."""


@dataclass(frozen=True)
class Cell:
    """A cell of a table.

    Attributes:
        text: Its words.
        mood: Its looks; the words say the same.
        links: (text, anchor of the page) pairs that follow the words.
    """

    text: str
    mood: Mood = ""
    links: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Words:
    """A paragraph.

    Attributes:
        text: What it says.
        mood: How it looks.
        samples: Marked text that the page shows before it, as a legend does.
    """

    kind: ClassVar[str] = "words"
    text: str
    mood: Mood = ""
    samples: Sequence[Piece] = ()


@dataclass(frozen=True)
class Table:
    """Rows under a header.

    Attributes:
        header: Names of the columns.
        rows: Each as long as the header.
        caption: What to read off it.
        anchor: Links lead here; "" for none.
        folded: Whether the page shows it only when asked to.
    """

    kind: ClassVar[str] = "table"
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    anchor: str = ""
    folded: bool = False


@dataclass(frozen=True)
class Figure:
    """Charts side by side under one caption.

    Attributes:
        name: Of the files beside the Markdown report; letters, digits and dashes.
        charts: At least one.
        caption: What to read off them.
        folded: Whether the page shows it only when asked to.
    """

    kind: ClassVar[str] = "figure"
    name: str
    charts: Sequence[Chart]
    caption: str
    folded: bool = False

    @property
    def anchor(self) -> str:
        """Links lead here."""
        return f"figure-{self.name}"


@dataclass(frozen=True)
class Gallery:
    """Rollouts that were picked, under the name of what they are of.

    Attributes:
        name: A design, or the run.
        anchor: Links lead here.
        picks: (why these, the rollouts).
        opened: Whether the page shows them without being asked.
    """

    kind: ClassVar[str] = "gallery"
    name: str
    anchor: str
    picks: Sequence[tuple[str, Sequence[RolloutView]]]
    opened: bool = False


@dataclass(frozen=True)
class Listing:
    """Text of a file, letter for letter."""

    kind: ClassVar[str] = "listing"
    name: str
    text: str


Block = Words | Table | Figure | Gallery | Listing


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it.

    Attributes:
        anchor: Links lead here.
        title: The heading.
        blocks: In order.
        parts: Sections of the next level.
    """

    anchor: str
    title: str
    blocks: Sequence[Block] = ()
    parts: Sequence["Section"] = ()


@dataclass(frozen=True)
class Page:
    """A report.

    Attributes:
        title: The heading.
        lead: What it is of, in a sentence or two.
        sections: In order.
        warnings: Sentences that come before everything else.
    """

    title: str
    lead: str
    sections: Sequence[Section]
    warnings: Sequence[str] = field(default=())

    def figures(self) -> list[Figure]:
        """Return all figures, in order."""
        sections = [part for section in self.sections for part in (section, *section.parts)]
        return [block for part in sections for block in part.blocks if isinstance(block, Figure)]
