"""`Readability`: plain English, by Flesch's reading ease.

Flesch, "A new readability yardstick" (Journal of Applied Psychology, 1948).
"""

import importlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from textenvs.errors import ConfigError
from textenvs.prompts import normalise
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.rewards.classic.words import WORD
from textenvs.rewards.optional import require_package
from textenvs.rewards.options import checked_count
from textenvs.types import Episode, Prompt

CHARACTERS_READ, LONGEST_WORD, FADE = 20_000, 64, 50.0
_SENTENCE = re.compile(r"[^.!?。！？]+")


class Readability(BaseReward):
    """How near an answer's Flesch reading ease is to a range, in [0, 1]; an empty one gets 0.

    1 for a reading ease within [low, high], and 1/50 less for each point outside, at least
    0; times words / `min_words`, at most 1, since a few words have no style. 60 to 80 is plain
    English; 0 to 30 that of learned journals; short words in short sentences pass 100.

    It counts syllables and full stops and reads nothing: any short words will do. Needs the
    package `pyphen`. For English; other languages come out as hard.
    """

    name = "readability"

    def __init__(self, low: float = 60.0, high: float = 80.0, *, min_words: int = 20) -> None:
        """Choose the range.

        Args:
            low: Least reading ease that earns everything.
            high: Greatest that does.
            min_words: Words from which on length is not charged, at least 1.

        Raises:
            ConfigError: if the range is empty or `min_words` below 1.
            MissingDependencyError: if `pyphen` is absent.
        """
        if not -1000.0 <= low <= high <= 1000.0:
            raise ConfigError(
                f"low must be at most high, and both within -1000 and 1000, got low={low} and "
                f"high={high}; the defaults are 60 and 80"
            )
        require_package("pyphen", "the reward 'readability'")
        self.low, self.high = float(low), float(high)
        self.min_words = checked_count("min_words", min_words, 20)

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        return RewardResult.from_scores(self.name, [self._score(e.completion) for e in episodes])

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return (0, 1)."""
        return (0.0, 1.0)

    def _score(self, text: str) -> float:
        words = len(_words(text))
        if not words:
            return 0.0
        ease = reading_ease(text)
        distance = max(0.0, self.low - ease, ease - self.high)
        return max(0.0, 1.0 - distance / FADE) * min(1.0, words / self.min_words)


def reading_ease(text: str) -> float:
    """Return Flesch's reading ease, 206.835 - 1.015 words/sentences - 84.6 syllables/words.

    A word is a run of letters and digits; a sentence is what stands between ".", "!" and "?"
    and has a word. The first 20,000 characters are read. At most 121.22; 0 for a text
    without a word.

    Raises:
        MissingDependencyError: if `pyphen` is absent.
    """
    words = _words(text)
    if not words:
        return 0.0
    sentences = sum(
        bool(WORD.search(part)) for part in _SENTENCE.findall(normalise(text[:CHARACTERS_READ]))
    )
    syllables = sum(map(syllables_of, words))
    return 206.835 - 1.015 * len(words) / sentences - 84.6 * syllables / len(words)


@lru_cache(maxsize=65_536)
def syllables_of(word: str) -> int:
    """Return the syllables of an English word, at least 1: where it may be hyphenated, plus 1.

    Knuth and Liang's patterns, as shipped by `pyphen`. They never part a single letter from
    a word ("a-bout"), so that some words come out one short. The first 64 letters are read.
    """
    return len(_hyphenation().positions(word[:LONGEST_WORD])) + 1


def _words(text: str) -> list[str]:
    # Apostrophes join: "don't" is one word.
    plain = normalise(text[:CHARACTERS_READ]).replace("'", "").replace("\u2019", "")
    return WORD.findall(plain)


@lru_cache(maxsize=1)
def _hyphenation() -> Any:
    require_package("pyphen", "counting syllables")
    return importlib.import_module("pyphen").Pyphen(lang="en_US")
