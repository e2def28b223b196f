"""`Clip`: a reward held between two bounds."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from textenvs.errors import ConfigError
from textenvs.rewards.base import BaseReward, checked_result, label
from textenvs.rewards.functions import as_base_reward, checked_bounds
from textenvs.rewards.results import RewardResult
from textenvs.types import Episode, Prompt


class Clip(BaseReward):
    """A reward whose total is held between `low` and `high`.

    What is clipped is the total, not the terms: they are kept, and a term of the clip's own
    name holds clipped minus unclipped, so that the terms still add up. That difference is
    paid with the last token.
    """

    def __init__(
        self,
        reward: Any,
        low: float | None = None,
        high: float | None = None,
        *,
        name: str | None = None,
    ) -> None:
        """Choose the bounds.

        Args:
            reward: A reward or a function.
            low: None leaves this side free.
            high: None leaves this side free.
            name: Of the reward and its term; by default "clip(...)" of the reward's name.

        Raises:
            ConfigError: if there is no bound, or `low` is above `high`.
        """
        self.reward = as_base_reward(reward)
        self.name = name or f"clip({label(self.reward)})"
        if low is None and high is None:
            raise ConfigError(f"{self.name} has neither a low nor a high bound; give one")
        ends = (-math.inf if low is None else low, math.inf if high is None else high)
        self.low, self.high = checked_bounds(self.name, ends) or ends

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        result = checked_result(self.reward, episodes)
        return result.adjusted(self.name, np.clip(result.scores, self.low, self.high))

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return the reward's bounds, clipped in turn."""
        low, high = np.clip(self.reward.bounds(prompt), self.low, self.high).tolist()
        return (low, high)

    @property
    def inner(self) -> tuple[BaseReward, ...]:
        """The reward that is clipped."""
        return (self.reward,)

    def term_weights(self) -> dict[str, float]:
        """Return the reward's terms and the clip's own."""
        return {**self.reward.term_weights(), self.name: 1.0}
