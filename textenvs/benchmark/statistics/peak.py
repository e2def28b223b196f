"""How far gold has fallen from its peak, without the luck of having picked the peak."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fall:
    """Gold and proxy between the peak of gold and the end, one value a seed and prompt.

    Attributes:
        gold: float64 [S, P], gold at the peak minus gold at the end.
        proxy: float64 [S, P], proxy at the end minus proxy at the peak.
        peak: The checkpoint (its index) where the mean over all seeds and prompts is highest.
    """

    gold: np.ndarray
    proxy: np.ndarray
    peak: int


def fall_from_peak(gold: np.ndarray, proxy: np.ndarray) -> Fall:
    """Return the fall of gold from its peak and the rise of proxy since, cross-fitted.

    The highest of several noisy means lies above its true value, so that max_t gold_t - gold_T
    is above 0 even where nothing falls. Here the peak of a seed and prompt is chosen by the
    other seeds on the other half of the prompts (even or odd places): what chooses and what is
    measured share neither a training run nor a prompt, and without a fall the mean is 0.

    Args:
        gold: float64 [S, C, P], no NaN.
        proxy: float64 [S, C, P], no NaN.

    Returns:
        With one seed, or one prompt, nothing is left to choose by but the seed or the prompt
        itself; the luck of the choice is then in the numbers.
    """
    seeds, _, prompts = gold.shape
    halves = [np.arange(0, prompts, 2), np.arange(1, prompts, 2)]
    if prompts < 2:
        halves = [np.arange(prompts), np.arange(prompts)]
    fallen, risen = np.zeros((seeds, prompts)), np.zeros((seeds, prompts))
    for half, other in (halves, halves[::-1]):
        chosen_by = gold[:, :, other].mean(axis=2)
        total = chosen_by.sum(axis=0)
        for s in range(seeds):
            others = total - chosen_by[s] if seeds > 1 else total
            peak = int(np.argmax(others))
            fallen[s, half] = gold[s, peak, half] - gold[s, -1, half]
            risen[s, half] = proxy[s, -1, half] - proxy[s, peak, half]
    return Fall(fallen, risen, int(np.argmax(gold.mean(axis=(0, 2)))))
