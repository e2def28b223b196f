"""Charts and the words of their numbers."""

import math
import re
import xml.etree.ElementTree as ElementTree

import pytest

from textenvs.benchmark.report.chart import TONES, Chart, Scale, Series, round_step, spread
from textenvs.benchmark.report.figures import figure, interval, ticks_as_words
from textenvs.benchmark.report.study_charts import TOGETHER, panels
from textenvs.benchmark.report.svg import chart_css, draw, draw_sheet

SVG = "{http://www.w3.org/2000/svg}"


def chart(*series: Series, **options: object) -> Chart:
    return Chart("title", "tokens", "reward", series, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (0.0, "0"),
        (12, "12"),
        (1234567.0, "1.23e+06"),
        (36864.0, "36,864"),
        (0.6543, "0.654"),
        (-0.05, "−0.050"),
        (20.76, "20.8"),
        (0.0000123, "1.23e−05"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, ""),
        (None, ""),
    ],
)
def test_a_figure_has_few_digits(value: float | None, words: str) -> None:
    assert figure(value) == words


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ((0.05, -0.0004, 0.105), "0.050 [−0.000, 0.105]"),
        ((12.34, 11.0, 13.0), "12.3 [11.0, 13.0]"),
        ((1.0, None, None), "1"),
        ((None, None, None), ""),
        ((2.0, 1.0, math.inf), "2 [1, ∞]"),
    ],
)
def test_an_interval_has_the_same_decimals_throughout(
    values: tuple[float | None, float | None, float | None], words: str
) -> None:
    assert interval(*values) == words


@pytest.mark.parametrize(
    ("low", "high", "words"),
    [
        (0.0, 1.0, ["0.0", "0.2", "0.4", "0.6", "0.8", "1.0"]),
        (0.0, 2.5, ["0.0", "0.5", "1.0", "1.5", "2.0", "2.5"]),
        (-1.2, 1.2, ["−1.0", "−0.5", "0.0", "0.5", "1.0"]),
        (0.0, 0.125, ["0.000", "0.025", "0.050", "0.075", "0.100", "0.125"]),
        (0.0, 40_000.0, ["0", "10,000", "20,000", "30,000", "40,000"]),
    ],
)
def test_ticks_are_round_and_told_apart(low: float, high: float, words: list[str]) -> None:
    assert ticks_as_words(Scale(low, high, 0, 100).ticks()) == words


def test_a_round_step_is_never_below_what_was_asked() -> None:
    for step in (0.1, 0.11, 0.2, 0.21, 0.3, 0.6, 3.0, 7.0):
        assert step * (1 - 1e-9) <= round_step(step) <= 2.5 * step


def test_a_scale_maps_its_ends() -> None:
    scale = Scale(2.0, 4.0, 300.0, 100.0)
    assert [scale(2.0), scale(3.0), scale(4.0)] == [300.0, 200.0, 100.0]


def test_an_axis_is_never_empty() -> None:
    for values in ([], [math.nan], [3.0], [0.0], [-2.0, -2.0]):
        low, high = spread(values, None)
        assert low < high
    assert spread([0.2, 0.7], (0.0, 1.0)) == (0.0, 1.0)
    assert spread([0.2, 3.0], (0.0, 1.0))[1] > 3.0


@pytest.mark.parametrize("style", ["line", "curve", "points", "steps", "bars"])
def test_every_style_is_sound_xml_with_a_note_on_each_point(style: str) -> None:
    series = Series("a", [0, 1, 2], [1, 2, 3], [0, 1, 2], [2, 3, 4], 3, style)  # type: ignore[arg-type]
    root = ElementTree.fromstring(draw_sheet([chart(series)]))
    notes = [title.text for title in root.iter(f"{SVG}title")]
    assert notes == [
        "a: 0, 1.00 [0.00, 2.00]",
        "a: 1, 2.00 [1.00, 3.00]",
        "a: 2, 3.00 [2.00, 4.00]",
    ]


