"""What a reward returns: totals, the named terms they are made of, shares of tokens."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from textenvs.errors import RewardError
from textenvs.types import Episode

SCORED, UNSCORED, GATED = "scored", "unscored", "gated"
"""A term has a number; was asked and could not tell; was not asked, its gate being shut."""
FAILURES = (
    "exception",
    "timeout",
    "crash",
    "memory",
    "result",
    "infinite",
    "range",
    "nan",
    "start",
    "given_up",
)
"""How a reward that is guarded fails on an episode; docs/guarded.md says what each means."""
STATUSES = (SCORED, UNSCORED, GATED, *FAILURES)
ANY_FAILURE = frozenset(FAILURES)
WITHOUT_SHARE = ANY_FAILURE | {GATED}
TOLERANCE = 1e-6
"""Between a total and the sum of its terms or tokens, relative to the greatest of them: a
model's scores may have been added up in single precision."""


@dataclass(frozen=True, slots=True)
class Term:
    """One named part of a reward.

    Attributes:
        score: float64 [B], raw; NaN where not scored.
        weight: What the raw score is multiplied by in the total; 0 logs a number that
            takes no part in it.
        status: [B] of "scored", "unscored", "gated", or how it failed, of `FAILURES`.
    """

    score: np.ndarray
    weight: float
    status: tuple[str, ...]

    @classmethod
    def of(cls, score: np.ndarray, weight: float = 1.0) -> "Term":
        """Return the term of raw scores, "unscored" where they are NaN."""
        status = tuple(UNSCORED if missing else SCORED for missing in np.isnan(score).tolist())
        return cls(score, weight, status)

    @property
    def weighted(self) -> np.ndarray:
        """float64 [B], the term's share of the total; NaN where it was not scored."""
        return self.weight * self.score

    @property
    def contribution(self) -> np.ndarray:
        """float64 [B], what it adds to the total: 0 where gated or failed, NaN where unscored."""
        if not self.weight:
            return np.zeros(len(self.status))
        if WITHOUT_SHARE.isdisjoint(self.status):
            return self.weighted
        return np.where([status in WITHOUT_SHARE for status in self.status], 0.0, self.weighted)

    def scaled(self, factor: float) -> "Term":
        """Return the term with its weight multiplied."""
        return Term(self.score, factor * self.weight, self.status)

    def scattered(self, rows: Sequence[int], count: int) -> "Term":
        """Return the term of `count` episodes of which only `rows` were asked; else gated."""
        score, status = np.full(count, math.nan), [GATED] * count
        score[rows] = self.score
        for row, said in zip(rows, self.status, strict=True):
            status[row] = said
        return Term(score, self.weight, tuple(status))


@dataclass(frozen=True, slots=True)
class RewardResult:
    """Scores of a batch of episodes.

    Attributes:
        scores: float64 [B], the totals; NaN where an episode was not scored.
        terms: Every term by name; what they contribute adds up to `scores`.
        per_token: Where a reward can say so, how each total spreads over the tokens: one
            float64 [T_i] an episode, T_i being the number of its `completion_ids`, which
            adds up to the total; empty for a text without tokens, ignored for an episode
            without a score. None pays the total with the last token.
    """

    scores: np.ndarray
    terms: Mapping[str, Term] = field(default_factory=dict)
    per_token: list[np.ndarray] | None = None

    @classmethod
    def from_scores(cls, name: str, scores: Sequence[float | None] | np.ndarray) -> "RewardResult":
        """Return the result of a reward with one term; None and NaN mean "not scored"."""
        raw = np.array([math.nan if s is None else float(s) for s in scores], np.float64)
        return cls(raw.copy(), {name: Term.of(raw)})

    @property
    def failures(self) -> dict[int, str]:
        """How a guarded reward failed, by row, where one did."""
        return {
            row: word
            for term in self.terms.values()
            if not ANY_FAILURE.isdisjoint(term.status)
            for row, word in enumerate(term.status)
            if word in ANY_FAILURE
        }

    def scaled(self, factor: float) -> "RewardResult":
        """Return the result with every weight multiplied; at 0 nothing is left unscored."""
        terms = {name: term.scaled(factor) for name, term in self.terms.items()}
        if not factor:
            return RewardResult(np.zeros(len(self.scores)), terms)
        per_token = None if self.per_token is None else [factor * row for row in self.per_token]
        return RewardResult(factor * self.scores, terms, per_token)

    def adjusted(self, name: str, scores: np.ndarray) -> "RewardResult":
        """Return the result with other totals; a term of this name holds the difference.

        It is paid with the last token.

        Raises:
            RewardError: if there is a term of this name.
        """
        if name in self.terms:
            raise RewardError(f"two terms are called {name!r}; pass name= to one of the rewards")
        difference = scores - self.scores
        per_token = None
        if self.per_token is not None:
            per_token = [
                row + paid_at_the_end(len(row), 0.0 if math.isnan(change) else change)
                for row, change in zip(self.per_token, difference.tolist(), strict=True)
            ]
        return RewardResult(scores, {**self.terms, name: Term.of(difference)}, per_token)

    def spread(self, episodes: Sequence[Episode]) -> list[np.ndarray]:
        """Return the share of each token, float64 [T_i] an episode.

        Args:
            episodes: What was scored.
        """
        if self.per_token is not None:
            return self.per_token
        return [
            paid_at_the_end(len(episode.completion_ids), score)
            for episode, score in zip(episodes, self.scores.tolist(), strict=True)
        ]


