"""Resamples of seeds and prompts, drawn once and used for every statistic of a study.

Every seed answers the same prompts, so the two are crossed: a resample draws seeds with
replacement, then prompts with replacement, the same ones for each of its seeds (Owen, "The
pigeonhole bootstrap", Annals of Applied Statistics 1, 2007). Statistics of several designs or
checkpoints share the draws, which keeps their differences paired.
"""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from textenvs.errors import ConfigError

RESAMPLES = 2_000
LEAST_RESAMPLES = 100


@dataclass(frozen=True)
class Draws:
    """R resamples of S seeds and P prompts.

    Attributes:
        seeds: int64 [R, S], the seeds drawn.
        seed_counts: float64 [R, S], how often each seed was drawn; rows add up to S.
        prompt_counts: float64 [R, P], how often each prompt was drawn; rows add up to P.
    """

    seeds: np.ndarray
    seed_counts: np.ndarray
    prompt_counts: np.ndarray

    def seed_means(self, scores: np.ndarray) -> np.ndarray:
        """Return the mean of each drawn seed over the drawn prompts.

        Args:
            scores: float64 [S, P].

        Returns:
            float64 [R, S].
        """
        means = self.prompt_counts @ scores.T / scores.shape[1]
        return np.take_along_axis(means, self.seeds, axis=1)


@lru_cache(maxsize=32)
def draw(seeds: int, prompts: int, *, seed: int = 0, resamples: int = RESAMPLES) -> Draws:
    """Draw resamples; equal arguments give equal draws.

    Args:
        seeds: S, at least 1.
        prompts: P, at least 1. With one (a metric of a whole checkpoint) only seeds are drawn.
        seed: Of the draws.
        resamples: R.

    Raises:
        ConfigError: if there is nothing to draw from, or there are too few resamples.
    """
    if seeds < 1 or prompts < 1:
        raise ConfigError(f"resampling needs a seed and a prompt, got {seeds} and {prompts}")
    if resamples < LEAST_RESAMPLES:
        raise ConfigError(f"resamples must be at least {LEAST_RESAMPLES}, got {resamples}")
    generator = np.random.default_rng([seed, seeds, prompts])
    drawn = generator.integers(seeds, size=(resamples, seeds))
    counts = np.zeros((resamples, seeds))
    np.add.at(counts, (np.arange(resamples)[:, None], drawn), 1.0)
    shares = np.full(prompts, 1 / prompts)
    prompt_counts = generator.multinomial(prompts, shares, size=resamples).astype(np.float64)
    for array in (drawn, counts, prompt_counts):
        array.flags.writeable = False  # the cache hands out one and the same object
    return Draws(drawn, counts, prompt_counts)


def answered(scores: np.ndarray) -> np.ndarray:
    """Return the scores with gaps closed: float64 [S', P], S' the seeds that have any score.

    A missing score takes the mean of its seed's others, which moves no mean; a seed without
    any score is left out.

    Args:
        scores: float64 [S, P], NaN where there is none.
    """
    scores = np.asarray(scores, np.float64)
    gaps = np.isnan(scores)
    if not gaps.any():
        return scores
    kept = ~gaps.all(axis=1)
    scores, gaps = scores[kept], gaps[kept]
    counts = np.maximum((~gaps).sum(axis=1, keepdims=True), 1)
    means = np.where(gaps, 0.0, scores).sum(axis=1, keepdims=True) / counts
    return np.where(gaps, means, scores)