def test_axes_carry_their_labels() -> None:
    svg = draw(chart(Series("a", [0, 1], [0, 1])))
    assert ">tokens</text>" in svg and ">reward</text>" in svg and ">title</text>" in svg


def test_a_gap_breaks_a_line() -> None:
    values = [1.0, 2.0, math.nan, 2.0, 1.0]
    svg = draw(chart(Series("", [0, 1, 2, 3, 4], values)))
    assert svg.count('class="line t0"') == 2
    assert svg.count('class="mark t0"') == 4
    assert "nan" not in svg


def test_nothing_to_draw_is_said() -> None:
    assert "no figures" in draw(chart(Series("a", [0.0], [math.nan])))
    assert "no figures" in draw(chart())


def test_bars_stack_up_from_zero_and_down_from_it() -> None:
    made = chart(
        Series("gain", [0.0], [2.0], tone=0, style="bars"),
        Series("more", [0.0], [1.0], tone=1, style="bars"),
        Series("charge", [0.0], [-1.0], tone=2, style="bars"),
    )
    bars = {
        tone: (float(top), float(height))
        for tone, top, height in re.findall(
            r'class="bar (t\d)" x="[^"]+" y="([^"]+)" width="[^"]+" height="([^"]+)"><title>',
            draw(made),
        )
    }
    (gain, one), (more, two), (charge, three) = bars["t0"], bars["t1"], bars["t2"]
    assert one == pytest.approx(2 * two, abs=0.2) and two == pytest.approx(three, abs=0.2)
    assert more + two == pytest.approx(gain, abs=0.2)  # `more` stands on `gain`
    assert charge == pytest.approx(gain + one, abs=0.2)  # `charge` hangs from zero


def test_text_of_users_is_escaped() -> None:
    bad = "</svg><script>alert(1)</script>\x00\u202e"
    made = Chart(bad, bad, bad, [Series(bad, [0, 1], [0, 1], notes=[bad, bad])], x_names=[bad, bad])
    svg = draw(made)
    assert "<script" not in svg and "\x00" not in svg and "\u202e" not in svg
    ElementTree.fromstring(draw_sheet([made]))


def test_series_differ_by_more_than_colour() -> None:
    svg = draw(chart(*(Series(str(i), [0, 1], [i, i], tone=i) for i in range(TONES))))
    markers = {
        re.sub(r"^M\S+ [\d.]+", "", d) for d in re.findall(r'class="mark t\d" d="(.+?)"', svg)
    }
    assert len(markers) == TONES
    dashes = re.findall(r"\.line\.t\d \{ stroke-dasharray: ([^;]+);", chart_css())
    assert len(set(dashes)) == TONES - 1  # the first is solid


def test_many_series_are_shared_out_over_panels_with_the_same_axes() -> None:
    series = [Series(f"s{i}", [0, 1], [i, i + 1]) for i in range(2 * TOGETHER + 1)]
    parts = panels(chart(*series))
    assert [len(part.series) for part in parts] == [6, 6, 5]
    assert [s.name for part in parts for s in part.series] == [s.name for s in series]
    assert {(part.x_range, part.y_range) for part in parts} == {((0, 1), (0, 17))}
    assert all(len({s.tone for s in part.series}) == len(part.series) for part in parts)
    assert panels(chart(*series[:TOGETHER])) == [chart(*series[:TOGETHER])]


def test_a_wide_band_does_not_flatten_its_line() -> None:
    made = chart(Series("a", [0, 1], [0.4, 0.6], [-50.0, -50.0], [50.0, math.nan]))
    assert made.heights() == pytest.approx([0.4, 0.6, 0.0, 1.0, 0.0])
    band = re.search(r'class="band t0" d="([^"]+)"', draw(made))
    assert band is not None
    heights = [float(place.split()[1].rstrip("Z")) for place in band[1][1:].split("L")]
    assert (min(heights), max(heights)) == (28.0, 254.0)  # the edges of the chart
