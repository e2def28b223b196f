"""What a chart shows: series over two axes, told apart by shape as well as by colour."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

Style = Literal["line", "curve", "points", "steps", "bars"]
"""`line`: marked points, joined; `curve`: joined, unmarked; `points`: marked, with whiskers;
`steps`: constant between the points; `bars`: stacked upon the other bars of the chart."""

WIDEST = 2.0
"""A band wider than so many times the range of all means is cut at the edge of the chart."""

TONES = 8
"""Colours, each with a marker and a dash of its own; a ninth series begins again."""


@dataclass(frozen=True)
class Series:
    """Points with a name.

    Attributes:
        name: Of the legend; "" keeps it out.
        x: float [N]; a point that is not finite leaves a gap.
        y: float [N].
        low: float [N], lower bounds of y; empty without.
        high: float [N], upper bounds of y.
        tone: Which colour, marker and dash, from 0.
        style: How it is drawn.
        notes: Text [N] that a pointer over each point shows; empty for its figures.
    """

    name: str
    x: Sequence[float]
    y: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()
    tone: int = 0
    style: Style = "line"
    notes: Sequence[str] = ()

    def points(self) -> list[int]:
        """Return the indices of the finite points."""
        return [
            i
            for i, (x, y) in enumerate(zip(self.x, self.y, strict=True))
            if math.isfinite(x) and math.isfinite(y)
        ]

    def runs(self) -> list[list[int]]:
        """Return the finite points as unbroken runs of indices."""
        runs: list[list[int]] = []
        for i in self.points():
            if runs and runs[-1][-1] == i - 1:
                runs[-1].append(i)
            else:
                runs.append([i])
        return runs


@dataclass(frozen=True)
class Chart:
    """Series over two axes.

    Attributes:
        title: Over the chart.
        x_label: With its unit.
        y_label: With its unit.
        series: Drawn in this order.
        x_range: The least range of the x axis.
        y_range: The least range of the y axis.
        x_names: Names of x = 0, 1, ... in place of numbers.
    """

    title: str
    x_label: str
    y_label: str
    series: Sequence[Series]
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    x_names: Sequence[str] = ()

    @property
    def empty(self) -> bool:
        """Whether no series has a finite point."""
        return not any(series.points() for series in self.series)

    def heights(self) -> list[float]:
        """Return what the y axis must reach: the points, and bounds that leave them legible."""
        kept = [(series, i) for series in self.series for i in series.points()]
        means = [series.y[i] for series, i in kept]
        if not means:
            return []
        room = WIDEST * (max(means) - min(means) or abs(max(means)) or 1.0)
        bounds = [b[i] for series, i in kept for b in (series.low, series.high) if b]
        least, most = min(means) - room, max(means) + room
        return means + [min(most, max(least, b)) for b in bounds if math.isfinite(b)]


@dataclass(frozen=True)
class Scale:
    """A linear map from figures to places on the page.

    Attributes:
        low: The figure at `start`.
        high: The figure at `end`; above `low`.
        start: Place, in user units of the drawing.
        end: Place; below `start` on a y axis.
    """

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the place of a figure."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Return about `count` round figures within the scale, rising."""
        step = round_step((self.high - self.low) / count)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        return [round(i * step, 12) + 0.0 for i in range(first, last + 1)]


def spread(values: Iterable[float], least: tuple[float, float] | None) -> tuple[float, float]:
    """Return the range of an axis: all finite values, a margin around them, never empty.

    A range that is asked for is left as it is where the values keep within it.
    """
    finite = [value for value in values if math.isfinite(value)]
    if least is not None:
        low, high = min([least[0], *finite]), max([least[1], *finite])
        if low < high:
            margin = 0.04 * (high - low)
            below = low - margin if low < least[0] else low
            return below, high + margin if high > least[1] else high
        finite = [low]
    if not finite:
        return 0.0, 1.0
    low, high = min(finite), max(finite)
    if low == high == 0:
        return 0.0, 1.0
    margin = 0.06 * (high - low) or max(0.5 * abs(high), 1e-3)
    return low - margin, high + margin


def round_step(step: float) -> float:
    """Return the least of 1, 2, 2.5, 5 and 10, times a power of ten, that is not below a step."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(n * power for n in (1, 2, 2.5, 5, 10) if n * power >= step * (1 - 1e-9))
