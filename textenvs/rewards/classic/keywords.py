"""`Keywords`: words an answer must hold, or must not."""

import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Literal, get_args

from textenvs.errors import ConfigError, RewardError, UnknownNameError
from textenvs.prompts import normalise
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.types import Episode, Prompt

Need = Literal["all", "any", "none"]
CHARACTERS_READ = 100_000
UNSPACED = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3040, 0x30FF),  # Hiragana, Katakana
    (0x3400, 0x9FFF),  # Chinese
    (0xAC00, 0xD7AF),  # Hangul: words are spaced, but particles are attached to them
    (0xF900, 0xFAFF),  # Chinese, compatibility
    (0x20000, 0x3FFFF),  # Chinese, rarer characters
)
"""Scripts in which a word need not end where a space is."""


class Keywords(BaseReward):
    """What is held of a list of words and phrases, in [0, 1]; an empty answer gets 0.

    - `"all"`: the share of the keywords that the answer holds.
    - `"any"`: 1 if it holds one, else 0.
    - `"none"`: 1 if it holds none, else 0.

    Keywords are compared in the form of `textenvs.prompts.normalise` and as whole words:
    "art" is not in "party". In scripts written without spaces they are found anywhere. The
    first 100,000 characters of an answer are read.

    A bare list of the keywords earns everything, and so does any text, with `"none"`: add a
    reward that reads the answer. Inflected forms are other words.
    """

    name = "keywords"

    def __init__(self, keywords: Iterable[str] | None = None, need: Need = "all") -> None:
        """Choose the words.

        Args:
            keywords: What is looked for; None takes each prompt's `metadata["keywords"]`, as
                tasks in the manner of CommonGen (Lin et al., arXiv:1911.03705) have it.
            need: "all", "any" or "none".

        Raises:
            ConfigError: if there is no keyword, or one is empty.
            UnknownNameError: if `need` is unknown.
        """
        if need not in get_args(Need):
            raise UnknownNameError("need", need, get_args(Need))
        if isinstance(keywords, str):
            raise ConfigError(f"keywords must be a list of texts, got the text {keywords!r:.40}")
        self.need = need
        self.keywords = None if keywords is None else tuple(keywords)
        if self.keywords is not None and not _usable(self.keywords):
            raise ConfigError(f"keywords must be non-empty texts, got {self.keywords!r:.80}")

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch.

        Raises:
            RewardError: if the keywords are the prompt's, and it has none.
        """
        return RewardResult.from_scores(self.name, [self._score(episode) for episode in episodes])

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return (0, 1)."""
        return (0.0, 1.0)

    def _score(self, episode: Episode) -> float:
        keywords = keywords_of(episode.prompt) if self.keywords is None else self.keywords
        text = normalise(episode.completion[:CHARACTERS_READ])
        if not text:
            return 0.0
        held = sum(holds_word(text, _normal(keyword)) for keyword in keywords)
        if self.need == "all":
            return held / len(keywords)
        return float(bool(held) == (self.need == "any"))


def keywords_of(prompt: Prompt) -> tuple[str, ...]:
    """Return the keywords of a prompt, `metadata["keywords"]`.

    Raises:
        RewardError: if there is none, or one is empty.
    """
    keywords = prompt.metadata.get("keywords", ())
    if isinstance(keywords, (list, tuple)) and _usable(tuple(keywords)):
        return tuple(keywords)
    raise RewardError(
        f"the prompt {prompt.id!r} has the keywords {keywords!r:.80}; Keywords needs a list of "
        "non-empty texts in metadata['keywords'], or as its own argument"
    )


def holds_word(text: str, word: str) -> bool:
    """Return whether a text holds a word or phrase that is not a part of a longer word.

    Args:
        text: In the form of `normalise`.
        word: In the form of `normalise`, not empty.

    >>> holds_word("a party", "art"), holds_word("modern art.", "art")
    (False, True)
    """
    start = text.find(word)
    while start >= 0:
        end = start + len(word)
        if not _joined(text, start) and not _joined(text, end):
            return True
        start = text.find(word, start + 1)
    return False


def _joined(text: str, i: int) -> bool:
    """Return whether the characters before and behind a place belong to one word."""
    if i == 0 or i == len(text):
        return False
    before, behind = text[i - 1], text[i]
    return _in_word(before) and _in_word(behind) and not (_unspaced(before) or _unspaced(behind))


def _in_word(character: str) -> bool:
    """Return whether a character is a letter, a mark on one, a digit or an underscore."""
    return character == "_" or unicodedata.category(character)[0] in "LMN"


def _unspaced(character: str) -> bool:
    return any(low <= ord(character) <= high for low, high in UNSPACED)


def _usable(keywords: tuple[object, ...]) -> bool:
    texts = [isinstance(keyword, str) and bool(_normal(keyword)) for keyword in keywords]
    return bool(texts) and all(texts)


@lru_cache(maxsize=8192)
def _normal(keyword: str) -> str:
    return normalise(keyword)
