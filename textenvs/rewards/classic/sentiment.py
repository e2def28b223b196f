"""`Sentiment`: how positive an answer is, by the word list VADER, charged for what games it.

VADER (Hutto and Gilbert, ICWSM 2014) adds up the strengths of known words, so that by
itself it pays "good good good" in full. The charge here takes that away; what it does not
see is said in the docstring of `Sentiment`.
"""

import importlib
import importlib.util
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from textenvs.errors import ConfigError, MissingDependencyError
from textenvs.rewards.base import SCORED, BaseReward, RewardResult, Term
from textenvs.rewards.classic.diversity import distinct_share
from textenvs.rewards.classic.words import copied_share, words_of
from textenvs.types import Episode, Prompt

PACKAGE = "vaderSentiment"
INSTALL = "pip install --no-deps vaderSentiment==3.3.2"
CHARACTERS_READ = 1000
"""VADER's time grows with the square of the text; what is behind this is not read."""
ENOUGH_DISTINCT, ENOUGH_FUNCTION_WORDS = 0.75, 0.2
"""Shares of distinct words and of function words from which on nothing is charged."""
FUNCTION_WORDS = frozenset(
    "a about after all also an and any are as at be because been before being but by can could did "
    "do does even every for from had has have he her here him his how i if in into is it its just "
    "me more most my no not of on one only or our out over she so some such than that the their "
    "them then there these they this those through to too up was we were what when where which "
    "while who whose why will with would you your".split()
)


class Sentiment(BaseReward):
    """VADER's compound score of the answer alone, less a charge for text that is no prose.

    Two terms, which add up to a score in [-1, 1]:

    - `sentiment`: the compound score s of the answer, in [-1, 1]; the prompt's own words
      do not count.
    - `prose`: -(1 - q)(1 + s), where q in [0, 1] is `prose_share`. So an answer with q = 1
      gets s, one with q = 0 gets -1, and an empty answer exactly -1.

    It takes the reward from repetition, lists of praise, random letters, very short answers
    and copies of the prompt. It does not see grammar, truth, or whether the answer continues
    the review: praise spaced out with function words earns well, and one fluent sentence of
    praise given to every prompt earns everything. Perplexity, a trained reward model or a
    reference KL is what answers that.
    """

    name = "sentiment"

    def __init__(self, min_words: int = 8) -> None:
        """Choose how long an answer must be to earn its sentiment in full.

        Args:
            min_words: Words from which on length is not charged, at least 1.

        Raises:
            ConfigError: if `min_words` is below 1.
            MissingDependencyError: if `vaderSentiment` is absent.
        """
        if isinstance(min_words, bool) or not isinstance(min_words, int) or min_words < 1:
            raise ConfigError(f"min_words must be at least 1, got {min_words!r}; the default is 8")
        require_vader("the reward 'sentiment'")
        self.min_words = min_words

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        sentiment = np.array([compound(e.completion) for e in episodes], np.float64)
        share = np.array(
            [prose_share(e.completion, e.prompt.text, self.min_words) for e in episodes], np.float64
        )
        # Rounding cannot push this out of [-1, 1]; sentiment plus charge it could.
        scores = share * (1.0 + sentiment) - 1.0
        status = (SCORED,) * len(episodes)
        terms = {
            "sentiment": Term(sentiment, 1.0, status),
            "prose": Term(scores - sentiment, 1.0, status),
        }
        return RewardResult(scores, terms)

    def term_weights(self) -> dict[str, float]:
        """Return the weights of the two terms."""
        return {"sentiment": 1.0, "prose": 1.0}

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return (-1, 1)."""
        return (-1.0, 1.0)


def prose_share(answer: str, prompt: str = "", min_words: int = 8) -> float:
    """Return in [0, 1] how far an answer looks like English prose of its own.

    The product of four shares, each 1 for ordinary text:

    - words over `min_words`, at most 1;
    - distinct words, 1 from a share of `ENOUGH_DISTINCT` on;
    - different function words ("the", "and", ...) among the words, 1 from a share of
      `ENOUGH_FUNCTION_WORDS` on: random letters and lists of praise have none;
    - pairs of neighbouring words that do not stand in the prompt.
    """
    answer = answer[:CHARACTERS_READ]
    words = words_of(answer)
    if not words:
        return 0.0
    function_words = len(FUNCTION_WORDS.intersection(words)) / len(words)
    share = min(1.0, len(words) / min_words)
    share *= min(1.0, distinct_share(answer, 1) / ENOUGH_DISTINCT)
    share *= min(1.0, function_words / ENOUGH_FUNCTION_WORDS)
    return share * (1.0 - copied_share(answer, prompt))


def compound(text: str) -> float:
    """Return VADER's compound score of a text, in [-1, 1]; 0 for a text it knows no word of.

    Raises:
        MissingDependencyError: if `vaderSentiment` is absent.
    """
    return float(_analyser().polarity_scores(text[:CHARACTERS_READ])["compound"])


def require_vader(purpose: str) -> None:
    """Raise if VADER is absent, without loading it.

    Raises:
        MissingDependencyError: naming the command that installs it.
    """
    if importlib.util.find_spec(PACKAGE) is None:
        raise MissingDependencyError(PACKAGE, purpose, INSTALL)


@lru_cache(maxsize=1)
def _analyser() -> Any:
    require_vader("scoring sentiment")
    module = importlib.import_module(f"{PACKAGE}.vaderSentiment")
    return module.SentimentIntensityAnalyzer()
