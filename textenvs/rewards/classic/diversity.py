"""Distinct-n: how little an answer repeats itself."""

from collections.abc import Sequence

from textenvs.errors import ConfigError
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.rewards.classic.words import ngrams, words_of
from textenvs.types import Episode, Prompt

WORDS_READ = 2048
"""Words past this many are not read."""


def distinct_share(text: str, n: int) -> float:
    """Return distinct n-grams over all n-grams of words (Li et al., arXiv:1510.03055).

    Args:
        text: One answer.
        n: Words in a run, at least 1.

    Returns:
        In [0, 1]; 0 for a text with fewer than n words.
    """
    runs = ngrams(words_of(text, WORDS_READ), n)
    return len(set(runs)) / len(runs) if runs else 0.0


class DistinctN(BaseReward):
    """The share of distinct n-grams of an answer, in [0, 1]; one that has none gets 0.

    Of itself it asks for nothing but variety: one word earns everything at n = 1. It is
    for sums, `Sentiment() + 0.2 * DistinctN(2)`.
    """

    def __init__(self, n: int = 2) -> None:
        """Choose the run.

        Args:
            n: Words in a run, at least 1.

        Raises:
            ConfigError: if n is below 1.
        """
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise ConfigError(f"n must be at least 1, got {n!r}; the default is 2")
        self.n, self.name = n, f"distinct_{n}"

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        scores = [distinct_share(episode.completion, self.n) for episode in episodes]
        return RewardResult.from_scores(self.name, scores)

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return (0, 1)."""
        return (0.0, 1.0)
