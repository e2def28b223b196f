"""The interquartile mean: the mean of the middle half, which one lucky seed does not move."""

import numpy as np

CUT = 0.25
"""Share of the values left out at either end."""


def trimmed(n: int) -> int:
    """Return how many of n values are left out at either end: int(n / 4), 0 below four."""
    return int(n * CUT)


def interquartile_mean(values: np.ndarray) -> np.ndarray:
    """Return the mean of the middle half along the last axis.

    As in Agarwal et al., "Deep reinforcement learning at the edge of the statistical precipice"
    (arXiv:2108.13264), and `scipy.stats.trim_mean(values, 0.25)`.

    Args:
        values: float64 [..., N].

    Returns:
        float64 [...].
    """
    n = values.shape[-1]
    cut = trimmed(n)
    if cut == 0:
        return values.mean(axis=-1)
    return np.sort(values, axis=-1)[..., cut : n - cut].mean(axis=-1)


def mean_variance(values: np.ndarray) -> np.ndarray:
    """Return the squared standard error of the mean along the last axis, float64 [...]."""
    return values.var(axis=-1, ddof=1) / values.shape[-1]


def iqm_variance(values: np.ndarray) -> np.ndarray:
    """Return the squared standard error of the interquartile mean along the last axis.

    The Winsorised sum of squares over h (h - 1), for the h values kept of n (Tukey and
    McLaughlin, 1963; Yuen, Biometrika 61, 1974): the values cut off count as the nearest kept
    ones.

    Args:
        values: float64 [..., N], N at least 2.
    """
    n = values.shape[-1]
    cut = trimmed(n)
    if cut == 0:
        return mean_variance(values)
    ordered = np.sort(values, axis=-1)
    np.clip(ordered, ordered[..., cut, None], ordered[..., n - cut - 1, None], out=ordered)
    kept = n - 2 * cut
    return ordered.var(axis=-1) * n / (kept * (kept - 1))
