"""Over-optimisation curves: gold against the distance from the reference, and its peak.

Gao et al., "Scaling laws for reward model overoptimization" (arXiv:2210.10760, section 3.1):
with d = sqrt(KL), gold rises from its start by

    best of n:  R(d) = d (alpha - beta d)          peak at d = alpha / (2 beta)
    RL:         R(d) = d (alpha - beta log d)      peak at d = exp(alpha / beta - 1)

The distance of best-of-n itself is `textenvs.audit.best_of_n.kl_bound`, its unbiased estimator
`best_of` in the same module.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from textenvs.benchmark.statistics.intervals import LEVEL, Interval
from textenvs.benchmark.statistics.resampling import RESAMPLES, draw

Form = Literal["best_of_n", "rl"]
FORMS: tuple[Form, ...] = ("best_of_n", "rl")
LEAST_POINTS = 3
"""Distances above 0 that a fit of two coefficients needs at least."""


@dataclass(frozen=True)
class Fit:
    """A curve fitted to gold minus its start.

    Attributes:
        form: Which curve.
        alpha: First coefficient.
        beta: Second coefficient; above 0 the curve bends down.
        peak: The d of its maximum; infinite bounds mean that the data allow no peak.
        start: Gold at d = 0.
        r_squared: Share of the variance of the gain explained, over seeds and checkpoints.
        peak_inside: Share of resamples whose peak lies within the distances seen.
        farthest: The largest distance seen.
    """

    form: Form
    alpha: Interval
    beta: Interval
    peak: Interval
    start: float
    r_squared: float
    peak_inside: float
    farthest: float

    def curve(self, d: np.ndarray) -> np.ndarray:
        """Return gold at distances, float64 [N]."""
        columns = basis(self.form, d)
        return self.start + columns @ np.array([self.alpha.estimate, self.beta.estimate])


def basis(form: Form, d: np.ndarray) -> np.ndarray:
    """Return the columns that alpha and beta multiply: float64 [..., 2].

    Args:
        form: Which curve.
        d: float64 [...], at least 0; d log d is 0 at 0.
    """
    if form == "best_of_n":
        return np.stack([d, -(d**2)], axis=-1)
    safe = np.where(d > 0, d, 1.0)
    return np.stack([d, -d * np.log(safe)], axis=-1)


def peak_of(form: Form, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """Return the d at which gold is highest, float64 [...].

    0 where the curve falls from the start, infinity where it never turns.
    """
    alpha, beta = np.asarray(alpha, np.float64), np.asarray(beta, np.float64)
    bends = beta > 0
    safe = np.where(bends, beta, 1.0)
    if form == "best_of_n":
        return np.where(bends, np.maximum(alpha, 0.0) / (2 * safe), _straight(alpha))
    exponent = np.clip(alpha / safe - 1, -700, 700)  # the range of exp in float64
    return np.where(bends, np.exp(exponent), _straight(alpha))


def fit(
    form: Form,
    gold: np.ndarray,
    kl: np.ndarray,
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Fit | None:
    """Fit a curve to all seeds and checkpoints by least squares, with percentile intervals.

    A resample draws seeds and prompts; the distances of a drawn seed stay as measured. The
    gain of a seed is counted from its own first checkpoint.

    Args:
        form: Which curve.
        gold: float64 [S, C, P], the first checkpoint before training; no NaN.
        kl: float64 [S, C], nats a sequence.
        seed: Of the resampling.
        resamples: R.

    Returns:
        The fit; None with fewer than three distances above 0, or all alike.
    """
    distances = np.sqrt(np.maximum(kl, 0.0))
    columns = basis(form, distances)
    gains = gold - gold[:, :1]
    grams = np.einsum("sci,scj->sij", columns, columns)
    if np.count_nonzero(distances > 0) < LEAST_POINTS or _singular(grams.sum(axis=0)):
        return None
    moments = np.einsum("sci,scp->sip", columns, gains)
    whole = np.linalg.solve(grams.sum(axis=0), moments.mean(axis=2).sum(axis=0))
    draws = draw(len(gold), gold.shape[2], seed=seed, resamples=resamples)
    drawn = _resampled(grams, moments, draws.seed_counts, draws.prompt_counts)
    peaks = peak_of(form, drawn[:, 0], drawn[:, 1])
    farthest = float(distances.max())
    n = len(gold)
    return Fit(
        form,
        _percentile(whole[0], drawn[:, 0], n),
        _percentile(whole[1], drawn[:, 1], n),
        _percentile(peak_of(form, whole[0], whole[1]), peaks, n),
        float(gold[:, 0].mean()),
        _explained(columns @ whole, gains.mean(axis=2)),
        float(np.mean(peaks < farthest)),
        farthest,
    )


def _straight(alpha: np.ndarray) -> np.ndarray:
    return np.where(alpha > 0, np.inf, 0.0)


def _singular(gram: np.ndarray) -> bool:
    return bool(np.linalg.cond(gram) > 1e10)


def _resampled(
    grams: np.ndarray, moments: np.ndarray, seed_counts: np.ndarray, prompt_counts: np.ndarray
) -> np.ndarray:
    """Return the coefficients of each resample: float64 [R, 2]."""
    left = np.einsum("rs,sij->rij", seed_counts, grams)
    by_seed = np.tensordot(prompt_counts, moments, axes=(1, 2)) / moments.shape[2]  # [R, S, 2]
    right = np.einsum("rs,rsi->ri", seed_counts, by_seed)
    # A resample of one seed with few distances may be singular: the shortest solution then.
    return np.einsum("rij,rj->ri", np.linalg.pinv(left, rcond=1e-10, hermitian=True), right)


def _percentile(estimate: float | np.ndarray, drawn: np.ndarray, n: int) -> Interval:
    if n < 2:
        return Interval(float(estimate), float("nan"), float("nan"), n)
    # The nearest resample, since no mean of a finite and an infinite peak makes sense.
    tails = [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    low, high = np.quantile(drawn, tails, method="nearest")
    return Interval(float(estimate), float(low), float(high), n)


def _explained(fitted: np.ndarray, gains: np.ndarray) -> float:
    total = float(((gains - gains.mean()) ** 2).sum())
    if total <= 0:
        return float("nan")
    return 1 - float(((gains - fitted) ** 2).sum()) / total
