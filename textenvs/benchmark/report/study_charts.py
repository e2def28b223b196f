"""The charts of a study, one group (an environment and an agent) at a time.

Everything is read from `summary.json`; its schema stands in `textenvs.benchmark.summary`.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from textenvs.benchmark.report.blocks import Block, Figure, Words
from textenvs.benchmark.report.chart import Chart, Series

Json = Mapping[str, Any]

TOGETHER = 8
"""More designs than this are shared out over several panels with the same axes."""

METRIC_LABELS = {
    "proxy": "proxy: the trained reward",
    "kl_sequence": "KL to the reference, nats a sequence",
    "kl_token": "KL to the reference, nats a token",
    "entropy": "entropy, nats a token",
    "length": "length, tokens",
    "distinct_1": "distinct-1, share of words",
    "distinct_2": "distinct-2, share of word pairs",
    "self_bleu": "self-BLEU, 0 to 1",
    "copied_fraction": "share of words copied from the context",
    "win_rate": "win rate against the reference",
}
"""Metric -> the label of its axis; gold metrics and unknown ones go by their names."""

FROM_ZERO = (0.0, 0.0)
"""The least range of an axis that begins at 0."""

Y_RANGES = {"win_rate": (0.0, 1.0), "copied_fraction": (0.0, 1.0), "kl_sequence": FROM_ZERO}


def label_of(metric: str) -> str:
    """Return the label of a metric's axis."""
    if metric.startswith("gold/"):
        return f"gold: {metric.removeprefix('gold/')}"
    return METRIC_LABELS.get(metric, metric)


def numbers(values: Sequence[Any]) -> list[float]:
    """Return JSON's numbers as floats, null as NaN."""
    return [math.nan if value is None else float(value) for value in values]


def curve(design: Json, metric: str) -> list[float]:
    """Return the mean of a metric at each checkpoint; empty where it was not measured."""
    values = design["curves"]["metrics"].get(metric)
    return numbers(values["mean"]) if values else []


def band(design: Json, metric: str) -> tuple[list[float], list[float]]:
    """Return the lower and upper bounds of a metric at each checkpoint; empty if one lacks."""
    values = design["curves"]["metrics"][metric]
    return _bounds(numbers(values["mean"]), numbers(values["low"]), numbers(values["high"]))


def _bounds(
    mean: Sequence[float], low: list[float], high: list[float]
) -> tuple[list[float], list[float]]:
    """Return bounds if every finite mean has them, else none: below two seeds there are none."""
    known = all(
        math.isfinite(bottom) and math.isfinite(top)
        for middle, bottom, top in zip(mean, low, high, strict=True)
        if math.isfinite(middle)
    )
    return (low, high) if known else ([], [])


def panels(chart: Chart) -> list[Chart]:
    """Return a chart, or several with the same axes where it has too many series."""
    names = list(dict.fromkeys(series.name for series in chart.series))
    if len(names) <= TOGETHER:
        return [chart]
    count = math.ceil(len(names) / TOGETHER)
    share = math.ceil(len(names) / count)
    x_range = _range([*(chart.x_range or ()), *(x for s in chart.series for x in s.x)])
    y_range = _range(chart.heights())
    parts = []
    for i in range(count):
        kept = {name: tone for tone, name in enumerate(names[i * share : (i + 1) * share])}
        series = [
            Series(s.name, s.x, s.y, s.low, s.high, kept[s.name], s.style, s.notes)
            for s in chart.series
            if s.name in kept
        ]
        title = f"{chart.title} ({i + 1} of {count})"
        parts.append(Chart(title, chart.x_label, chart.y_label, series, x_range, y_range))
    return parts


def _range(values: Iterable[float]) -> tuple[float, float] | None:
    finite = [value for value in values if math.isfinite(value)]
    return (min(finite), max(finite)) if finite else None


