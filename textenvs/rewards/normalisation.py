"""`RunningNormalised`: a reward brought to mean 0 and standard deviation 1 as it comes in."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textenvs.errors import ConfigError
from textenvs.rewards.base import BaseReward, checked_result, label
from textenvs.rewards.functions import as_base_reward
from textenvs.rewards.results import RewardResult
from textenvs.types import Episode, Prompt

LEAST_STD = 1e-8
"""Below this a spread is rounding, and dividing by it would only magnify that."""


@dataclass
class RunningMoments:
    """Mean and variance of a stream of numbers, in one pass.

    Attributes:
        count: Numbers seen.
        mean: Of them.
        squares: Sum of their squared distances from the mean.
    """

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    @property
    def std(self) -> float:
        """The standard deviation of what was seen; 1 where it has none to speak of."""
        std = math.sqrt(self.squares / self.count) if self.count else 0.0
        return std if std > LEAST_STD * max(1.0, abs(self.mean)) else 1.0

    def update(self, values: np.ndarray) -> None:
        """Take in a batch (Chan, Golub and LeVeque, 1979, eq. 2.1).

        Args:
            values: float64 [N], finite; none is no change.
        """
        if not len(values):
            return
        mean = float(np.mean(values))
        squares = float(np.sum((values - mean) ** 2))
        total, apart = self.count + len(values), mean - self.mean
        self.squares += squares + apart**2 * self.count * len(values) / total
        self.mean += apart * len(values) / total
        self.count = total


class RunningNormalised(BaseReward):
    """A reward minus its running mean, over its running standard deviation.

    Mean and deviation are those of every total scored so far, the batch at hand included;
    unscored episodes do not count. The terms keep their raw scores, with weights divided by
    the deviation, and a term of the reward's own name holds what the mean (and the clip)
    took away, so that they still add up.

    **The score of an answer depends on what was scored before it**, so that the same answer
    gets another score tomorrow, and a batch of one never says anything of itself. While it
    is `updating`, everything that scores takes part: training, but also an evaluation or a
    check that shares this object. Give those `frozen()`, whose scores depend on the answer
    alone. `state_dict` holds the moments; an environment saves them with its own state.
    """

    def __init__(
        self,
        reward: Any,
        *,
        centre: bool = True,
        clip: float | None = None,
        updating: bool = True,
        name: str | None = None,
    ) -> None:
        """Choose what is normalised and how.

        Args:
            reward: A reward or a function.
            centre: Whether the mean is subtracted; without, only the scale changes.
            clip: Bound on the absolute normalised score; None does not clip.
            updating: Whether scoring takes part in mean and deviation.
            name: Of the reward and its term; by default "normalised(...)" of the reward's.

        Raises:
            ConfigError: if the clip is not above 0.
        """
        self.reward = as_base_reward(reward)
        self.name = name or f"normalised({label(self.reward)})"
        if clip is not None and (isinstance(clip, bool) or not 0 < clip < math.inf):
            raise ConfigError(f"clip of {self.name!r} must be a number above 0, got {clip!r}")
        self.centre, self.limit, self.updating = centre, clip, updating
        self._moments = RunningMoments()

    @property
    def moments(self) -> RunningMoments:
        """A copy of the moments as they are."""
        return copy.copy(self._moments)

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch; take it into the moments first, if `updating`."""
        result = checked_result(self.reward, episodes)
        if self.updating:
            self._moments.update(result.scores[~np.isnan(result.scores)])
        scaled = result.scaled(1.0 / self._moments.std)
        return scaled.adjusted(self.name, self._normalised(result.scores))

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return the bounds: the clip's, or, once frozen, those of the reward moved along."""
        if self.updating:
            limit = math.inf if self.limit is None else self.limit
            return (-limit, limit)
        low, high = self._normalised(np.array(self.reward.bounds(prompt))).tolist()
        return (low, high)

    def frozen(self) -> "RunningNormalised":
        """Return one with the moments as they are now, which scoring no longer changes."""
        other = RunningNormalised(
            self.reward, centre=self.centre, clip=self.limit, updating=False, name=self.name
        )
        other._moments = self.moments
        return other

    @property
    def inner(self) -> tuple[BaseReward, ...]:
        """The reward that is normalised."""
        return (self.reward,)

    def term_weights(self) -> dict[str, float]:
        """Return the reward's terms with the weights of this moment, and the mean's."""
        std = self._moments.std
        weights = {name: own / std for name, own in self.reward.term_weights().items()}
        return {**weights, self.name: 1.0}

    def state_dict(self) -> dict[str, Any]:
        """Return the moments, JSON-able, and the state of the reward within."""
        return {**super().state_dict(), "moments": vars(self._moments).copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ConfigError: if it is the state of another kind of reward.
        """
        if "moments" not in state:
            raise ConfigError(
                f"the saved state holds no moments for {self.name!r}; it is of another reward"
            )
        super().load_state_dict(state)
        self._moments = RunningMoments(**state["moments"])

    def _normalised(self, scores: np.ndarray) -> np.ndarray:
        """Return (scores - mean) / std, clipped; float64 of the same shape."""
        mean = self._moments.mean if self.centre else 0.0
        limit = math.inf if self.limit is None else self.limit
        return np.clip((scores - mean) / self._moments.std, -limit, limit)
