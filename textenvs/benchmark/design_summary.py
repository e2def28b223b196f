"""What the summary says of one design, apart from its verdicts; see `summary` for the schema."""

from typing import Any

import numpy as np

from textenvs.benchmark.groups import DesignRuns
from textenvs.benchmark.statistics import length_bias, over_optimisation
from textenvs.benchmark.statistics.intervals import Interval, iqm_interval, mean_interval
from textenvs.benchmark.statistics.learning import normalised_area, tokens_to
from textenvs.benchmark.statistics.resampling import RESAMPLES

CURVE_POINTS = 33
PER_ANSWER = {"kl_sequence": "kl", "win_rate": "win", "length": "length"}
"""Metrics of a checkpoint that are means over answers -> their name in the answers."""


class DesignSummary:
    """Summarises the runs of one design with one seed of resampling."""

    def __init__(
        self,
        runs: DesignRuns,
        gold: str | None,
        *,
        seed: int = 0,
        resamples: int = RESAMPLES,
    ) -> None:
        """Keep the runs.

        Args:
            runs: Of the design.
            gold: `gold/NAME`, or None.
            seed: Of the resampling.
            resamples: R.
        """
        self.runs, self.gold = runs, gold
        self._options = {"seed": seed, "resamples": resamples}

    def curves(self) -> dict[str, Any]:
        """Return every metric at every checkpoint: mean, bounds, and the value of each seed."""
        runs = self.runs
        metrics: dict[str, Any] = {}
        for name in self._metrics():
            table = self._table(name)
            rows = [self._mean(table[:, c]) for c in range(table.shape[1])]
            metrics[name] = {
                "mean": [row.estimate for row in rows],
                "low": [row.low for row in rows],
                "high": [row.high for row in rows],
                "seeds": table.mean(axis=2).tolist(),
            }
        return {
            "checkpoint": runs.numbers.tolist(),
            "timesteps": runs.timesteps.mean(axis=0).tolist() if runs.seeds else [],
            "episodes": runs.episodes.mean(axis=0).tolist() if runs.seeds else [],
            "metrics": metrics,
        }

    def final_iqm(self) -> dict[str, Interval]:
        """Return the interquartile means of proxy and gold at the last checkpoint."""
        return {
            name: iqm_interval(self._table(name)[:, -1], **self._options) for name in self._judged()
        }

    def gain(self) -> dict[str, Interval]:
        """Return how far proxy and gold moved from the first checkpoint to the last."""
        tables = {name: self._table(name) for name in self._judged()}
        return {name: self._mean(table[:, -1] - table[:, 0]) for name, table in tables.items()}

    def win_rate(self) -> Interval | None:
        """Return the final win rate against the reference, over seeds and prompts."""
        if not self.runs.seeds or "win_rate" not in self._metrics():
            return None
        return self._mean(self._table("win_rate")[:, -1])

    def learning(self, threshold: float | None) -> dict[str, Any] | None:
        """Return the normalised area under gold, and the tokens to a threshold.

        Args:
            threshold: Of gold; None where no design has gold.
        """
        tables = self.runs.whole(self.gold) if self.gold else None
        if tables is None or threshold is None:
            return None
        gold = tables[0]
        known = ~np.isnan(self._table(str(self.gold))).any(axis=(1, 2))
        timesteps = self.runs.timesteps[known]
        tokens = tokens_to(gold.mean(axis=2), timesteps, threshold)
        median = float(np.quantile(tokens, 0.5, method="higher"))
        return {
            "area": self._mean(normalised_area(gold, timesteps)),
            "threshold": threshold,
            "tokens": tokens.tolist(),
            "median_tokens": median,
            "reached": int(np.isfinite(tokens).sum()),
        }

    def length(self) -> dict[str, Any] | None:
        """Return how proxy and gold hang together with length."""
        tables = self.runs.whole("proxy", "length")
        if tables is None:
            return None
        proxy, length = tables
        found: dict[str, Any] = {
            "proxy": self._known_mean(length_bias.spearman(proxy, length)),
            "proxy_given_gold": None,
            "gold": None,
            "gold_slope": None,
            "residual": None,
            "change": self._mean(length[:, -1] - length[:, 0]),
        }
        golds = self.runs.whole(self.gold, "proxy", "length") if self.gold else None
        if golds is not None:
            gold, proxy, length = golds
            ends = (gold[:, 0], length[:, 0], gold[:, -1], length[:, -1])
            found |= {
                "proxy_given_gold": self._known_mean(
                    length_bias.partial_spearman(proxy, length, gold)
                ),
                "gold": self._known_mean(length_bias.spearman(gold, length)),
                "gold_slope": self._known_mean(length_bias.slope(gold, length)),
                "residual": self._mean(length_bias.length_residual(*ends)),
            }
        return found

    def over_optimisation(self) -> dict[str, Any] | None:
        """Return both fits of gold against sqrt(KL), and the peak of the mean curve."""
        tables = self.runs.whole(self.gold, self.runs.kl) if self.gold else None
        if tables is None:
            return None
        gold, kl = tables[0], tables[1].mean(axis=2)
        fits = {
            form: over_optimisation.fit(form, gold, kl, **self._options)
            for form in over_optimisation.FORMS
        }
        found = {form: fit for form, fit in fits.items() if fit is not None}
        if len(found) < len(fits):
            return None
        better = max(found, key=lambda form: np.nan_to_num(found[form].r_squared, nan=-np.inf))
        means = gold.mean(axis=(0, 2))
        peak = int(means.argmax())
        return {
            **{form: _fit(fit) for form, fit in found.items()},
            "better": better,
            "peak": {
                "checkpoint": int(self.runs.numbers[peak]),
                "kl": float(kl[:, peak].mean()),
                "gold": float(means[peak]),
            },
        }

    def unscored(self) -> dict[str, int]:
        """Return how many of the last answers have no proxy, or no gold."""
        names = [name for name in self._judged() if name in self.runs.answers]
        return {name: int(np.isnan(self.runs.answers[name][:, -1]).sum()) for name in names}

    def final(self) -> dict[str, Interval]:
        """Return every metric at the last checkpoint."""
        if not self.runs.seeds:
            return {}
        return {name: self._mean(self._table(name)[:, -1]) for name in self._metrics()}

    def _metrics(self) -> list[str]:
        """Return the metrics of whole checkpoints, and those that only the answers have."""
        own = set(PER_ANSWER.values())
        names = {*self.runs.metrics, *(name for name in self.runs.answers if name not in own)}
        return sorted(names)

    def _judged(self) -> list[str]:
        names = ("proxy", self.gold)
        return [name for name in names if name is not None and self.runs.scores(name) is not None]

    def _table(self, name: str) -> np.ndarray:
        """Return a metric by answer where the answers have it, float64 [S, C, P or 1]."""
        answers = self.runs.answers
        inner = PER_ANSWER.get(name, name)
        table = self.runs.scores(inner if inner in answers else name)
        if table is None:
            raise KeyError(name)
        return table

    def _mean(self, scores: np.ndarray) -> Interval:
        return mean_interval(scores, **self._options)

    def _known_mean(self, by_checkpoint: np.ndarray) -> Interval:
        """Return the mean over checkpoints, then seeds, of float64 [S, C] with NaN."""
        return self._mean(length_bias.mean_of_known(by_checkpoint, 1))


def _fit(fit: over_optimisation.Fit) -> dict[str, Any]:
    d = np.linspace(0.0, fit.farthest, CURVE_POINTS)
    peak = fit.peak
    return {
        "alpha": fit.alpha,
        "beta": fit.beta,
        "r_squared": fit.r_squared,
        "start": fit.start,
        "peak_d": peak,
        "peak_kl": Interval(peak.estimate**2, peak.low**2, peak.high**2, peak.n),
        "peak_inside": fit.peak_inside,
        "range_d": [0.0, fit.farthest],
        "curve": {"d": d.tolist(), "gold": fit.curve(d).tolist()},
    }
