"""Ratios over turns: both sides of a turn met the machine in the same state, so they are paired."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import stats


class Ratio(NamedTuple):
    """A geometric mean with its 95% interval.

    Attributes:
        mean: Of the ratios of all turns.
        low: Lower end; NaN for a single turn.
        high: Upper end.
    """

    mean: float
    low: float
    high: float


def paired_ratio(ours: Sequence[float], other: Sequence[float]) -> Ratio:
    """Return ours / other over turns, with Student's interval of the mean log-ratio.

    Args:
        ours: A positive figure a turn.
        other: The other side's, in the same order.
    """
    logs = np.log(np.asarray(ours)) - np.log(np.asarray(other))
    mean = float(np.exp(logs.mean()))
    if len(logs) < 2:
        return Ratio(mean, float("nan"), float("nan"))
    low, high = stats.t.interval(0.95, len(logs) - 1, logs.mean(), stats.sem(logs) or 1e-12)
    return Ratio(mean, float(np.exp(low)), float(np.exp(high)))
