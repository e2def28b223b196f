"""Charts as SVG: marks carry classes, and `chart.css` gives them their colours.

Drawn here rather than by a plotting library, because a page that is read in light and in
dark needs strokes and texts that a style sheet can turn, a tooltip on each point, and few
bytes. No attribute `style` is written: a content-security policy would refuse it.
"""

import html
import math
from collections.abc import Iterator, Sequence
from importlib import resources

from textenvs.benchmark.report.chart import TONES, Chart, Scale, Series, spread
from textenvs.benchmark.report.figures import figure, interval, ticks_as_words
from textenvs.rendering import visible

WIDTH, HEIGHT = 440, 300
LEFT, RIGHT, TOP, BOTTOM = 64, 12, 28, 46
LETTER = 6.2
"""Mean width of a letter of the chart's font, in user units."""

LEGEND_LINE = 18
GAP = 16
"""Between the rows of a sheet."""

SAMPLE = 30
"""Width of the sample of a line in the legend."""

NAME_LETTERS = 44
"""Longer names are cut in the legend."""


def chart_css() -> str:
    """Return the style sheet of charts."""
    return (resources.files("textenvs") / "assets/report/chart.css").read_text(encoding="utf-8")


def draw(chart: Chart) -> str:
    """Return a chart as an `<svg>` element of a page that has `chart.css`; text is escaped."""
    return _element(chart, f'viewBox="0 0 {WIDTH} {_height(chart)}"')


def draw_sheet(charts: Sequence[Chart]) -> str:
    """Return charts side by side as an SVG file of their own, with the style sheet inside."""
    columns = min(len(charts), 2 if len(charts) < 5 else 3)
    rows = [charts[i : i + columns] for i in range(0, len(charts), columns)]
    body, top = [], 0
    for row in rows:
        for column, chart in enumerate(row):
            size = f'width="{WIDTH}" height="{_height(chart)}"'
            body.append(_element(chart, f'x="{column * WIDTH}" y="{top}" {size}'))
        top += max(map(_height, row)) + GAP
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{columns * WIDTH}" height="{top}" '
        f'viewBox="0 0 {columns * WIDTH} {top}" class="chart"><style>{chart_css()}</style>'
        f'<rect class="paper" width="100%" height="100%"/>{"".join(body)}</svg>\n'
    )


def _element(chart: Chart, place: str) -> str:
    title = f'<text class="title" x="{LEFT}" y="17">{_escape(_cut(chart.title, 56))}</text>'
    body = _nothing() if chart.empty else "".join(_body(chart))
    samples = "".join(_sample(series, row, left) for row, left, series in _legend(chart))
    name = _escape(chart.title)
    return f'<svg class="chart" {place} role="img" aria-label="{name}">{title}{body}{samples}</svg>'


def _height(chart: Chart) -> int:
    return HEIGHT + LEGEND_LINE * (1 + max((row for row, *_ in _legend(chart)), default=-1))


def _text(kind: str, x: float, y: float, words: str, anchor: str = "middle") -> str:
    return (
        f'<text class="{kind}" x="{_place(x)}" y="{_place(y)}" text-anchor="{anchor}">'
        f"{_escape(words)}</text>"
    )


def _nothing() -> str:
    return _text("label", WIDTH / 2, HEIGHT / 2, "no figures")


def _body(chart: Chart) -> Iterator[str]:
    across, up = _scales(chart)
    yield from _axes(chart, across, up)
    bars = [series for series in chart.series if series.style == "bars"]
    yield from _bars(bars, across, up)
    others = [series for series in chart.series if series.style != "bars"]
    for series in others:  # bands first, so that no line is under one
        yield from _band(series, across, up)
    for series in others:
        yield from _marks(series, across, up)


def _scales(chart: Chart) -> tuple[Scale, Scale]:
    x_values = [series.x[i] for series in chart.series for i in series.points()]
    y_values = chart.heights()
    x_range, y_range = chart.x_range, chart.y_range
    bars = [series for series in chart.series if series.style == "bars"]
    if bars:
        y_values += [edge for stack in _stacks(bars) for edge in stack[2:]]
        x_range = (min(x_values) - 0.6, max(x_values) + 0.6)
        y_range = y_range or (0.0, 0.0)
    across = Scale(*spread(x_values, x_range), LEFT, WIDTH - RIGHT)
    return across, Scale(*spread(y_values, y_range), HEIGHT - BOTTOM, TOP)


