"""`Gate`: a reward that is asked only where a condition holds."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from textenvs.errors import ConfigError, RewardError
from textenvs.rewards.base import BaseReward, checked_result, label
from textenvs.rewards.functions import as_base_reward, takes
from textenvs.rewards.results import GATED, RewardResult, Term, merged_terms, paid_at_the_end
from textenvs.types import Episode, Prompt


class Gate(BaseReward):
    """A reward for the episodes that meet a condition; the others are paid `otherwise`.

    The reward is called with the episodes whose gate is open and with no others, so that a
    costly one is spared. Where the gate is shut its terms are "gated": they have no number
    and are absent from the log, which is not the same as a score of 0.

    A term of the gate's own name holds what a shut gate pays, 0 where it is open, so that
    the terms add up to the total. If the condition is a reward, a term of the gate's name
    followed by ":condition" holds its score, with the weight 0. An episode the condition
    could not score is unscored.
    """

    def __init__(
        self,
        condition: BaseReward | Callable[[Prompt, str], bool],
        reward: Any,
        otherwise: float | Literal["lowest"] = "lowest",
        *,
        above: float = 0.0,
        name: str | None = None,
    ) -> None:
        """Choose the condition and what its failure costs.

        Args:
            condition: A function of (prompt, completion) that returns a bool; or a reward,
                which opens the gate where it scores more than `above`.
            reward: A reward or a function.
            otherwise: The total of a shut gate. "lowest", the default, is the lower bound of
                the reward for the prompt, so that nobody gains by failing the condition; it
                is 0 for a reward that declares no bounds at all.
            above: See `condition`.
            name: Of the reward and its term; by default "gate(...)" of the reward's name.

        Raises:
            ConfigError: if the condition is neither, or a number is not finite.
        """
        if not isinstance(condition, BaseReward) and not takes(condition, 2):
            raise ConfigError(
                f"the condition of a gate must be a reward or a function of (prompt, completion), "
                f"got {condition!r:.80}"
            )
        self.condition, self.reward = condition, as_base_reward(reward)
        self.otherwise = otherwise if otherwise == "lowest" else _finite("otherwise", otherwise)
        self.above = _finite("above", above)
        self.name = name or f"gate({label(self.reward)})"

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch.

        Raises:
            RewardError: if the condition returns something else than a bool, or there is no
                lowest score to pay.
        """
        count = len(episodes)
        reading = self._reading(episodes)
        undecided = np.isnan(reading)
        is_open = reading > self.above
        paid = np.where(undecided, math.nan, 0.0)
        for row in np.flatnonzero(~is_open & ~undecided).tolist():
            paid[row] = self._shut(episodes[row].prompt)
        rows = np.flatnonzero(is_open).tolist()
        gated = (GATED,) * count
        terms = {
            name: Term(np.full(count, math.nan), weight, gated)
            for name, weight in self.reward.term_weights().items()
        }
        scores, per_token = paid.copy(), None
        if rows:
            found = checked_result(self.reward, [episodes[row] for row in rows])
            scores[rows] = found.scores
            terms = {name: term.scattered(rows, count) for name, term in found.terms.items()}
            if found.per_token is not None:
                per_token = [
                    paid_at_the_end(len(episode.completion_ids), pay)
                    for episode, pay in zip(episodes, paid.tolist(), strict=True)
                ]
                for row, shares in zip(rows, found.per_token, strict=True):
                    per_token[row] = shares
        own = {self.name: Term.of(paid)}
        if isinstance(self.condition, BaseReward):
            own[self._condition_name] = Term.of(reading, 0.0)
        return RewardResult(scores, merged_terms(self.name, [terms, own]), per_token)

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return the bounds of the reward, widened to what a shut gate pays."""
        low, high = self.reward.bounds(prompt)
        shut = self._shut(prompt)
        return (min(low, shut), max(high, shut))

    @property
    def inner(self) -> tuple[BaseReward, ...]:
        """The condition, if it is a reward, and the reward."""
        if isinstance(self.condition, BaseReward):
            return (self.condition, self.reward)
        return (self.reward,)

    def term_weights(self) -> dict[str, float]:
        """Return the reward's terms, the gate's own and the condition's."""
        weights = {**self.reward.term_weights(), self.name: 1.0}
        if isinstance(self.condition, BaseReward):
            weights[self._condition_name] = 0.0
        return weights

    @property
    def _condition_name(self) -> str:
        return f"{self.name}:condition"

    def _reading(self, episodes: Sequence[Episode]) -> np.ndarray:
        """Return float64 [B], what the condition says; of a function, above or not at all."""
        if isinstance(self.condition, BaseReward):
            return checked_result(self.condition, episodes).scores
        return np.array([self._holds(episode) for episode in episodes], np.float64)

    def _holds(self, episode: Episode) -> float:
        assert not isinstance(self.condition, BaseReward)
        said: Any = self.condition(episode.prompt, episode.completion)
        # bool("False") is True: a condition that answers in words would open every gate.
        if not isinstance(said, (bool, np.bool_)):
            raise RewardError(
                f"the condition of {self.name!r} returned {said!r:.80} for the prompt "
                f"{episode.prompt.id!r}; it must return True or False (wrap it in bool(...) if "
                "its truth value is meant)"
            )
        return math.inf if said else -math.inf

    def _shut(self, prompt: Prompt) -> float:
        """Return the total of a shut gate."""
        if self.otherwise != "lowest":
            return float(self.otherwise)
        low, high = self.reward.bounds(prompt)
        if math.isfinite(low):
            return low
        if high < math.inf:  # 0 may be the best score there is
            raise RewardError(
                f"{self.name!r} cannot pay the lowest score: {self.reward.name!r} has the bounds "
                f"[{low:g}, {high:g}] for the prompt {prompt.id!r}; pass otherwise=NUMBER to Gate"
            )
        return 0.0


def _finite(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        also = ' or "lowest"' if name == "otherwise" else ""
        raise ConfigError(f"{name} of a gate must be a finite number{also}, got {value!r}")
    return float(value)
