"""Gold against KL: gold at a matched KL, and the frontier of gold against KL."""

import math

import numpy as np


def at_matched_kl(gold: np.ndarray, kl: np.ndarray, target: float) -> np.ndarray:
    """Return each seed's gold where its KL first reaches a target.

    Between the two checkpoints around the first crossing, gold is interpolated linearly in
    d = sqrt(KL), the scale on which over-optimisation is smooth (Gao et al., arXiv:2210.10760).

    Args:
        gold: float64 [S, C, P], or [S, C].
        kl: float64 [S, C], nats a sequence at each checkpoint.
        target: Nats.

    Returns:
        float64 [S, P], or [S]; NaN for a seed that never gets there.
    """
    matched = np.full((len(gold), *gold.shape[2:]), np.nan)
    d, aim = np.sqrt(np.maximum(kl, 0.0)), float(np.sqrt(max(target, 0.0)))
    for s in range(len(gold)):
        beyond = np.flatnonzero(d[s] >= aim)
        if not len(beyond):
            continue
        after = int(beyond[0])
        before = max(after - 1, 0)
        width = d[s, after] - d[s, before]
        share = (aim - d[s, before]) / width if width > 0 else 1.0
        # The first checkpoint may already lie beyond the target: nothing is extrapolated.
        share = min(max(share, 0.0), 1.0)
        matched[s] = (1 - share) * gold[s, before] + share * gold[s, after]
    return matched


def reach(kl: np.ndarray, share: float = 0.5) -> float:
    """Return the KL that at least a share of the seeds reach.

    Args:
        kl: float64 [S, C], no NaN.
        share: Above 0, at most 1.
    """
    highest = np.sort(kl.max(axis=1))[::-1]
    return float(highest[math.ceil(share * len(highest)) - 1])


def on_frontier(kl: np.ndarray, gold: np.ndarray) -> np.ndarray:
    """Return which points no other point beats: more gold at no more KL, or less KL for it.

    Args:
        kl: float64 [N].
        gold: float64 [N].

    Returns:
        bool [N].
    """
    no_worse = (kl[:, None] <= kl) & (gold[:, None] >= gold)
    better = (kl[:, None] < kl) | (gold[:, None] > gold)
    return np.asarray(~(no_worse & better).any(axis=0))
