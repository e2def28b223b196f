"""Length and reward: rank correlations, with gold held fixed, and what length explains."""

import warnings

import numpy as np

from textenvs.benchmark.statistics.scipy_stats import scipy_stats


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation along the last axis, ties at their mean rank.

    Args:
        a: float64 [..., P].
        b: float64 [..., P].

    Returns:
        float64 [...]; NaN where one of them is constant or not all there.
    """
    return _correlation(_ranks(a), _ranks(b))


def partial_spearman(a: np.ndarray, b: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Return the rank correlation of a and b with a third held fixed.

    (r_ab - r_ac r_bc) / sqrt((1 - r_ac^2)(1 - r_bc^2)), Kendall, Biometrika 32, 1942. Where
    the third is constant it is the plain correlation; where it settles a or b, 0.

    Args:
        a: float64 [..., P].
        b: float64 [..., P].
        given: float64 [..., P].
    """
    ab, ac, bc = spearman(a, b), spearman(a, given), spearman(b, given)
    ac, bc = np.nan_to_num(ac), np.nan_to_num(bc)
    left = (1 - ac**2) * (1 - bc**2)
    settled = left < 1e-9
    partial = (ab - ac * bc) / np.sqrt(np.where(settled, 1.0, left))
    return np.where(settled & ~np.isnan(ab), 0.0, np.clip(partial, -1, 1))


def slope(values: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the least-squares slope of values on lengths along the last axis, per token.

    Args:
        values: float64 [..., P].
        lengths: float64 [..., P]; NaN comes out where all are equal.
    """
    moved = lengths - lengths.mean(axis=-1, keepdims=True)
    spread = (moved**2).sum(axis=-1)
    products = (moved * (values - values.mean(axis=-1, keepdims=True))).sum(axis=-1)
    return np.where(spread > 0, products / np.where(spread > 0, spread, 1.0), np.nan)


def length_residual(
    first: np.ndarray, first_lengths: np.ndarray, last: np.ndarray, last_lengths: np.ndarray
) -> np.ndarray:
    """Return the last values less what their length predicts, by the line of the first.

    What is left of a gain when answers of the same length are compared.

    Args:
        first: float64 [S, P].
        first_lengths: float64 [S, P].
        last: float64 [S, P].
        last_lengths: float64 [S, P].

    Returns:
        float64 [S, P].
    """
    pitch = np.nan_to_num(slope(first, first_lengths))[:, None]
    level = first.mean(axis=1, keepdims=True)
    return last - level - pitch * (last_lengths - first_lengths.mean(axis=1, keepdims=True))


def mean_of_known(values: np.ndarray, axis: int) -> np.ndarray:
    """Return the mean without the NaN; NaN where there is nothing else."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        return np.asarray(np.nanmean(values, axis=axis))


def _ranks(values: np.ndarray) -> np.ndarray:
    ranks = scipy_stats().rankdata(values, axis=-1)
    return np.where(np.isnan(values).any(axis=-1, keepdims=True), np.nan, ranks)


def _correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a = a - a.mean(axis=-1, keepdims=True)
    b = b - b.mean(axis=-1, keepdims=True)
    size = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    product = (a * b).sum(axis=-1)
    return np.where(size > 0, product / np.where(size > 0, size, 1.0), np.nan)
