"""`Profanity`: a charge for swear words, by a word list."""

import importlib
from collections.abc import Iterable, Sequence
from functools import lru_cache

from textenvs.errors import ConfigError
from textenvs.prompts import normalise
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.rewards.classic.words import words_of
from textenvs.rewards.optional import require_package
from textenvs.rewards.options import checked_count
from textenvs.types import Episode, Prompt

CHARACTERS_READ = 20_000
LEET = str.maketrans("@4013$57", "aaoiesst")
"""Look-alikes within a word that has a letter; a lone number stays a number."""


class Profanity(BaseReward):
    """A charge in [0, 1], for subtracting: `reward - Profanity()`.

    Swear words over `enough`, at most 1. Words count whole, so that "Scunthorpe" is clean,
    and with look-alikes undone ("sh1t"); the list is that of the package `better-profanity`
    (916 English words and phrases, "god" and "sex" are among them), or your own.

    An empty answer is clean and gets 0, the best there is: only a reward that it is
    subtracted from can ask for an answer. Insults without swear words are not seen, nor are
    letters set apart or starred ("f*ck").
    """

    name = "profanity"

    def __init__(self, words: Iterable[str] | None = None, *, enough: int = 1) -> None:
        """Choose the list.

        Args:
            words: Words and phrases that are charged; None takes the package's.
            enough: How many of them in an answer are charged in full, at least 1.

        Raises:
            ConfigError: if `words` is a text, or has no word.
            MissingDependencyError: if the package is needed and absent.
        """
        if words is None:
            require_package("better_profanity", "the reward 'profanity' without a list of words")
        elif isinstance(words, str):
            raise ConfigError(f"words must be a list of texts, got the text {words!r:.40}")
        self.words = None if words is None else tuple(words)
        self.enough = checked_count("enough", enough, 1)
        if self.words is not None and not _phrases(self.words):
            raise ConfigError(f"words holds no word: {self.words!r:.80}")

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        counts = [swear_words(episode.completion, self.words) for episode in episodes]
        return RewardResult.from_scores(self.name, [min(1.0, n / self.enough) for n in counts])

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return (0, 1)."""
        return (0.0, 1.0)


def swear_words(text: str, words: tuple[str, ...] | None = None) -> int:
    """Return how many listed words and phrases a text holds, each as often as it stands there.

    Args:
        text: Anything; the first 20,000 characters are read.
        words: What is listed; None takes the list of `better-profanity`.

    Raises:
        MissingDependencyError: if the package is needed and absent.
    """
    phrases = _phrases(words)
    found = _folded_words(text[:CHARACTERS_READ])
    count, start = 0, 0
    while start < len(found):
        # The longest phrase first, so that its words are not counted again.
        sizes = phrases.get(found[start], ())
        size = next((len(p) for p in sizes if found[start : start + len(p)] == p), 0)
        count, start = count + bool(size), start + (size or 1)
    return count


@lru_cache(maxsize=16)
def _phrases(words: tuple[str, ...] | None) -> dict[str, list[list[str]]]:
    """Return the phrases, longest first, by their first word."""
    by_first: dict[str, list[list[str]]] = {}
    for text in _default_words() if words is None else words:
        phrase = _folded_words(text)
        if phrase:
            by_first.setdefault(phrase[0], []).append(phrase)
    for phrases in by_first.values():
        phrases.sort(key=len, reverse=True)
    return by_first


def _default_words() -> list[str]:
    require_package("better_profanity", "the list of swear words")
    profanity = importlib.import_module("better_profanity").profanity
    profanity.load_censor_words()
    return sorted(map(str, profanity.CENSOR_WORDSET))


def _folded_words(text: str) -> list[str]:
    """Return the words of a text, look-alikes undone in those that have a letter."""
    tokens = (
        token.translate(LEET) if any(map(str.isalpha, token)) else token
        for token in normalise(text).replace("'", "").split()
    )
    return words_of(" ".join(tokens))