def against_kl(group: Json, name: str) -> Iterator[Block]:
    """Yield proxy and gold against KL, and gold against its root with the fits."""
    gold = group["gold"]
    measured = [d for d in group["designs"] if any(map(math.isfinite, curve(d, "kl_sequence")))]
    if not measured:
        yield Words("KL to the reference was not measured.", "soft")
        return
    charts = [chart for design in measured for chart in _proxy_and_gold(design, gold)]
    what = "Proxy (the trained reward) and gold" if gold else "Proxy (the trained reward)"
    yield Figure(
        f"kl-{name}",
        charts,
        f"{what} against the KL to the reference: means over seeds with 95% bands, a mark a "
        "checkpoint, training runs left to right. A gold line that turns down while the proxy "
        "still rises is reward hacking. The KL axes differ from panel to panel; where the two "
        "scales differ much, a design has a panel for each.",
    )
    fitted = [_fits(design, gold) for design in measured if gold and design["over_optimisation"]]
    if fitted:
        yield Figure(
            f"fits-{name}",
            fitted,
            "Gold against the root of the KL, with the two forms of Gao et al. "
            "(arXiv:2210.10760): best-of-n, d (α − β d), and RL, d (α − β log d), where d = "
            "√KL. The top of a fit is the KL beyond which more optimisation costs gold; "
            "beyond the marks it is extrapolation.",
        )


def _proxy_and_gold(design: Json, gold: str | None) -> list[Chart]:
    kl = curve(design, "kl_sequence")
    shown = [("proxy", "proxy", 1)] + ([(gold, "gold", 0)] if gold else [])
    lines = [
        Series(words, kl, curve(design, metric), *band(design, metric), tone=tone)
        for metric, words, tone in shown
        if metric and curve(design, metric)
    ]
    label = "KL to the reference, nats a sequence"
    if len(lines) == 2 and not _comparable(lines[0].y, lines[1].y):
        return [
            Chart(f"{design['name']}: {line.name}", label, f"{line.name}, mean", [line], FROM_ZERO)
            for line in lines
        ]
    return [Chart(design["name"], label, "mean over prompts", lines, FROM_ZERO)]


def _comparable(left: Sequence[float], right: Sequence[float]) -> bool:
    """Whether two lines can share an axis: neither would be flat beside the other."""
    ranges = [_range(left), _range(right)]
    known = [pair for pair in ranges if pair is not None]
    if len(known) < 2:
        return True
    widest = max(high - low for low, high in known)
    both = max(high for _, high in known) - min(low for low, _ in known)
    return both <= 2.5 * max(widest, 0.4) and widest <= 20 * max(
        min(high - low for low, high in known), 0.05
    )


def _fits(design: Json, gold: str) -> Chart:
    fit = design["over_optimisation"]
    root = [math.sqrt(max(0.0, kl)) for kl in curve(design, "kl_sequence")]
    series = [
        Series("gold", root, curve(design, gold), *band(design, gold), tone=0, style="points")
    ]
    for tone, (key, words) in enumerate([("best_of_n", "best-of-n form"), ("rl", "RL form")], 1):
        if fit[key] and fit[key].get("curve"):
            r = fit[key]["r_squared"]
            known = "" if r is None else f", R² {r:.2f}"
            line = fit[key]["curve"]
            series.append(
                Series(
                    words + known, numbers(line["d"]), numbers(line["gold"]),
                    tone=tone, style="curve",
                )
            )  # fmt: skip
    return Chart(design["name"], "√KL, √nats", label_of(gold), series, FROM_ZERO)


def frontier(group: Json, name: str) -> Iterator[Block]:
    """Yield gold against KL of all designs, and gold at the same KL."""
    if not group["gold"] or not group["frontier"]:
        yield Words("Without a gold metric and KL there is no frontier.", "soft")
        return
    order = [design["name"] for design in group["designs"]]
    label = label_of(group["gold"])
    series = []
    for tone, design in enumerate(order):
        points = [point for point in group["frontier"] if point["design"] == design]
        notes = [
            f"{design}, checkpoint {p['checkpoint']}: KL {p['kl']:.3g}, gold {p['gold']:.3g}"
            + (", on the frontier" if p["on_frontier"] else "")
            for p in points
        ]
        kl, gold = [p["kl"] for p in points], [p["gold"] for p in points]
        series.append(Series(design, kl, gold, tone=tone, style="points", notes=notes))
    best = sorted((p["kl"], p["gold"]) for p in group["frontier"] if p["on_frontier"])
    charts = panels(Chart("Frontier", "KL, nats a sequence", label, series, FROM_ZERO))
    edge = Series("frontier", [p[0] for p in best], [p[1] for p in best], tone=6, style="steps")
    charts = [
        Chart(c.title, c.x_label, c.y_label, [edge, *c.series], c.x_range, c.y_range)
        for c in charts
    ]
    yield Figure(
        f"frontier-{name}",
        charts + _matched(group, order, label),
        "Frontier: a mark is a checkpoint of a design (mean over seeds); the stepped line joins "
        "those that no other beats in gold at no more KL. Gold at the same KL: designs compared "
        "at equal distance from the reference, with 95% bands; a line ends where its design did "
        "not go further.",
    )


