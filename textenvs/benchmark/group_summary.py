"""What the summary says of the designs of one environment and agent; see `summary`."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from textenvs.benchmark.design_summary import DesignSummary
from textenvs.benchmark.groups import DesignRuns, Group
from textenvs.benchmark.ranking import (
    BEST_RULE,
    Comparison,
    best_of_group,
    best_verdict,
    comparisons_of,
    dominated,
    sound,
)
from textenvs.benchmark.statistics.intervals import NOTHING, Interval, mean_interval
from textenvs.benchmark.statistics.kl_curves import at_matched_kl, on_frontier, reach
from textenvs.benchmark.statistics.profiles import profile
from textenvs.benchmark.verdicts import UNTESTED, Judge, Rules, Verdict, headline

GRID = 9
"""Points of the grid of matched KL."""
THRESHOLDS = 41
"""Points of the performance profiles."""
HALF_WAY = 0.5
"""The threshold of gold lies this far between the start and the best final mean."""


class GroupSummary:
    """Summarises the designs of one environment and agent."""

    def __init__(self, group: Group, rules: Rules, seed: int, resamples: int) -> None:
        """Compare the designs.

        Args:
            group: The designs.
            rules: Thresholds of the verdicts.
            seed: Of every resampling.
            resamples: How many.
        """
        self.group, self.rules = group, rules
        self.options = {"seed": seed, "resamples": resamples}
        self.parts = {
            runs.name: DesignSummary(runs, group.gold, **self.options) for runs in group.designs
        }
        self.comparisons = comparisons_of(group, **self.options)

    def made(self) -> dict[str, Any]:
        """Return GROUP of the schema."""
        group = self.group
        judge = Judge(group.gold, self.rules, **self.options)
        verdicts = {runs.name: judge.verdicts(runs) for runs in group.designs}
        gains = {
            name: part.gain().get(group.gold or "", NOTHING) for name, part in self.parts.items()
        }
        best = best_of_group(group, verdicts, gains, self.comparisons, self.rules)
        for runs in group.designs:
            own = verdicts[runs.name]
            own.append(dominated(runs, self.comparisons, self.rules))
            own.append(best_verdict(runs, best))
            own.append(sound(runs, own, gains[runs.name]))
        threshold = self._threshold()
        return {
            "environment": group.environment,
            "agent": group.agent,
            "gold": group.gold,
            "hacking": UNTESTED if group.gold is None else "tested",
            "designs": [self._design(r, verdicts[r.name], threshold) for r in group.designs],
            "comparisons": [self._comparison(row) for row in self.comparisons],
            "best": {
                "design": best.design,
                "tied_with": list(best.tied_with),
                "rule": BEST_RULE,
                "words": best.words,
            },
            "matched_kl": self._matched_kl(),
            "frontier": self._frontier(),
            "profiles": self._profiles(),
        }

    def _design(
        self, runs: DesignRuns, verdicts: Sequence[Verdict], threshold: float | None
    ) -> dict[str, Any]:
        part = self.parts[runs.name]
        return {
            "name": runs.name,
            "seeds": list(runs.seeds),
            "finished": len(runs.seeds),
            "failed": runs.failed,
            "missing": runs.missing,
            "verdict": headline(verdicts, len(runs.seeds), self.group.gold),
            "verdicts": [_fields(verdict) for verdict in verdicts],
            "curves": part.curves(),
            "final": part.final(),
            "final_iqm": part.final_iqm(),
            "gain": part.gain(),
            "win_rate": part.win_rate(),
            "learning": part.learning(threshold),
            "length": part.length(),
            "over_optimisation": part.over_optimisation(),
            "unscored": part.unscored(),
        }

    def _comparison(self, row: Comparison) -> dict[str, Any]:
        matched = {"kl": row.matched_kl, "difference": row.matched_difference}
        return {
            "a": row.a,
            "b": row.b,
            "seeds": row.seeds,
            "difference": row.difference,
            "p": row.p,
            "p_holm": row.p_holm,
            "kl_difference": row.kl_difference if row.kl_difference.n else None,
            "matched_kl": matched if math.isfinite(row.matched_kl) else None,
            "probability_of_improvement": row.improvement,
            "decision": row.decision(self.rules),
        }

    def _curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Return gold [S, C, P] and KL [S, C] of the designs that have both."""
        if self.group.gold is None:
            return {}
        tables = {runs.name: runs.whole(self.group.gold, runs.kl) for runs in self.group.designs}
        return {name: (t[0], t[1].mean(axis=2)) for name, t in tables.items() if t is not None}

    def _matched_kl(self) -> dict[str, Any] | None:
        """Return gold at KLs from 0 to the farthest a design gets with half of its seeds.

        A point needs half of the design's seeds: the few that go farther are not its mean.
        """
        curves = self._curves()
        if not curves:
            return None
        farthest = max(reach(kl) for _, kl in curves.values())
        grid = np.linspace(0.0, math.sqrt(farthest), GRID) ** 2
        designs: dict[str, list[Interval | None]] = {}
        for name, (gold, kl) in curves.items():
            rows: list[Interval | None] = []
            for target in grid:
                matched = mean_interval(at_matched_kl(gold, kl, float(target)), **self.options)
                rows.append(matched if 2 * matched.n >= len(gold) else None)
            designs[name] = rows
        return {"kl": grid.tolist(), "designs": designs}

    def _frontier(self) -> list[dict[str, Any]]:
        points = [
            (name, c, float(kl[:, c].mean()), float(gold[:, c].mean()))
            for name, (gold, kl) in self._curves().items()
            for c in range(gold.shape[1])
        ]
        if not points:
            return []
        best = on_frontier(np.array([p[2] for p in points]), np.array([p[3] for p in points]))
        numbers = {runs.name: runs.numbers for runs in self.group.designs}
        return [
            {
                "design": name,
                "checkpoint": int(numbers[name][c]),
                "kl": kl,
                "gold": gold,
                "on_frontier": bool(flag),
            }
            for (name, c, kl, gold), flag in zip(points, best, strict=True)
        ]

    def _finals(self) -> dict[str, np.ndarray]:
        if self.group.gold is None:
            return {}
        tables = {runs.name: runs.whole(self.group.gold) for runs in self.group.designs}
        return {name: table[0][:, -1] for name, table in tables.items() if table is not None}

    def _profiles(self) -> dict[str, Any] | None:
        finals = self._finals()
        if not finals:
            return None
        means = np.concatenate([scores.mean(axis=1) for scores in finals.values()])
        thresholds = np.linspace(means.min(), means.max(), THRESHOLDS)
        profiles = {name: profile(s, thresholds, **self.options) for name, s in finals.items()}
        return {
            "thresholds": thresholds.tolist(),
            "designs": {name: _fields(found) for name, found in profiles.items()},
        }

    def _threshold(self) -> float | None:
        """Return the gold half-way between the start of all and the best final mean."""
        finals = self._finals()
        if not finals:
            return None
        gold = str(self.group.gold)
        tables = [table for runs in self.group.designs if (table := runs.whole(gold)) is not None]
        start = float(np.mean(np.concatenate([table[0][:, 0].mean(axis=1) for table in tables])))
        best = max(float(scores.mean()) for scores in finals.values())
        return start + HALF_WAY * (best - start)


def _fields(record: Any) -> dict[str, Any]:
    """Return the fields of a dataclass, their values as they are."""
    return {part.name: getattr(record, part.name) for part in dataclasses.fields(record)}
