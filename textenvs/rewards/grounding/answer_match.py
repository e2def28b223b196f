"""`AnswerMatch`: one right answer, or the agreed refusal where there is none.

Texts are compared in the normal form of SQuAD's evaluation (Rajpurkar et al.,
arXiv:1606.05250, section 6): case, punctuation, articles and white space do not count.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, get_args

import numpy as np

from textenvs.errors import RewardError, UnknownNameError
from textenvs.prompts import normalise
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.types import Episode, Prompt

Scoring = Literal["exact", "f1"]
REFUSAL = "not in the text"
"""What an answer says where the passage does not, unless the prompt agrees on another phrase."""
TURNING_WORDS = frozenset(
    "not no nor never neither none isnt wasnt arent werent cannot cant doesnt didnt unlike "
    "or either except but without instead rather maybe perhaps".split()
)
"""Words that turn or hedge what stands beside them; word overlap alone is blind to that."""
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
LOWEST, HIGHEST = -1.0, 1.0
CHARACTERS_READ = 20_000
UNREAD = "\ufffd"
"""The key of a text of more characters than that, which is no short answer: nobody waits for it."""


@dataclass(frozen=True, slots=True)
class Key:
    """What a prompt accepts, in comparison form.

    Attributes:
        answers: The right answers; empty where there is none.
        refusal: The agreed refusal.
    """

    answers: tuple[str, ...]
    refusal: str


class AnswerMatch(BaseReward):
    """Score one short answer; range [-1, 1], and an empty answer always gets -1.

    +1 for an accepted answer, or for the refusal where the question has no answer. Both
    are compared whole, in the form of `answer_key`, so that an answer with anything beside
    it (a negation, an alternative, the sentence it stands in, itself again) is a wrong one.
    What else a wrong answer gets depends on the scoring:

    - `"exact"`: -1, a refusal of a question that has an answer included.
    - `"f1"`: 2 max(0, 2 F1 - 1) - 1 with the token F1 of SQuAD, the greatest over the accepted
      answers, so that an F1 of one half or less earns nothing. -1 if the numbers differ,
      if it adds a word that turns or hedges or a lone symbol, if it is the refusal, or if
      the question has no answer.

    The accepted answers are `prompt.metadata["answers"]` (an empty list: none), or else
    `prompt.reference`; the refusal is `prompt.metadata["refusal"]`, or else "not in the text".
    """

    name = "answer_match"

    def __init__(self, scoring: Scoring = "exact") -> None:
        """Choose what nearly right answers get.

        Raises:
            UnknownNameError: if the scoring is unknown.
        """
        if scoring not in get_args(Scoring):
            raise UnknownNameError("scoring", scoring, get_args(Scoring))
        self.scoring = scoring

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        return RewardResult.from_scores(self.name, [self._score(episode) for episode in episodes])

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return the least and the greatest score an answer to this prompt can get."""
        return (LOWEST, HIGHEST)

    def _score(self, episode: Episode) -> float:
        key, accepted = answer_key(episode.completion), key_of(episode.prompt)
        if is_right(key, accepted):
            return HIGHEST
        if self.scoring == "exact" or key in ("", accepted.refusal):
            return LOWEST
        overlap = max((guarded_f1(key, answer) for answer in accepted.answers), default=0.0)
        return LOWEST + (HIGHEST - LOWEST) * max(0.0, 2.0 * overlap - 1.0)


def answer_key(text: str) -> str:
    """Return the form in which answers are compared: SQuAD's, made safe for Unicode.

    `textenvs.prompts.normalise`, digits of any script made ASCII, then punctuation and
    English articles dropped. Three things stay that SQuAD's ASCII-only script confuses:
    punctuation between two digits (so that "19.82" is not "1982"; a comma before three
    digits goes), a minus sign, and symbols such as "~", "<" and "≠". A text of articles or
    punctuation alone is kept as it is, so that only white space has the key "".

    >>> answer_key("  The  Big-Sleep! "), answer_key("1,234"), answer_key("-3.5")
    ('bigsleep', '1234', '-3.5')
    """
    if len(text) > CHARACTERS_READ:
        return UNREAD
    # NFKC would make a 2 of a superscript, and the year 1982 of 198².
    apart = (f" {c} " if unicodedata.category(c) == "No" else c for c in text)
    plain = normalise("".join(apart))
    folded = "".join(_folded(c) for c in plain)
    folded = _THOUSANDS.sub("", folded)
    kept = "".join(c for i, c in enumerate(folded) if _counts(folded, i))
    return " ".join(_ARTICLES.sub(" ", kept).split()) or plain


def _folded(character: str) -> str:
    """Return digits of any script as ASCII, every dash and the minus sign as a hyphen."""
    if character.isdecimal():
        return str(unicodedata.decimal(character))
    is_dash = character == "\u2212" or unicodedata.category(character) == "Pd"
    return "-" if is_dash else character