def _axes(chart: Chart, across: Scale, up: Scale) -> Iterator[str]:
    floor = HEIGHT - BOTTOM
    ticks = up.ticks()
    for tick, words in zip(ticks, ticks_as_words(ticks), strict=True):
        kind = "zero" if tick == 0 else "grid"
        yield f'<path class="{kind}" d="M{LEFT} {_place(up(tick))}H{WIDTH - RIGHT}"/>'
        yield _text("tick", LEFT - 6, up(tick) + 4, words, "end")
    named = list(enumerate(chart.x_names))
    ticks = across.ticks(6)
    for value, words in named or zip(ticks, ticks_as_words(ticks), strict=True):
        x = _place(across(value))
        if not named:
            yield f'<path class="grid" d="M{x} {TOP}V{floor}"/>'
        shown = _cut(words, max(4, 60 // len(named))) if named else words
        yield _text("tick", across(value), floor + 15, shown)
    yield f'<path class="axis" d="M{LEFT} {TOP}V{floor}H{WIDTH - RIGHT}"/>'
    yield _text("label", (LEFT + WIDTH - RIGHT) / 2, floor + 34, chart.x_label)
    centre = (TOP + floor) / 2
    yield (
        f'<text class="label" transform="translate(13 {centre}) rotate(-90)" '
        f'text-anchor="middle">{_escape(chart.y_label)}</text>'
    )


def _band(series: Series, across: Scale, up: Scale) -> Iterator[str]:
    if not series.low or series.style == "points":
        return
    for run in series.runs():
        over = [(across(series.x[i]), _within(up(series.high[i]))) for i in run]
        under = [(across(series.x[i]), _within(up(series.low[i]))) for i in reversed(run)]
        whole = [place for place in over + under if all(map(math.isfinite, place))]
        if len(run) == 1:
            yield f'<path class="whisker {_tone(series)}" d="{_path(whole)}"/>'
        else:
            yield f'<path class="band {_tone(series)}" d="{_path(whole)}Z"/>'


def _within(y: float) -> float:
    """Return a place no further than the edge of the chart; NaN stays."""
    return y if math.isnan(y) else min(HEIGHT - BOTTOM, max(TOP, y))


def _marks(series: Series, across: Scale, up: Scale) -> Iterator[str]:
    tone = _tone(series)
    for run in series.runs():
        places = [(across(series.x[i]), up(series.y[i])) for i in run]
        if series.style == "steps":
            places = [place for pair in _corners(places) for place in pair]
        if series.style != "points" and len(places) > 1:
            yield f'<path class="line {tone}" d="{_path(places)}"/>'
    for i in series.points():
        note = _note(series, i)
        x, y = across(series.x[i]), up(series.y[i])
        if series.style == "points" and series.low:
            low, high = _within(up(series.low[i])), _within(up(series.high[i]))
            yield f'<path class="whisker {tone}" d="{_path([(x, low), (x, high)])}"/>'
        if series.style in ("line", "points"):
            yield f'<path class="mark {tone}" d="{_marker(series.tone, x, y)}">{note}</path>'
        else:  # a wide invisible mark, so that a pointer finds it
            yield f'<circle class="touch" cx="{_place(x)}" cy="{_place(y)}" r="5">{note}</circle>'


def _corners(places: Sequence[tuple[float, float]]) -> Iterator[tuple[tuple[float, float], ...]]:
    """Yield each place, and the corner of the step before it."""
    for before, (x, y) in zip([None, *places], places, strict=False):
        yield ((x, y),) if before is None else ((x, before[1]), (x, y))


def _stacks(bars: Sequence[Series]) -> Iterator[tuple[Series, int, float, float]]:
    """Yield (series, index, bottom, top) of each bar; what is below 0 hangs down from it."""
    tops: dict[float, float] = {}
    bottoms: dict[float, float] = {}
    for series in bars:
        for i in series.points():
            ends = tops if series.y[i] >= 0 else bottoms
            begin = ends.get(series.x[i], 0.0)
            ends[series.x[i]] = begin + series.y[i]
            yield series, i, begin, ends[series.x[i]]


def _bars(bars: Sequence[Series], across: Scale, up: Scale) -> Iterator[str]:
    places = sorted({series.x[i] for series in bars for i in series.points()})
    gaps = [b - a for a, b in zip(places, places[1:], strict=False)]
    half = 0.35 * (across(min(gaps, default=1.0)) - across(0.0))
    for series, i, begin, end in _stacks(bars):
        x, top, bottom = across(series.x[i]), up(max(begin, end)), up(min(begin, end))
        yield (
            f'<rect class="bar {_tone(series)}" x="{_place(x - half)}" y="{_place(top)}" '
            f'width="{_place(2 * half)}" height="{_place(bottom - top)}">{_note(series, i)}</rect>'
        )


def _note(series: Series, i: int) -> str:
    if series.notes:
        words = series.notes[i]
    else:
        low, high = (series.low[i], series.high[i]) if series.low else (None, None)
        y = interval(series.y[i], low, high)
        words = f"{series.name}: {figure(series.x[i])}, {y}".removeprefix(": ")
    return f"<title>{_escape(words)}</title>"


def _legend(chart: Chart) -> Iterator[tuple[int, float, Series]]:
    """Yield (row, left, series): names side by side, in as many rows as they need."""
    row, left = 0, float(LEFT)
    seen = set()
    for series in chart.series:
        if not series.name or series.name in seen or not series.points():
            continue
        seen.add(series.name)
        width = SAMPLE + LETTER * len(_cut(series.name, NAME_LETTERS)) + 14
        if left + width > WIDTH and left > LEFT:
            row, left = row + 1, float(LEFT)
        yield row, left, series
        left += width


def _sample(series: Series, row: int, left: float) -> str:
    y = HEIGHT + LEGEND_LINE * row + 6
    tone = _tone(series)
    if series.style == "bars":
        mark = f'<rect class="bar {tone}" x="{left + 6}" y="{y - 5}" width="12" height="10"/>'
    else:
        mark = f'<path class="line {tone}" d="M{_place(left)} {y}h24"/>'
        if series.style in ("line", "points"):
            shape = f'<path class="mark {tone}" d="{_marker(series.tone, left + 12, y)}"/>'
            mark = shape if series.style == "points" else mark + shape
    name = _escape(_cut(series.name, NAME_LETTERS))
    return f'{mark}<text class="legend" x="{_place(left + SAMPLE)}" y="{y + 4}">{name}</text>'


def _marker(tone: int, x: float, y: float) -> str:
    """Return the path of a marker: eight shapes, so that colour is not needed."""
    shapes = (
        "m-3.5 0a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0 -7 0",  # disc
        "m-3.2 -3.2h6.4v6.4h-6.4z",  # square
        "m0 -4.2l4 7h-8z",  # triangle up
        "m0 -4.6l4 4.6l-4 4.6l-4 -4.6z",  # diamond
        "m0 4.2l4 -7h-8z",  # triangle down
        "m-1.3 -4h2.6v2.7h2.7v2.6h-2.7v2.7h-2.6v-2.7h-2.7v-2.6h2.7z",  # plus
        "m-4 -1.6h8v3.2h-8z",  # dash
        "m0 -4.4l4.2 3l-1.6 5h-5.2l-1.6 -5z",  # pentagon
    )
    return f"M{_place(x)} {_place(y)}{shapes[tone % TONES]}"


def _tone(series: Series) -> str:
    return f"t{series.tone % TONES}"


def _path(places: Sequence[tuple[float, float]]) -> str:
    return "M" + "L".join(f"{_place(x)} {_place(y)}" for x, y in places)


def _place(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _cut(text: str, letters: int) -> str:
    return text if len(text) <= letters else text[: letters - 1] + "…"


def _escape(text: str) -> str:
    return html.escape(visible(text))
