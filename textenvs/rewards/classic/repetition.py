"""`Repetition`: how much of an answer says again what it has said."""

from collections.abc import Sequence

import numpy as np

from textenvs.prompts import normalise
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.rewards.classic.diversity import WORDS_READ
from textenvs.rewards.classic.words import ngrams, words_of
from textenvs.rewards.options import checked_count
from textenvs.types import Episode, Prompt

CHARACTERS_READ, LONGEST_PERIOD, SHORTEST_LOOP = 4096, 64, 8


class Repetition(BaseReward):
    """A charge in [0, 1], for subtracting: `reward - 0.5 * Repetition()`.

    The greater of `repeated_share`, which sees phrases that come back, and `looped_share`,
    which sees loops in text without spaces too. An empty answer repeats nothing and gets 0,
    the best there is: only a reward that it is subtracted from can ask for an answer. Saying
    the same in other words is not seen.
    """

    name = "repetition"

    def __init__(self, n: int = 3) -> None:
        """Choose the run.

        Args:
            n: Words in a run, at least 1. At 1 every second "the" counts.

        Raises:
            ConfigError: if n is below 1.
        """
        self.n = checked_count("n", n, 3)

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        # So that a zero-width character or a capital does not make a phrase another one.
        texts = [normalise(episode.completion) for episode in episodes]
        scores = [max(repeated_share(text, self.n), looped_share(text)) for text in texts]
        return RewardResult.from_scores(self.name, scores)

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return (0, 1)."""
        return (0.0, 1.0)


def repeated_share(text: str, n: int = 3) -> float:
    """Return the share of the runs of n words that stood in the text before.

    1 - distinct-n (Li et al., arXiv:1510.03055), but 0 for a text of fewer than n words.
    In [0, 1).

    >>> repeated_share("on and on and on", 2)
    0.5
    """
    runs = ngrams(words_of(text, WORDS_READ), n)
    return 1.0 - len(set(runs)) / len(runs) if runs else 0.0


def looped_share(text: str) -> float:
    """Return the share of the characters that the longest loop takes up, its first turn not.

    A loop is a stretch in which each character equals the one p before it, for some period
    p up to 64, at least twice p and 8 long: "!!" and "1000" are none, "hahahahaha" is. The
    first 4,096 characters are read, so that the cost is bounded. In [0, 1).

    >>> looped_share("ha" * 5)
    0.8
    """
    # Code points in an array: 64 comparisons of whole arrays, not 64 x 4,096 of characters.
    points = np.frombuffer(
        text.strip()[:CHARACTERS_READ].encode("utf-32-le", "surrogatepass"), np.uint32
    )
    longest = 0
    for period in range(1, min(LONGEST_PERIOD, len(points) // 2) + 1):
        stretch = _longest_run(points[period:] == points[:-period])
        if stretch >= max(SHORTEST_LOOP, 2 * period):
            longest = max(longest, stretch)
    return longest / len(points) if longest else 0.0


def _longest_run(same: np.ndarray) -> int:
    """Return the length of the longest run of true values of a bool array [N]."""
    edges = np.flatnonzero(np.concatenate(([True], ~same, [True])))
    return int(np.diff(edges).max()) - 1
