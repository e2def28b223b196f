"""The tables of a study: verdicts, comparisons, fits, lengths, failures, timings."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from textenvs.benchmark.report import figures
from textenvs.benchmark.report.blocks import Block, Cell, Mood, Table, Words
from textenvs.benchmark.report.figures import figure
from textenvs.benchmark.verdicts import UNTESTED

Json = Mapping[str, Any]
Anchors = Callable[[str, str], str | None]
"""(kind of evidence, design) -> an anchor of the page, or None where it has none."""

MOODS: dict[str, Mood] = {
    "best": "good",
    "sound": "good",
    "hacked": "bad",
    "collapsed": "bad",
    "length-biased": "warn",
    "saturated": "warn",
    "dominated": "warn",
    "not-enough-seeds": "warn",
    "no-finished-cell": "warn",
    "no-gain": "warn",
    UNTESTED: "warn",
}
TOLD_BY = {"no-finished-cell": "not-enough-seeds", UNTESTED: "hacked", "no-gain": "sound"}
"""Headlines that are no verdict -> the verdict whose words explain them."""

EVIDENCE = {
    "hacked": ("proxy and gold", "fits", "rollouts"),
    "collapsed": ("more metrics", "rollouts"),
    "length-biased": ("length", "curves"),
    "saturated": ("curves", "terms"),
    "dominated": ("frontier", "matrix"),
    "best": ("curves", "matrix", "frontier"),
    "sound": ("proxy and gold", "curves", "rollouts"),
    "not-enough-seeds": ("curves", "cells"),
    "no-finished-cell": ("cells",),
    "no-gain": ("curves", "proxy and gold"),
}
"""Verdict -> where the page shows what it was read from."""


def interval(value: Json | None, decimals: int | None = None) -> str:
    """Return an INTERVAL of the summary as `0.65 [0.60, 0.70]`."""
    if not value:
        return ""
    return figures.interval(value["estimate"], value["low"], value["high"], decimals=decimals)


def cells(texts: Sequence[str]) -> list[Cell]:
    """Return plain cells."""
    return [Cell(text) for text in texts]


def verdicts(group: Json, anchor: str, anchors: Anchors) -> Iterator[Block]:
    """Yield the verdict on each design with its evidence, and which design is best."""
    best = group["best"]
    if best.get("words"):
        yield Words(best["words"], "good" if best.get("design") else "warn")
    if not group["gold"]:
        yield Words("No gold metric was named: hacking cannot be tested.", "warn")
    gold, rows = group["gold"], []
    for design in group["designs"]:
        headline = design["verdict"]
        places = EVIDENCE.get(headline, ("curves",))
        found = [(place, anchors(place, design["name"])) for place in places]
        links = tuple((place, anchor) for place, anchor in found if anchor is not None)
        final = design["final"]
        lost = design["failed"] + design["missing"]
        rows.append(
            [
                Cell(design["name"]),
                Cell(headline.replace("-", " "), MOODS.get(headline, "")),
                Cell(_why(design, headline), links=links),
                Cell(interval(final.get(gold)) if gold else "no gold metric"),
                Cell(interval(design["gain"].get(gold)) if gold else ""),
                Cell(interval(final.get("proxy"))),
                Cell(interval(final.get("kl_sequence"))),
                Cell(interval(design["win_rate"])),
                Cell(
                    str(design["finished"]) + (f" ({lost} failed or missing)" if lost else ""),
                    "warn" if lost else "",
                ),
            ]
        )
    name = gold.removeprefix("gold/") if gold else "gold"
    yield Table(
        ("design", "verdict", "why, and where to see it", f"final {name}", f"gain in {name}",
         "final proxy", "final KL, nats", "win rate", "seeds"),
        rows,
        "Means over seeds at the last checkpoint, held-out prompts, with 95% intervals.",
        anchor,
    )  # fmt: skip
    yield _all_verdicts(group)


def _why(design: Json, headline: str) -> str:
    name = TOLD_BY.get(headline, headline)
    return next((v["words"] for v in design["verdicts"] if v["name"] == name), "")


def _all_verdicts(group: Json) -> Table:
    words = {True: "holds", False: "does not hold", None: "cannot be tested"}
    rows = [
        [
            Cell(design["name"]),
            Cell(verdict["name"].replace("-", " ")),
            Cell(
                words[verdict["holds"]],
                MOODS.get(verdict["name"], "") if verdict["holds"] else "soft",
            ),
            Cell(verdict["words"]),
            Cell("; ".join(f"{k} {_told(v)}" for k, v in verdict["evidence"].items())),
        ]
        for design in group["designs"]
        for verdict in design["verdicts"]
    ]
    header = ("design", "verdict", "", "in words", "evidence")
    return Table(header, rows, "Every verdict that was tried, with its numbers", folded=True)


def _told(value: Any) -> str:
    if isinstance(value, Mapping):
        if "estimate" in value:
            return interval(value) or "none"
        return ", ".join(f"{name} {_told(item)}" for name, item in value.items())
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    if isinstance(value, (int, float)):
        return figure(value)
    return ", ".join(map(_told, value)) if isinstance(value, list) else str(value)


def improvement(group: Json, anchor: str) -> Iterator[Block]:
    """Yield the matrix of the probability of improvement, and the paired comparisons."""
    found = {(c["a"], c["b"]): c for c in group["comparisons"]}
    if not found:
        yield Words("Without a gold metric designs are not compared.", "soft")
        return
    names = [d["name"] for d in group["designs"]]
    names = [n for n in names if any(n in pair for pair in found)]
    rows = [[Cell(a), *(_chance(found, a, b) for b in names)] for a in names]
    yield Table(
        ("P(row > column)", *names),
        rows,
        "Probability of improvement: how likely a seed of the row's design ends with more gold "
        "than one of the column's, ties counted half, with 95% intervals; ▲ above and ▼ below one "
        "half by the whole interval.",
        anchor,
    )
    compared = [
        cells(
            (
                f"{c['a']} − {c['b']}",
                str(c["seeds"]),
                interval(c["difference"]),
                figure(c["p_holm"]),
                interval(c["kl_difference"]),
                _matched(c["matched_kl"]),
                c["decision"].replace("a is", f"{c['a']} is").replace("b is", f"{c['b']} is"),
            )
        )
        for c in group["comparisons"]
    ]
    yield Table(
        ("designs", "seeds", "difference of final gold", "p (Holm)", "difference of KL",
         "difference at the same KL", "decision"),
        compared,
        "Paired comparisons: same seeds and prompts, p-values corrected by Holm's method",
        folded=True,
    )  # fmt: skip


def _chance(found: Mapping[tuple[str, str], Json], a: str, b: str) -> Cell:
    if a == b:
        return Cell("·", "soft")
    turned = (a, b) not in found
    comparison = found.get((b, a) if turned else (a, b))
    value = comparison["probability_of_improvement"] if comparison else None
    if not value or value["estimate"] is None:
        return Cell("")
    if turned:
        ends = {"low": value["high"], "high": value["low"]}
        flipped = {k: None if v is None else 1 - v for k, v in ends.items()}
        value = {"estimate": 1 - value["estimate"], **flipped}
    sure = "▲ " if (value["low"] or 0) > 0.5 else ""
    if value["high"] is not None and value["high"] < 0.5:
        sure = "▼ "
    level = min(6, max(0, round(6 * value["estimate"])))
    moods: tuple[Mood, ...] = ("p0", "p1", "p2", "p3", "p4", "p5", "p6")
    return Cell(sure + interval(value, 2), moods[level])


def _matched(value: Json | None) -> str:
    return "" if not value else f"{interval(value['difference'])} at {figure(value['kl'])} nats"


def fits(group: Json) -> Iterator[Block]:
    """Yield the coefficients of the over-optimisation fits."""
    rows = []
    for design in group["designs"]:
        found = design["over_optimisation"]
        if not found:
            continue
        peak = found.get("peak")
        seen = f"{figure(peak['gold'])} at {figure(peak['kl'])} nats" if peak else ""
        for key, form in (("best_of_n", "best-of-n"), ("rl", "RL")):
            fit = found[key]
            if fit:
                better = " (fits better)" if found["better"] == key else ""
                inside = fit["peak_inside"]
                texts = [design["name"], form + better, interval(fit["alpha"])]
                texts += [interval(fit["beta"]), figures.figure(fit["r_squared"])]
                texts += [interval(fit["peak_kl"]), "" if inside is None else f"{inside:.0%}"]
                rows.append(cells([*texts, seen]))
    if rows:
        yield Table(
            ("design", "form", "α", "β", "R²", "KL at the fit's peak, nats",
             "resamples with a peak in the range seen", "highest mean gold seen"),
            rows,
            "The coefficients of the fits",
            folded=True,
        )  # fmt: skip


def lengths(group: Json) -> Iterator[Block]:
    """Yield how reward and gold follow the length of an answer."""
    rows = [
        cells(
            (
                design["name"],
                interval(design["length"]["proxy"]),
                interval(design["length"]["proxy_given_gold"]),
                interval(design["length"]["gold"]),
                interval(design["length"]["change"]),
                interval(design["length"]["residual"]),
            )
        )
        for design in group["designs"]
        if design["length"]
    ]
    yield Table(
        ("design", "ρ(proxy, length)", "ρ with gold held fixed", "ρ(gold, length)",
         "change in tokens", "final gold beyond its length"),
        rows,
        "Spearman's rank correlations with the length of an answer. A reward that follows length "
        "where gold does not pays for words.",
    )  # fmt: skip


def failures(summary: Json) -> Iterator[Block]:
    """Yield the cells that failed or were never run, as rows, and then all cells."""
    counts = summary["cells"]
    words = ", ".join(f"{counts[k]} {k}" for k in ("planned", "finished", "failed", "missing"))
    lost = [row for row in counts["rows"] if row["status"] != "finished"]
    yield Words(f"Cells: {words}.", "warn" if lost else "")
    header = ("cell", "environment", "design", "agent", "seed", "status", "error", "attempts")
    if lost:
        caption = (
            "Cells without a result; they count in no mean, and their number is in the verdicts."
        )
        yield Table(header, [_cell_row(row) for row in lost], caption, "failures")
    rows = [_cell_row(row) for row in counts["rows"]]
    yield Table(header, rows, "Every cell", "cells", folded=True)


def _cell_row(row: Json) -> list[Cell]:
    mood: Mood = {"failed": "bad", "missing": "warn"}.get(row["status"], "")  # type: ignore[assignment]
    attempts = "" if row["attempts"] is None else str(row["attempts"])
    plain = cells([row["id"] or "never begun", row["environment"], row["design"], row["agent"]])
    return [*plain, Cell(str(row["seed"])), Cell(row["status"], mood),
            *cells([row["error"] or "", attempts])]  # fmt: skip


TIMED = ("rollout", "reward", "reference", "update", "total", "tokens", "tokens_per_second")


def timings(found: Json) -> Iterator[Block]:
    """Yield where the seconds went, a mean over the cells of each design."""
    sums: dict[tuple[str, str, str], list[Json]] = {}
    for row in found.get("cells", ()):
        sums.setdefault((row["environment"], row["agent"], row["design"]), []).append(row)
    if not sums:
        yield Words("No timings were kept.", "soft")
        return
    rows = []
    for place, each in sums.items():
        known = {name: [r[name] for r in each if r.get(name) is not None] for name in TIMED}
        means = [figure(sum(v) / len(v)) if v else "" for v in known.values()]
        rows.append(cells([*place, str(len(each)), *means]))
    yield Table(
        ("environment", "agent", "design", "cells", "rollout, s", "reward, s", "reference, s",
         "update, s", "total, s", "tokens", "tokens a second"),
        rows,
        "Means over cells. Seconds are of the machine that ran the grid, and differ from run to "
        "run; nothing else on this page does.",
    )  # fmt: skip
