"""Designs against each other: paired comparisons, the dominated ones and the best."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from textenvs.benchmark.groups import DesignRuns, Group
from textenvs.benchmark.statistics.comparison import (
    holm,
    paired_difference,
    probability_of_improvement,
)
from textenvs.benchmark.statistics.intervals import NOTHING, Interval, mean_interval
from textenvs.benchmark.statistics.kl_curves import at_matched_kl, reach
from textenvs.benchmark.statistics.resampling import RESAMPLES
from textenvs.benchmark.verdicts import Rules, Verdict

PRECISE = 10_000
"""Resamples of the differences: Holm's correction multiplies the smallest p-value there is,
2 / (R + 1), by the number of pairs."""
REACHED = 0.8
"""Share of the seeds of each design that must reach the matched KL."""
DISQUALIFYING = ("hacked", "collapsed", "length-biased", "saturated")
BEST_RULE = (
    "Of the designs with enough seeds that are not hacked, collapsed, length-biased or saturated "
    "and whose gold rose in training (interval above 0), the one with the highest mean final gold. "
    "Designs whose Holm-corrected paired difference from it is not significant are tied with it."
)


@dataclass(frozen=True)
class Comparison:
    """Final gold of two designs, seed by seed and prompt by prompt.

    Attributes:
        a: Name of a design.
        b: Name of another.
        seeds: Seeds that both finished.
        difference: Gold of a minus gold of b.
        p: Two-sided, of no difference; NaN below two common seeds.
        p_holm: Corrected for all pairs of the group.
        kl_difference: Sequence KL of a minus that of b.
        matched_kl: Nats that both designs reach in most of their seeds; NaN without KL.
        matched_difference: Gold of a minus gold of b at that KL.
        improvement: P(a seed of a > one of b) + P(=) / 2.
    """

    a: str
    b: str
    seeds: int
    difference: Interval
    p: float
    p_holm: float
    kl_difference: Interval
    matched_kl: float
    matched_difference: Interval
    improvement: Interval

    def seen_from(self, name: str) -> "Comparison":
        """Return it with `name` as a."""
        if name == self.a:
            return self
        chance = self.improvement
        return replace(
            self,
            a=self.b,
            b=self.a,
            difference=_negated(self.difference),
            kl_difference=_negated(self.kl_difference),
            matched_difference=_negated(self.matched_difference),
            improvement=Interval(1 - chance.estimate, 1 - chance.high, 1 - chance.low, chance.n),
        )

    def decision(self, rules: Rules) -> str:
        """Return "a is better", "b is better", "not separated" or "not enough seeds"."""
        if self.seeds < rules.least_seeds:
            return "not enough seeds"
        if not self.p_holm < rules.alpha or self.difference.estimate == 0:
            return "not separated"
        return "a is better" if self.difference.estimate > 0 else "b is better"


@dataclass(frozen=True)
class Best:
    """The design to take.

    Attributes:
        design: None if there is none.
        tied_with: Designs that are not separated from it.
        words: Why.
    """

    design: str | None
    tied_with: tuple[str, ...]
    words: str


def comparisons_of(group: Group, *, seed: int = 0, resamples: int = RESAMPLES) -> list[Comparison]:
    """Return every pair of designs that have gold; none without a gold metric."""
    if group.gold is None:
        return []
    measured = [runs for runs in group.designs if runs.whole(group.gold) is not None]
    rows = [
        _comparison(group, a, b, seed, resamples) for a, b in itertools.combinations(measured, 2)
    ]
    corrected = holm([row.p for row in rows])
    return [replace(row, p_holm=p) for row, p in zip(rows, corrected, strict=True)]


def dominated(runs: DesignRuns, comparisons: Sequence[Comparison], rules: Rules) -> Verdict:
    """Return whether another design has gold at least as high at no more KL.

    Either its gold is higher (Holm-corrected) and its KL not higher, or its KL is lower and its
    gold not lower by more than `Rules.least_fall`: one of the two must be seen, not guessed.
    """
    rivals = [row.seen_from(runs.name) for row in comparisons if runs.name in (row.a, row.b)]
    if not rivals:
        return Verdict("dominated", None, "no gold metric, or no other design to compare with")
    tested = [row for row in rivals if row.decision(rules) != "not enough seeds"]
    if not tested:
        return Verdict("dominated", None, "no other design shares enough seeds", {}, runs.ids)
    for row in tested:
        gold, kl = _negated(row.difference), _negated(row.kl_difference)
        better = row.decision(rules) == "b is better"
        no_more_kl = kl.estimate <= 0 or kl.low <= 0
        as_good = gold.low > -rules.least_fall
        if (better and no_more_kl) or (as_good and kl.high < 0):
            words = (
                f"{row.b} has {gold.estimate:+.3g} gold [{gold.low:.3g}, {gold.high:.3g}] at "
                f"{kl.estimate:+.3g} nats [{kl.low:.3g}, {kl.high:.3g}]"
            )
            evidence = {"by": row.b, "gold_ahead": gold, "kl_ahead": kl, "p_holm": row.p_holm}
            return Verdict("dominated", True, words, evidence, runs.ids)
    words = f"none of {len(tested)} other designs has as much gold at no more KL"
    return Verdict("dominated", False, words, {"compared": len(tested)}, runs.ids)


def best_of_group(
    group: Group,
    verdicts: Mapping[str, Sequence[Verdict]],
    gains: Mapping[str, Interval],
    comparisons: Sequence[Comparison],
    rules: Rules,
) -> Best:
    """Return the best design by `BEST_RULE`.

    Args:
        group: The designs.
        verdicts: Design -> those of `Judge`.
        gains: Design -> final gold minus the first, paired.
        comparisons: Of the group.
        rules: The thresholds.
    """
    gold = group.gold
    if gold is None:
        return Best(None, (), "there is no gold metric to choose by")
    finals: dict[str, float] = {}
    for runs in group.designs:
        faults = {verdict.name for verdict in verdicts[runs.name] if verdict.holds}
        if faults & {"not-enough-seeds", *DISQUALIFYING} or not gains[runs.name].low > 0:
            continue
        tables = runs.whole(gold)
        if tables is not None:
            finals[runs.name] = float(tables[0][:, -1].mean())
    if not finals:
        words = "no design has enough seeds, no fault, and gold that rose in training"
        return Best(None, (), words)
    name = max(finals, key=lambda design: finals[design])
    rows = [row.seen_from(name) for row in comparisons if name in (row.a, row.b)]
    rows = [row for row in rows if row.b in finals]
    tied = tuple(row.b for row in rows if row.decision(rules) != "a is better")
    gain = gains[name]
    words = (
        f"{name} ends at gold {finals[name]:.3g}, {gain.estimate:+.3g} "
        f"[{gain.low:.3g}, {gain.high:.3g}] from its start; "
    )
    ahead = [row.b for row in rows if row.b not in tied]
    if ahead:
        words += f"ahead of {', '.join(ahead)}; "
    words += f"not separated from {', '.join(tied)}" if tied else "no other is tied with it"
    return Best(name, tied, words)


def best_verdict(runs: DesignRuns, best: Best) -> Verdict:
    """Return whether a design is the best of its group."""
    if best.design is None:
        return Verdict("best", False, best.words)
    if best.design == runs.name:
        evidence = {"tied_with": list(best.tied_with)}
        return Verdict("best", True, best.words, evidence, runs.ids)
    tied = runs.name in best.tied_with
    words = f"{best.design} is{', not separated from this one' if tied else ''}"
    return Verdict("best", False, words, {"best": best.design, "tied": tied}, runs.ids)


def sound(runs: DesignRuns, verdicts: Sequence[Verdict], gain: Interval) -> Verdict:
    """Return whether no fault was found, all were looked for, and gold rose in training."""
    found = [v.name for v in verdicts if v.holds and v.name in DISQUALIFYING]
    untested = [v.name for v in verdicts if v.holds is None and v.name in DISQUALIFYING]
    evidence: dict[str, Any] = {"faults": found, "untested": untested, "gold_gain": gain}
    if found:
        return Verdict("sound", False, f"{', '.join(found)}", evidence, runs.ids)
    if untested:
        words = f"no fault found; not tested: {', '.join(untested)}"
        return Verdict("sound", None, words, evidence, runs.ids)
    told = f"gold moved by {gain.estimate:+.3g} [{gain.low:.3g}, {gain.high:.3g}] in training"
    return Verdict("sound", bool(gain.low > 0), f"no fault found; {told}", evidence, runs.ids)


def _comparison(
    group: Group, a: DesignRuns, b: DesignRuns, seed: int, resamples: int
) -> Comparison:
    options = {"seed": seed, "resamples": resamples}
    gold_a, gold_b = group.common(str(group.gold), a, b)
    kl_a, kl_b = group.common(a.kl, a, b)
    if not len(gold_a):
        return Comparison(
            a.name, b.name, 0, NOTHING, np.nan, np.nan, NOTHING, np.nan, NOTHING, NOTHING
        )
    precise = max(PRECISE, resamples)
    pivot = paired_difference(gold_a[:, -1], gold_b[:, -1], seed=seed, resamples=precise)
    kl, matched_kl, matched = NOTHING, float("nan"), NOTHING
    if len(kl_a) and not (np.isnan(kl_a).any() or np.isnan(kl_b).any()):
        kl = paired_difference(kl_a[:, -1], kl_b[:, -1], **options).interval()
        of_a, of_b = kl_a.mean(axis=2), kl_b.mean(axis=2)
        matched_kl = min(reach(of_a, REACHED), reach(of_b, REACHED))
        at_a = at_matched_kl(gold_a, of_a, matched_kl)
        at_b = at_matched_kl(gold_b, of_b, matched_kl)
        matched = mean_interval(at_a - at_b, **options)
    whole_a, whole_b = a.whole(str(group.gold)), b.whole(str(group.gold))
    chance = NOTHING
    if whole_a and whole_b:
        chance = probability_of_improvement(whole_a[0][:, -1], whole_b[0][:, -1], **options)
    return Comparison(
        a.name,
        b.name,
        pivot.n,
        pivot.interval(),
        pivot.p_value(),
        float("nan"),
        kl,
        matched_kl,
        matched,
        chance,
    )


def _negated(interval: Interval) -> Interval:
    return Interval(-interval.estimate, -interval.high, -interval.low, interval.n)
