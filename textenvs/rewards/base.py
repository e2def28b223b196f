"""What a reward is, and how rewards are weighted and added up.

A reward scores finished episodes in one batch. Every number it produces is kept by
name, raw and weighted, so that a log never shows a sum nobody can take apart; an
episode it could not score is marked as such, which is never the same as a score of 0.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import reduce
from numbers import Real
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np

from textenvs.errors import ConfigError
from textenvs.rewards.results import (
    GATED,
    SCORED,
    UNSCORED,
    RewardResult,
    Term,
    merged_terms,
    validated,
)
from textenvs.types import Episode, Prompt

if TYPE_CHECKING:
    from textenvs.rewards.clip import Clip

__all__ = [
    "GATED",
    "SCORED",
    "UNSCORED",
    "BaseReward",
    "Reward",
    "RewardResult",
    "Term",
    "WeightedSum",
    "checked_result",
]


@runtime_checkable
class Reward(Protocol):
    """What the environment calls: anything with a name that scores episodes."""

    name: str

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""


def checked_result(reward: Reward, episodes: Sequence[Episode]) -> RewardResult:
    """Score a batch and refuse a result that would poison training unseen.

    Raises:
        RewardError: if the result is no `RewardResult`, of the wrong length or infinite, or
            its terms or tokens do not add up to the totals.
    """
    return validated(reward(episodes), reward.name, episodes)


class BaseReward(ABC):
    """A reward that can be weighted and added: `0.7 * ContextMatch() + 0.3 * other`."""

    name: str = "reward"
    __array_ufunc__ = None  # so that a numpy number on the left leaves `*` to this class

    @abstractmethod
    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return the least and the greatest score an answer to this prompt can get."""
        return (-math.inf, math.inf)

    @property
    def inner(self) -> tuple["BaseReward", ...]:
        """The rewards this one is made of; () for one that stands alone."""
        return ()

    def term_weights(self) -> dict[str, float]:
        """Return the weight of each term of a result, by name, in order.

        A reward with several terms says so here, so that a clash of names is found when
        rewards are combined, and not when they score.
        """
        return {self.name: 1.0}

    def state_dict(self) -> dict[str, Any]:
        """Return what scoring has changed, JSON-able; {} where nothing is kept."""
        states = {reward.name: state for reward in self.inner if (state := reward.state_dict())}
        return {"inner": states} if states else {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        states = state.get("inner", {})
        for reward in self.inner:
            if reward.name in states:
                reward.load_state_dict(states[reward.name])

    def describe(self) -> dict[str, Any]:
        """Return the type, the name and the public options, JSON-able, for a run's records.

        Rewards within are described in turn; functions are named; of an object that JSON
        cannot hold, its class is.
        """
        options = {key: value for key, value in vars(self).items() if not key.startswith("_")}
        return {"type": type(self).__name__, "name": self.name, **_plain(options)}

    def clip(self, low: float | None = None, high: float | None = None) -> "Clip":
        """Return this reward with its total held between two bounds; see `Clip`."""
        from textenvs.rewards.clip import Clip  # it is a BaseReward itself

        return Clip(self, low, high)

    def __mul__(self, weight: float) -> "WeightedSum":
        """Return this reward with a weight."""
        factor = _weight(weight)
        return WeightedSum([(reward, factor * own) for reward, own in _parts(self)])

    __rmul__ = __mul__

    def __truediv__(self, divisor: float) -> "WeightedSum":
        """Return this reward with the weight 1 / divisor."""
        if not divisor:
            raise ConfigError(f"a reward cannot be divided by {divisor!r}")
        return self * (1.0 / divisor)

    def __neg__(self) -> "WeightedSum":
        """Return the penalty: this reward with weight -1."""
        return self * -1.0

    def __add__(self, other: "BaseReward") -> "WeightedSum":
        """Return the sum of two rewards."""
        if not isinstance(other, BaseReward):
            return NotImplemented
        return WeightedSum((*_parts(self), *_parts(other)))

    def __sub__(self, other: "BaseReward") -> "WeightedSum":
        """Return the difference of two rewards."""
        if not isinstance(other, BaseReward):
            return NotImplemented
        return self + -other


class WeightedSum(BaseReward):
    """Rewards added up, each with a weight; every term keeps its name.

    An episode that a part could not score has no total, unless the part's weight is 0:
    such a part is a measure that is logged and takes no part in the total.

    Where a part says how its score spreads over the tokens, so does the sum; the other
    parts are paid with the last token.
    """

    def __init__(self, parts: Sequence[tuple[BaseReward, float]]) -> None:
        """Keep (reward, weight) pairs; a sum among them is taken apart.

        Raises:
            ConfigError: if there is none, or two rewards or terms have the same name.
        """
        flat = [(inner, w * own) for reward, w in parts for inner, own in _parts(reward)]
        if not flat:
            raise ConfigError("a sum needs at least one reward")
        _refuse_twins("rewards", [reward.name for reward, _ in flat])
        _refuse_twins("terms", [name for reward, _ in flat for name in reward.term_weights()])
        self.parts = tuple(flat)
        self.name = " + ".join(f"{weight:g}*{reward.name}" for reward, weight in self.parts)

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch with every part."""
        results = [checked_result(reward, episodes).scaled(weight) for reward, weight in self.parts]
        # Added in the order of `bounds`: rounding is monotone, so the bounds hold exactly.
        scores = reduce(np.add, [result.scores for result in results])
        per_token = None
        if any(result.per_token is not None for result in results):
            spreads = [result.spread(episodes) for result in results]
            per_token = [np.sum(rows, axis=0) for rows in zip(*spreads, strict=True)]
        terms = merged_terms(self.name, [result.terms for result in results])
        return RewardResult(scores, terms, per_token)

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return the bounds of the sum."""
        low = high = 0.0
        for reward, weight in self.parts:
            if weight:
                ends = sorted(weight * bound for bound in reward.bounds(prompt))
                low, high = low + ends[0], high + ends[1]
        return (low, high)

    @property
    def inner(self) -> tuple[BaseReward, ...]:
        """The rewards added up."""
        return tuple(reward for reward, _ in self.parts)

    def term_weights(self) -> dict[str, float]:
        """Return the weight of each term in the sum."""
        return {
            name: weight * own
            for reward, weight in self.parts
            for name, own in reward.term_weights().items()
        }


def label(reward: BaseReward) -> str:
    """Return a name without weights, for what is named after a reward: it stays in a sweep."""
    return "+".join(part.name for part, _ in _parts(reward))


def _parts(reward: BaseReward) -> tuple[tuple[BaseReward, float], ...]:
    return reward.parts if isinstance(reward, WeightedSum) else ((reward, 1.0),)


def _refuse_twins(what: str, names: Sequence[str]) -> None:
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(
                f"two {what} of the sum are called {name!r}; give one another name "
                "(its `name` attribute), so that the log can tell them apart"
            )


def _weight(weight: Any) -> float:
    if isinstance(weight, BaseReward):
        raise ConfigError(
            "two rewards cannot be multiplied: whose share of a product is whose, no log could "
            "say. To score one only where another allows it, use Gate(condition, reward)"
        )
    if isinstance(weight, bool) or not isinstance(weight, Real) or not math.isfinite(weight):
        raise ConfigError(f"a reward's weight must be a finite number, got {weight!r}")
    return float(weight)


def _plain(value: Any) -> Any:
    """Return a value as JSON holds it, or a name for it."""
    if isinstance(value, BaseReward):
        return value.describe()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    named = value if callable(value) and not isinstance(value, type) else type(value)
    return f"{named.__module__}:{getattr(named, '__qualname__', type(named).__name__)}"
