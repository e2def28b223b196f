"""A reward with a stopwatch: what scoring costs, apart from sampling."""

import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from textenvs.rewards.base import BaseReward, Reward, RewardResult
from textenvs.types import Episode, Prompt


class TimedReward(BaseReward):
    """A reward that counts the seconds spent in it; its scores are those of the reward within.

    Attributes:
        seconds: Since it was made.
    """

    def __init__(self, reward: Reward) -> None:
        """Wrap a reward."""
        self.reward, self.name, self.seconds = reward, reward.name, 0.0

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        began = time.perf_counter()
        try:
            return self.reward(episodes)
        finally:
            self.seconds += time.perf_counter() - began

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return the bounds of the reward within; infinite where it declares none."""
        if isinstance(self.reward, BaseReward):
            return self.reward.bounds(prompt)
        return (-math.inf, math.inf)

    @property
    def inner(self) -> tuple[BaseReward, ...]:
        """The reward within, if it can be part of another."""
        return (self.reward,) if isinstance(self.reward, BaseReward) else ()

    def term_weights(self) -> dict[str, float]:
        """Return those of the reward within."""
        if isinstance(self.reward, BaseReward):
            return self.reward.term_weights()
        return {self.name: 1.0}

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """Undo, when the context ends, what scoring has changed in the reward.

        A reward that learns from what it scores must not learn from an evaluation, or how
        often one looks would change what is trained.
        """
        state = self.state_dict()
        try:
            yield
        finally:
            self.load_state_dict(state)
