"""`ContextGrounding`: answer in free text, and only from the context.

Every statement of an answer has to be borne out by one sentence of the context, in that
sentence's words; numbers, names and denials are checked apart, since similarity is blind to
them. What it cannot see is said in the docstring of `ContextGrounding`.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from textenvs.errors import ConfigError, RewardError
from textenvs.rewards.base import SCORED, BaseReward, RewardResult, Term
from textenvs.rewards.classic.words import ngrams
from textenvs.rewards.grounding.answer_match import REFUSAL, answer_key
from textenvs.rewards.grounding.claims import (
    RUN,
    Statement,
    clean,
    has_content,
    parse,
    sentences,
    without_mark,
)
from textenvs.rewards.grounding.copying import FEW, copied_units, longest_run
from textenvs.rewards.grounding.plain_text import IDEOGRAPHIC
from textenvs.rewards.grounding.support import NO_SUPPORT, Source, Support, source_of, supported
from textenvs.types import Episode, Item, Prompt

TERMS = {
    "coverage": 1.0,
    "numbers": -1.0,
    "names": -1.0,
    "polarity": -1.0,
    "repetition": -1.0,
    "length": -1.0,
    "copy": -1.0,
    "relevance": -1.0,
    "refusal": 1.0,
}
"""The terms with their weights: what is earned, and what each check takes from the rest."""
MOST_CLAIMS = 100
"""Claims beyond these are not read, and count as not borne out."""
LONGEST_REFUSAL = 200
NEW_SHARE = 0.3
"""A claim that adds fewer new words than this share repeats what was said."""
_LIST_SEPARATOR = re.compile(r"[,、/|]|\band\b|和")


@dataclass(frozen=True, slots=True)
class Claim:
    """One claim of an answer and the support it has."""

    statement: Statement
    support: Support
    is_new: bool

    @property
    def weight(self) -> int:
        """Its words, at least 1."""
        return max(1, len(self.statement.words))


class ContextGrounding(BaseReward):
    """How far an answer says what the context says, in [0, 1]; an empty answer gets 0.

    The answer is cut into claims (sentences; in an answer to a list, its items). Each is
    compared with single sentences of the context and weighs as much as its share of the
    answer's words. The terms, whose weighted scores add up to the score:

    - `coverage` (+1): the mean coverage of the claims; see `support`.
    - `numbers`, `names`, `polarity` (-1 each): what claims lose whose numbers or names are
      not those of the sentence that covers them, or that deny what it says. An answer with
      a denial that the context does not bear out loses everything.
    - `repetition` (-1): what claims lose that repeat earlier ones.
    - `length` (-1): everything, for an answer of fewer than `min_characters`.
    - `copy` (-1): with a share s > `max_share` of the context repeated, and three sentences
      or more, the share (s - max_share) / (1 - max_share) of what is left; with a stretch of
      w > `quote_words` words copied from a text, the share 1 - quote_words / w.
    - `relevance` (-1): where right answers are known, the share `relevance` * (1 - r) of what
      is left, r being the share of a right answer's words that stand in supported claims.
    - `refusal` (+1): 1 for a refusal where `prompt.metadata["answerable"]` is False. All else
      gets 0 there, and so does a refusal everywhere else.

    The context is `prompt.context` (a text, texts, or `Item`s), or else `prompt.text`.

    It is extractive: an answer in words of its own is not paid, though it be right. And
    grounded is not right: without a known answer, any sentence of the context will do,
    a false or an injected one too. Two context sentences joined in one claim, pronouns,
    sarcasm and inference are not understood.
    """

    name = "context_grounding"

    def __init__(
        self,
        *,
        min_characters: int = 3,
        max_characters: int = 10_000,
        max_share: float = 0.5,
        quote_words: int = 30,
        relevance: float = 0.75,
        refusals: Sequence[str] = (),
    ) -> None:
        """Choose what is too short, too long and too much of a copy.

        Args:
            min_characters: Letters and digits an answer must have, at least 1; a Chinese,
                Japanese or Korean character counts twice.
            max_characters: A longer answer gets 0 unread.
            max_share: Share of the context that may be repeated freely, in (0, 1].
            quote_words: Words that may be copied in one stretch, at least 1; a Chinese,
                Japanese or Korean character is half a word.
            relevance: What an answer loses that is grounded but not to the point, in [0, 1].
            refusals: Phrases taken for a refusal besides `prompt.metadata["refusal"]`.

        Raises:
            ConfigError: if an option is out of range.
        """
        counts = {
            "min_characters": (min_characters, 3),
            "max_characters": (max_characters, 10_000),
            "quote_words": (quote_words, 30),
        }
        for name, (count, default) in counts.items():
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ConfigError(
                    f"{name} must be at least 1, got {count!r}; the default is {default}"
                )
        if not 0 < max_share <= 1 or not 0 <= relevance <= 1:
            raise ConfigError(
                f"max_share must be above 0 and at most 1, relevance from 0 to 1, got {max_share} "
                f"and {relevance}; the defaults are 0.5 and 0.75"
            )
        self.min_characters, self.max_characters = min_characters, max_characters
        self.max_share, self.quote_words = float(max_share), quote_words
        self.relevance = float(relevance)
        self.refusals = frozenset(map(answer_key, refusals))

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch.

        Raises:
            RewardError: if a prompt's context is neither a text nor a list of texts or items.
        """
        rows = [self._terms(episode.prompt, episode.completion) for episode in episodes]
        table = np.array(rows, np.float64).reshape(len(rows), len(TERMS))
        status = (SCORED,) * len(rows)
        terms = {
            name: Term(table[:, i].copy(), weight, status)
            for i, (name, weight) in enumerate(TERMS.items())
        }
        total = sum((term.weighted for term in terms.values()), np.zeros(len(rows)))
        return RewardResult(np.clip(total, 0.0, 1.0), terms)  # rounding alone could pass them

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return (0, 1)."""
        return (0.0, 1.0)

    def _terms(self, prompt: Prompt, completion: str) -> list[float]:
        """Return the raw score of each term; the docstring of the class has the formulas."""
        nothing = [0.0] * len(TERMS)
        source = _source_of(prompt)
        if len(completion) > self.max_characters:
            return nothing
        is_refusal = self._refuses(prompt, completion)
        if is_refusal or prompt.metadata.get("answerable") is False:
            answerable = prompt.metadata.get("answerable", True)
            return [*nothing[:-1], float(is_refusal and answerable is False)]
        text = clean(completion)
        claims, unread = _judged(text, source)
        total = unread + sum(claim.weight for claim in claims)
        if not total:
            return nothing
        left = _after_each_check(claims, total)
        words = [word for claim in claims for word in claim.statement.words]
        left.append(left[-1] if _size(words) >= self.min_characters else 0.0)
        left.append(left[-1] * self._own_share(words, source) if left[-1] else 0.0)
        if self.relevance and left[-1]:
            left.append(left[-1] * (1.0 - self.relevance * (1.0 - _recall(prompt, claims))))
        else:
            left.append(left[-1])
        losses = [before - after for before, after in zip(left, left[1:], strict=False)]
        return [left[0], *losses, 0.0]

    def _refuses(self, prompt: Prompt, completion: str) -> bool:
        if len(completion) > LONGEST_REFUSAL:
            return False
        agreed = answer_key(str(prompt.metadata.get("refusal", REFUSAL)))
        key = answer_key(clean(completion))
        return bool(key) and (key == agreed or key in self.refusals)

    def _own_share(self, words: Sequence[str], source: Source) -> float:
        """Return what copying leaves, in [0, 1]."""
        units, share = copied_units(words, source.statements)
        own = 1.0
        if units > FEW and share > self.max_share:
            own = (1.0 - share) / (1.0 - self.max_share)
        if not source.is_list and len(words) > self.quote_words:
            # Two characters of a script without spaces make about one word.
            characters = sum(IDEOGRAPHIC.match(word) is not None for word in words)
            run = longest_run(words, _runs(source.statements)) * (1 - characters / 2 / len(words))
            own *= min(1.0, self.quote_words / max(1.0, run))
        return own


def _after_each_check(claims: Sequence[Claim], total: int) -> list[float]:
    """Return the mean coverage, and what of it each check of single claims leaves, in order."""
    shares = np.array([claim.weight / total for claim in claims])
    covered = shares * [claim.support.coverage for claim in claims]
    left = [float(covered.sum())]
    for check in ("numbers", "names", "polarity"):
        covered = covered * [bool(getattr(claim.support, check)) for claim in claims]
        left.append(float(covered.sum()))
    if any(_is_denial(claim) for claim in claims):
        covered, left[-1] = np.zeros(len(claims)), 0.0
    covered = covered * [claim.is_new for claim in claims]
    left.append(float(covered.sum()))
    return left


def _is_denial(claim: Claim) -> bool:
    """Return whether a claim takes back what the context or the answer says."""
    if claim.support.score:
        return False
    return claim.statement.turned > 0 or (claim.support.coverage > 0 and not claim.support.polarity)


def _judged(text: str, source: Source) -> tuple[list[Claim], int]:
    """Return the claims of a text from `clean`, each with its support, and the words not read.

    Among several claims on a text, one of a single word is no claim: words cut apart by full
    stops would otherwise be borne out one by one.
    """
    lines = map(without_mark, text.splitlines())
    pieces = [p for line in lines for p in ([line] if source.is_list else sentences(line))]
    found: list[tuple[Statement, Support]] = []
    unread = 0
    for piece in pieces:
        if len(found) < MOST_CLAIMS:
            found.extend(_claims(piece, source))
        else:
            unread += len(piece.split()) + len(IDEOGRAPHIC.findall(piece))
    claims: list[Claim] = []
    said: set[str] = set()
    for statement, support in found:
        if len(found) > 1 and not source.is_list and _content_count(statement) < 2:
            support = NO_SUPPORT
        # "Her" and "It" are titles too: without a word of content, all words count.
        content = set(filter(has_content, statement.words)) or set(statement.words)
        is_new = len(content - said) >= NEW_SHARE * max(1, len(content))
        said |= content
        claims.append(Claim(statement, support, is_new))
    return claims, unread


def _content_count(statement: Statement) -> int:
    return sum(map(has_content, statement.words))


def _claims(piece: str, source: Source) -> Iterator[tuple[Statement, Support]]:
    """Yield a piece of an answer with its support; of a list, its parts if it has none whole."""
    statement = parse(piece)
    support = supported(statement, source)
    parts = [p for s in sentences(piece) for p in _LIST_SEPARATOR.split(s) if p.strip()]
    if support.score or not source.is_list or len(parts) < 2:
        yield statement, support
        return
    for part in parts[:MOST_CLAIMS]:
        statement = parse(part)
        yield statement, supported(statement, source)


def _size(words: Sequence[str]) -> int:
    """Return the letters and digits of the different words; an ideograph counts twice."""
    text = "".join(dict.fromkeys(words))
    return sum(map(str.isalnum, text)) + len(IDEOGRAPHIC.findall(text))


def _recall(prompt: Prompt, claims: Sequence[Claim]) -> float:
    """Return the largest share of a known answer's words in supported claims; 1 without any."""
    answers = prompt.metadata.get("answers") or prompt.reference
    if not answers:
        return 1.0
    said = {word for claim in claims if claim.support.score for word in claim.statement.words}
    known = [answers] if isinstance(answers, str) else answers
    wanted = [_content_words(str(answer)) for answer in known]
    return max((len(w & said) / len(w) for w in wanted if w), default=1.0)


