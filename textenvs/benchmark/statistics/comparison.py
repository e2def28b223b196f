"""Two designs against each other, and several pairs at once."""

from collections.abc import Sequence

import numpy as np

from textenvs.benchmark.statistics.intervals import LEVEL, Interval, Pivot, mean_pivot
from textenvs.benchmark.statistics.resampling import RESAMPLES, answered, draw
from textenvs.errors import ConfigError


def paired_difference(
    a: np.ndarray, b: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES
) -> Pivot:
    """Return the mean of a minus b, the same seeds and prompts in the same places.

    Args:
        a: float64 [S, P]; NaN where there is no score. A prompt or seed counts where both have
            one.
        b: float64 [S, P].
        seed: Of the resampling.
        resamples: R.

    Raises:
        ConfigError: if the shapes differ.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    if a.shape != b.shape:
        raise ConfigError(f"paired scores need one shape, got {a.shape} and {b.shape}")
    return mean_pivot(a - b, seed=seed, resamples=resamples)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for their number (Holm, Scand. J. Statistics 6, 1979).

    The k-th smallest of m is multiplied by m - k + 1 and made no smaller than the one before,
    at most 1. NaN stays and does not count.
    """
    values = np.asarray(p_values, np.float64)
    corrected = np.full(len(values), np.nan)
    order = [i for i in np.argsort(values, kind="stable") if not np.isnan(values[i])]
    largest = 0.0
    for rank, i in enumerate(order):
        largest = max(largest, float(values[i]) * (len(order) - rank))
        corrected[i] = min(1.0, largest)
    return [float(value) for value in corrected]


def probability_of_improvement(
    a: np.ndarray, b: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Return P(a seed of a scores above a seed of b) + P(they are equal) / 2.

    Agarwal et al., arXiv:2108.13264, section 4.3; the Mann-Whitney statistic over its greatest
    value. Seeds are scored by their mean over prompts. The interval is the percentile one:
    seeds are drawn apart for a and b, prompts together. It is capped to [0, 1] by nature, and
    too short below about ten seeds.

    Args:
        a: float64 [S, P].
        b: float64 [S', P].
        seed: Of the resampling.
        resamples: R.
    """
    a, b = answered(a), answered(b)
    if not len(a) or not len(b):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    n = min(len(a), len(b))
    estimate = float(_above(a.mean(axis=1)[None], b.mean(axis=1)[None])[0])
    if n < 2:
        return Interval(estimate, float("nan"), float("nan"), n)
    drawn_a = draw(len(a), a.shape[1], seed=seed, resamples=resamples)
    # Another seed draws other seeds for b; its prompts are replaced by those of a.
    drawn_b = draw(len(b), b.shape[1], seed=seed + 1, resamples=resamples)
    means = drawn_a.prompt_counts @ b.T / b.shape[1]
    values = _above(drawn_a.seed_means(a), np.take_along_axis(means, drawn_b.seeds, axis=1))
    low, high = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(estimate, float(low), float(high), n)


def _above(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the share of pairs with a above b, ties half: [R, S], [R, S'] -> [R]."""
    differences = np.sign(a[:, :, None] - b[:, None, :])
    return (differences.mean(axis=(1, 2)) + 1) / 2
