"""Means over pairs that are not independent: intervals over the prompts they belong to."""

import numpy as np

from agents.evaluation import RESAMPLES, Interval
from textenvs.errors import MissingDependencyError


def clustered_mean(values: np.ndarray, clusters: np.ndarray, *, seed: int = 0) -> Interval:
    """Return the mean over values with a 95% percentile bootstrap over clusters.

    The pairs of one prompt share their answers, and so their mistakes; what is drawn anew is
    therefore whole prompts (Field and Welsh, J. R. Stat. Soc. B 69(3), 2007). The mean is that
    of all values, sum over sum, so that a prompt with many pairs weighs more.

    Args:
        values: float [M], at least one.
        clusters: int [M], which values belong together.
        seed: Of the resampling.

    Returns:
        The mean and its interval, of no width if there are fewer than two clusters.

    Raises:
        MissingDependencyError: if scipy is absent.
    """
    mean = float(np.mean(values))
    _, place = np.unique(clusters, return_inverse=True)
    sums, counts = np.bincount(place, weights=values), np.bincount(place).astype(float)
    if len(sums) < 2 or np.ptp(values) == 0:
        return Interval(mean, mean, mean)
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingDependencyError(
            "scipy", "a bootstrap interval", 'pip install "textenvs[agents]"'
        ) from error
    result = stats.bootstrap(
        (sums, counts),
        lambda total, number, axis: total.sum(axis) / number.sum(axis),
        paired=True,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
        batch=200,
    )
    interval = result.confidence_interval
    return Interval(mean, float(interval.low), float(interval.high))