@lru_cache(maxsize=4096)
def _content_words(text: str) -> frozenset[str]:
    return frozenset(word for word in parse(clean(text)).words if has_content(word))


def _source_of(prompt: Prompt) -> Source:
    """Return the context of a prompt, taken apart.

    Raises:
        RewardError: if it is neither a text nor a list of texts or items.
    """
    context: Any = prompt.text if prompt.context is None else prompt.context
    parts = (context,) if isinstance(context, str) else context
    if not isinstance(parts, (tuple, list)) or not all(isinstance(p, (str, Item)) for p in parts):
        raise RewardError(
            f"the prompt {prompt.id!r} has the context {context!r:.80}; ContextGrounding needs a "
            "text, or a list of texts or of Item(title, category)"
        )
    texts = tuple(part if isinstance(part, str) else part.title for part in parts)
    are_items = any(isinstance(part, Item) for part in parts)
    return _source(texts, str(prompt.metadata.get("question", "")), are_items)


@lru_cache(maxsize=2048)
def _source(parts: tuple[str, ...], question: str, are_items: bool) -> Source:
    return source_of(parts, question, are_items=are_items)


@lru_cache(maxsize=2048)
def _runs(statements: tuple[Statement, ...]) -> frozenset[tuple[str, ...]]:
    return frozenset(ngrams([word for s in statements for word in s.words], RUN))