def _counts(text: str, i: int) -> bool:
    """Return whether a character is more than punctuation."""
    character = text[i]
    if character.isalnum() or character.isspace():
        return True
    before, after = text[i - 1 : i], text[i + 1 : i + 2]
    if after.isdecimal() and (before.isdecimal() or (character == "-" and not before.strip())):
        return True
    # "$", "`" and "^" are punctuation to SQuAD; the other symbols can change the meaning.
    return not (character in "$`^" or unicodedata.category(character).startswith("P"))


def token_f1(key: str, answer: str) -> float:
    """Return the F1 of the words two keys share, as in SQuAD; linear in their length.

    Args:
        key: From `answer_key`.
        answer: From `answer_key`.

    Returns:
        A figure in [0, 1].
    """
    words, wanted = Counter(key.split()), Counter(answer.split())
    shared = (words & wanted).total()
    return 2.0 * shared / (words.total() + wanted.total()) if shared else 0.0


def guarded_f1(key: str, answer: str) -> float:
    """Return `token_f1`, or 0 if numbers differ or a word or a symbol turns the meaning."""
    words, wanted = key.split(), answer.split()
    added = set(words) - set(wanted)
    if any(word in TURNING_WORDS or not any(map(str.isalnum, word)) for word in added):
        return 0.0
    numbers = [sorted(w for w in side if any(map(str.isdecimal, w))) for side in (words, wanted)]
    return token_f1(key, answer) if numbers[0] == numbers[1] else 0.0


def is_right(key: str, accepted: Key) -> bool:
    """Return whether the key of an answer is accepted; an empty one never is."""
    return bool(key) and key in (accepted.answers or (accepted.refusal,))


def key_of(prompt: Prompt) -> Key:
    """Return what a prompt accepts, in comparison form.

    Raises:
        RewardError: if the prompt names no answer, or something that is not text.
    """
    answers = prompt.metadata.get("answers", prompt.reference)
    answers = (answers,) if isinstance(answers, str) else answers
    refusal = prompt.metadata.get("refusal", REFUSAL)
    if not isinstance(answers, (list, tuple)) or not all(
        isinstance(text, str) and text.strip() for text in (*answers, refusal)
    ):
        raise RewardError(
            f"the prompt {prompt.id!r} has the answers {answers!r:.80} and the refusal "
            f"{refusal!r:.40}; AnswerMatch needs metadata['answers'], a list of non-empty texts "
            "(an empty list where there is no answer), or a reference"
        )
    return _key(tuple(answers), refusal)


@lru_cache(maxsize=4096)
def _key(answers: tuple[str, ...], refusal: str) -> Key:
    return Key(tuple(map(answer_key, answers)), answer_key(refusal))


METRICS = (
    "exact_match",
    "f1",
    "answer_right",
    "refusal_right",
    "refusal_wrong",
    "misread",
    "invented",
    "empty",
    "unanswerable",
)


def gold_metrics(episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """Return the measures a policy is judged by and never trained on, float64 [B] in [0, 1].

    `exact_match` and `f1` are those of SQuAD 2.0 (Rajpurkar et al., arXiv:1806.03822): where
    there is no answer both are 1 for the refusal, else 0. Of the next six exactly one is 1:

    - `answer_right`: the answer is accepted.
    - `refusal_right`: a refusal, and there is no answer.
    - `refusal_wrong`: a refusal, and there is an answer.
    - `misread`: anything else made of words of the passage.
    - `invented`: anything else with a word that is not in the passage.
    - `empty`: nothing but white space.

    So their means are shares of all episodes, and add up to 1. `unanswerable` is 1 where there
    is no answer; mean `refusal_right` / mean `unanswerable` is the share of unanswerable
    questions that were refused, and mean `refusal_wrong` / (1 - mean `unanswerable`) that of
    the others.
    """
    table = np.zeros((len(episodes), len(METRICS)), np.float64)
    for row, episode in zip(table, episodes, strict=True):
        key, accepted = answer_key(episode.completion), key_of(episode.prompt)
        outcome = _outcome(key, accepted, episode.prompt)
        row[METRICS.index(outcome)] = 1.0
        row[0] = is_right(key, accepted)
        row[1] = max((token_f1(key, answer) for answer in accepted.answers), default=row[0])
        row[-1] = not accepted.answers
    return {name: table[:, i].copy() for i, name in enumerate(METRICS)}


def _outcome(key: str, accepted: Key, prompt: Prompt) -> str:
    """Return which of the six outcomes an answer is."""
    if not key:
        return "empty"
    if is_right(key, accepted):
        return "answer_right" if accepted.answers else "refusal_right"
    if key == accepted.refusal:
        return "refusal_wrong"
    return "misread" if _passage_words(_passage(prompt)).issuperset(key.split()) else "invented"


def _passage(prompt: Prompt) -> str:
    """Return the text an answer may draw on: the context where it is text, else the prompt."""
    context: Any = prompt.context
    parts = (context,) if isinstance(context, str) else context
    if isinstance(parts, (list, tuple)) and all(isinstance(part, str) for part in parts):
        return " ".join(parts)
    return prompt.text


@lru_cache(maxsize=1024)
def _passage_words(passage: str) -> frozenset[str]:
    return frozenset(answer_key(passage).split())
