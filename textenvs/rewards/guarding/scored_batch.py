"""The scores of a batch with the failures among them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from textenvs.errors import RewardError
from textenvs.rewards.base import BaseReward, Reward
from textenvs.rewards.functions import ROUNDING
from textenvs.rewards.results import GATED, RewardResult, Term, paid_at_the_end, validated
from textenvs.types import Episode, Prompt

LONGEST_TEXT = 500


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an episode, or a whole batch, has no score.

    Attributes:
        kind: One of `FAILURES`.
        text: For people.
    """

    kind: str
    text: str


@dataclass(frozen=True, slots=True)
class ScoredBatch:
    """What a reward made of a batch.

    Attributes:
        result: Of the right shape; the scores of failed episodes mean nothing.
        failures: Row -> why it has no valid score.
    """

    result: RewardResult
    failures: Mapping[int, Failure] = field(default_factory=dict)


def score_batch(
    reward: Reward, episodes: Sequence[Episode], *, allow_unscored: bool = True
) -> ScoredBatch | Failure:
    """Score a batch; whatever a reward raises, and whatever it returns, becomes a value.

    Args:
        reward: Any.
        episodes: The batch.
        allow_unscored: Whether NaN is a score's right not to be there, or a failure.

    Returns:
        The scores, or the failure of the batch as a whole.
    """
    try:
        result = reward(episodes)
    except MemoryError:
        return Failure("memory", "asked for more memory than it may take")
    except RewardError as error:
        return Failure("result", described(error))
    except BaseException as error:  # SystemExit too must not end the process
        return Failure("exception", described(error))
    try:
        if isinstance(result, RewardResult) and np.isinf(result.scores).any():
            return Failure("infinite", "returned infinity")
        result = validated(result, reward.name, episodes)
    except (AttributeError, TypeError, ValueError) as error:  # RewardError is a ValueError
        return Failure("result", described(error))
    failures = {}
    for row, (episode, score) in enumerate(zip(episodes, result.scores.tolist(), strict=True)):
        failure = _invalid(reward, episode.prompt, score, allow_unscored)
        if failure is not None:
            failures[row] = failure
    return ScoredBatch(result, failures)


def described(error: BaseException) -> str:
    """Return an error in one line, whatever it is."""
    try:
        return f"{type(error).__name__}: {error}"[:LONGEST_TEXT]
    except Exception:  # its own __str__ may be what is broken
        return type(error).__name__


def _invalid(reward: Reward, prompt: Prompt, score: float, allow_unscored: bool) -> Failure | None:
    if math.isnan(score):
        return None if allow_unscored else Failure("nan", "returned NaN")
    if not isinstance(reward, BaseReward):
        return None
    try:
        low, high = reward.bounds(prompt)
    except Exception as error:  # a part of the reward as any other
        return Failure("exception", f"bounds(prompt) raised {described(error)}")
    finite = [abs(bound) for bound in (low, high) if math.isfinite(bound)]
    slack = ROUNDING * max([1.0, *finite])
    if low - slack <= score <= high + slack:
        return None
    return Failure("range", f"returned {score!r}, outside its bounds [{low:g}, {high:g}]")


Piece = tuple[Sequence[int], ScoredBatch | Failure]
"""Rows of a batch, and what came of scoring them together."""


def failures_of(pieces: Sequence[Piece]) -> dict[int, Failure]:
    """Return the failed rows among some pieces of a batch."""
    failed: dict[int, Failure] = {}
    for rows, outcome in pieces:
        if isinstance(outcome, Failure):
            failed.update(dict.fromkeys(rows, outcome))
        else:
            failed.update((rows[i], failure) for i, failure in outcome.failures.items())
    return failed


def join_pieces(
    episodes: Sequence[Episode],
    pieces: Sequence[Piece],
    *,
    weights: Mapping[str, float],
    value: float | None,
) -> RewardResult:
    """Return one result for a batch that was scored in pieces.

    Args:
        episodes: The batch, B of them.
        pieces: Cover every row once.
        weights: Of the terms the reward is known to have.
        value: The score of a failed episode, or None to leave it unscored.

    Returns:
        Scores and terms [B]. The terms of a failed episode have its kind of failure for a
        status, and no share in its score.
    """
    scored = [(list(rows), p.result) for rows, p in pieces if isinstance(p, ScoredBatch)]
    failed = failures_of(pieces)
    count, substitute = len(episodes), math.nan if value is None else value
    for _, result in scored:
        weights = {**weights, **{name: term.weight for name, term in result.terms.items()}}
    scores = np.full(count, math.nan)
    raw = {name: np.full(count, math.nan) for name in weights}
    status = {name: [GATED] * count for name in weights}
    for rows, result in scored:
        scores[rows] = result.scores
        for name, term in result.terms.items():
            # Pieces may differ in their weights, but what each episode got for a term may not.
            change = term.weight / weights[name] if term.weight != weights[name] else 1.0
            raw[name][rows] = term.score * change
            for row, word in zip(rows, term.status, strict=True):
                status[name][row] = word
    for row, failure in failed.items():
        scores[row] = substitute
        for name in weights:
            raw[name][row], status[name][row] = math.nan, failure.kind
    terms = {name: Term(raw[name], weights[name], tuple(status[name])) for name in weights}
    return RewardResult(scores, terms, _joined_tokens(episodes, scored, list(failed), substitute))


def _joined_tokens(
    episodes: Sequence[Episode],
    scored: Sequence[tuple[list[int], RewardResult]],
    failed: Sequence[int],
    substitute: float,
) -> list[np.ndarray] | None:
    """Return how the scores spread over the tokens, where every piece says so."""
    if not scored or any(result.per_token is None for _, result in scored):
        return None
    spread = [np.zeros(len(episode.completion_ids)) for episode in episodes]
    for rows, result in scored:
        for row, tokens in zip(rows, result.per_token or (), strict=True):
            spread[row] = tokens
    for row in failed:
        spread[row] = paid_at_the_end(len(episodes[row].completion_ids), substitute)
    return spread