def _matched(group: Json, order: Sequence[str], label: str) -> list[Chart]:
    matched = group["matched_kl"]
    if not matched:
        return []
    series = []
    for tone, design in enumerate(order):
        values = [value or {} for value in matched["designs"].get(design, [])]
        parts = {k: numbers([v.get(k) for v in values]) for k in ("estimate", "low", "high")}
        if not any(map(math.isfinite, parts["estimate"])):
            continue
        bounds = _bounds(*parts.values())
        line = Series(design, matched["kl"], parts["estimate"], *bounds, tone=tone, style="curve")
        series.append(line)
    return panels(Chart("Gold at the same KL", "KL, nats a sequence", label, series, FROM_ZERO))


def learning_curves(group: Json, name: str) -> Iterator[Block]:
    """Yield every metric along training, all designs in one chart."""
    found = dict.fromkeys(m for d in group["designs"] for m in d["curves"]["metrics"])
    first = [m for m in (group["gold"], "proxy", "kl_sequence", "length") if m in found]
    rest = [m for m in found if m not in first and not m.startswith("term/")]
    caption = (
        "means over seeds with 95% bands against the tokens trained on; a mark is an "
        "evaluation on held-out prompts."
    )
    if first:
        charts = [chart for metric in first for chart in _along(group, metric)]
        yield Figure(f"curves-{name}", charts, f"Learning curves: {caption}")
    if rest:
        charts = [chart for metric in rest for chart in _along(group, metric)]
        words = f"{len(rest)} more metrics: {', '.join(rest)}; {caption}"
        yield Figure(f"more-curves-{name}", charts, words, folded=True)


def _along(group: Json, metric: str) -> list[Chart]:
    series = [
        Series(d["name"], numbers(d["curves"]["timesteps"]), curve(d, metric),
               *band(d, metric), tone=tone)
        for tone, d in enumerate(group["designs"])
        if curve(d, metric)
    ]  # fmt: skip
    words, least = label_of(metric), Y_RANGES.get(metric)
    return panels(Chart(metric, "tokens trained on", words, series, y_range=least))


def term_stacks(group: Json, name: str) -> Iterator[Block]:
    """Yield the weighted terms of each design along training, stacked."""
    charts = [chart for d in group["designs"] if (chart := _stack(d)) is not None]
    if not charts:
        yield Words("No design has more than one term.", "soft")
        return
    yield Figure(
        f"terms-{name}",
        charts,
        "What each term adds to the reward at each checkpoint, mean over seeds; what is below 0 "
        "is a charge. The bars of a checkpoint add up to the proxy, unless the design puts its "
        "terms together in another way than by a sum. A term that grows while the others stand "
        "still is the one the policy has learnt.",
    )


def _stack(design: Json) -> Chart | None:
    metrics = [m for m in design["curves"]["metrics"] if m.startswith("term/")]
    if len(metrics) < 2:
        return None
    places = [float(i) for i in range(len(design["curves"]["checkpoint"]))]
    series = [
        Series(metric.removeprefix("term/"), places, curve(design, metric), tone=tone, style="bars")
        for tone, metric in enumerate(metrics)
    ]
    names = [str(k) for k in design["curves"]["checkpoint"]]
    return Chart(design["name"], "checkpoint", "reward an answer", series, x_names=names)


def profiles(group: Json, name: str) -> Iterator[Block]:
    """Yield the performance profiles: which share of seeds is above each gold."""
    found = group["profiles"]
    if not found:
        yield Words("Without a gold metric there are no profiles.", "soft")
        return
    series = [
        Series(design, numbers(found["thresholds"]), numbers(values["share"]),
               numbers(values["low"]), numbers(values["high"]), tone, "curve")
        for tone, (design, values) in enumerate(found["designs"].items())
    ]  # fmt: skip
    label = group["gold"].removeprefix("gold/")
    chart = Chart(
        "Performance profiles", f"threshold of final gold ({label})", "share of seeds above",
        series, y_range=(0.0, 1.0),
    )  # fmt: skip
    yield Figure(
        f"profiles-{name}",
        panels(chart),
        "The share of seeds whose final gold is above a threshold, with 95% bands. A line that is "
        "nowhere below another is the better design at every level; a long slope is a design "
        "that depends on its seed.",
    )
