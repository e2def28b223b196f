"""Performance profiles: the share of seeds that score above each threshold."""

from dataclasses import dataclass

import numpy as np

from textenvs.benchmark.statistics.intervals import LEVEL
from textenvs.benchmark.statistics.resampling import RESAMPLES, answered, draw


@dataclass(frozen=True)
class Profile:
    """Shares of seeds at T thresholds, each in [0, 1] and falling.

    Attributes:
        share: float64 [T].
        low: float64 [T], lower bounds, point by point.
        high: float64 [T].
    """

    share: np.ndarray
    low: np.ndarray
    high: np.ndarray


def profile(
    scores: np.ndarray, thresholds: np.ndarray, *, seed: int = 0, resamples: int = RESAMPLES
) -> Profile:
    """Return the share of seeds whose mean over prompts exceeds each threshold.

    Agarwal et al., arXiv:2108.13264, section 4.2, with percentile bands over resampled seeds
    and prompts.

    Args:
        scores: float64 [S, P].
        thresholds: float64 [T].
        seed: Of the resampling.
        resamples: R.
    """
    scores = answered(scores)
    share = (scores.mean(axis=1)[:, None] > thresholds).mean(axis=0)
    draws = draw(len(scores), scores.shape[1], seed=seed, resamples=resamples)
    means = draws.seed_means(scores)
    drawn = np.array([(means > threshold).mean(axis=1) for threshold in thresholds])
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=1)
    return Profile(share, low, high)