def paid_at_the_end(length: int, score: float) -> np.ndarray:
    """Return float64 [T], all of a score on the last token; empty where there is none."""
    row = np.zeros(length)
    row[length - 1 :] = score
    return row


def merged_terms(name: str, parts: Sequence[Mapping[str, Term]]) -> dict[str, Term]:
    """Return the terms of several parts of the reward of this name.

    Raises:
        RewardError: if two of them have a term of the same name: one would go unseen.
    """
    terms: dict[str, Term] = {}
    for part in parts:
        for term_name, term in part.items():
            if term_name in terms:
                raise RewardError(
                    f"two terms of the reward {name!r} are called {term_name!r}; give one of "
                    "the rewards another name"
                )
            terms[term_name] = term
    return terms


def validated(result: Any, name: str, episodes: Sequence[Episode]) -> RewardResult:
    """Return a result, its totals as float64, its terms filled in where it has none.

    Args:
        result: What a reward returned.
        name: Of the reward.
        episodes: What was scored.

    Raises:
        RewardError: if it is no `RewardResult`, of the wrong length or infinite, or its
            terms or tokens do not add up to the totals.
    """
    if not isinstance(result, RewardResult):
        raise RewardError(
            f"the reward {name!r} returned {type(result).__name__}, not a RewardResult; "
            "wrap a plain function with @textenvs.rewards.reward"
        )
    scores = np.asarray(result.scores, np.float64)
    if scores.shape != (len(episodes),):
        raise RewardError(
            f"the reward {name!r} returned scores of shape {scores.shape} for "
            f"{len(episodes)} episodes; it must return one score each"
        )
    if np.isinf(scores).any():
        where = episodes[int(np.flatnonzero(np.isinf(scores))[0])].prompt.id
        raise RewardError(f"the reward {name!r} returned infinity for the prompt {where!r}")
    if not result.terms:
        result = replace(result, terms={name: Term.of(scores.copy())})
    _check_terms(result.terms, scores, name, episodes)
    if result.per_token is not None:
        _check_tokens(result.per_token, scores, name, episodes)
    return result if result.scores is scores else replace(result, scores=scores)


def _check_terms(
    terms: Mapping[str, Term], scores: np.ndarray, name: str, episodes: Sequence[Episode]
) -> None:
    """Refuse terms that do not say what the totals are made of."""
    count = len(scores)
    total, size = np.zeros(count), np.ones(count)
    for term_name, term in terms.items():
        if np.shape(term.score) != (count,) or len(term.status) != count:
            raise RewardError(
                f"the term {term_name!r} of the reward {name!r} has scores of shape "
                f"{np.shape(term.score)} and {len(term.status)} statuses for {count} episodes"
            )
        has_score = [status == SCORED for status in term.status]
        if not set(term.status) <= set(STATUSES) or has_score != np.isfinite(term.score).tolist():
            raise RewardError(
                f"the term {term_name!r} of the reward {name!r} has the scores {term.score} and "
                f"the statuses {term.status}; it must hold a finite number where it is "
                f'"{SCORED}", and NaN where it is anything else of {STATUSES}'
            )
        added = term.contribution
        total += added
        size += np.abs(added)
    wrong = ~np.isnan(scores) & ~(np.abs(total - scores) <= TOLERANCE * size)
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        made_of = {n: (float(term.weighted[i]), term.status[i]) for n, term in terms.items()}
        raise RewardError(
            f"the reward {name!r} scores the prompt {episodes[i].prompt.id!r} {scores[i]:g}, but "
            f"its terms add up to {total[i]:g}: {made_of}; name what is missing as a term, or "
            "give a term that only informs the weight 0"
        )


def _check_tokens(
    rows: Sequence[np.ndarray], scores: np.ndarray, name: str, episodes: Sequence[Episode]
) -> None:
    """Refuse shares that are not one a token, or do not add up to the totals."""
    if len(rows) != len(episodes):
        raise RewardError(
            f"the reward {name!r} returned per_token for {len(rows)} of {len(episodes)} episodes"
        )
    for episode, row, score in zip(episodes, rows, scores.tolist(), strict=True):
        if math.isnan(score) or not episode.completion_ids:
            continue
        if np.shape(row) != (len(episode.completion_ids),):
            raise RewardError(
                f"the reward {name!r} returned per_token of shape {np.shape(row)} for an episode "
                f"of {len(episode.completion_ids)} tokens; it must return one number each"
            )
        total = float(np.sum(row))
        # Written so that NaN is refused as well.
        if not abs(total - score) <= TOLERANCE * max(1.0, float(np.sum(np.abs(row)))):
            raise RewardError(
                f"the reward {name!r} scores the prompt {episode.prompt.id!r} {score:g}, but the "
                f"shares of its tokens add up to {total:g}"
            )
