"""How soon a design learns: the area under its curve, and the tokens to a threshold."""

import numpy as np


def normalised_area(curve: np.ndarray, timesteps: np.ndarray) -> np.ndarray:
    """Return the mean height of a learning curve along training, by the trapezoid rule.

    Args:
        curve: float64 [S, C, P], or [S, C]: a metric at C checkpoints.
        timesteps: float64 [S, C], tokens trained on, not falling.

    Returns:
        float64 [S, P], or [S], in the unit of the metric. A seed without training keeps the
        metric of its first checkpoint.
    """
    widths = np.diff(timesteps, axis=1)
    span = widths.sum(axis=1)
    heights = (curve[:, 1:] + curve[:, :-1]) / 2
    shape = (*widths.shape, *(1,) * (curve.ndim - 2))
    area = (heights * widths.reshape(shape)).sum(axis=1)
    wide = np.where(span > 0, span, 1.0).reshape(-1, *(1,) * (curve.ndim - 2))
    trained = (span > 0).reshape(wide.shape)
    return np.where(trained, area / wide, curve[:, 0])


def tokens_to(curve: np.ndarray, timesteps: np.ndarray, threshold: float) -> np.ndarray:
    """Return the tokens until each seed's curve first reaches a threshold.

    Args:
        curve: float64 [S, C].
        timesteps: float64 [S, C].
        threshold: In the unit of the metric.

    Returns:
        float64 [S], interpolated linearly between checkpoints; infinity: never reached.
    """
    tokens = np.full(len(curve), np.inf)
    for s, row in enumerate(curve):
        reached = np.flatnonzero(row >= threshold)
        if not len(reached):
            continue
        after = int(reached[0])
        if after == 0:
            tokens[s] = timesteps[s, 0]
            continue
        # The checkpoint before lies below the threshold, so that the rise is above 0.
        share = (threshold - row[after - 1]) / (row[after] - row[after - 1])
        step = timesteps[s, after] - timesteps[s, after - 1]
        tokens[s] = timesteps[s, after - 1] + share * step
    return tokens
