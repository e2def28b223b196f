"""What a reward is, what it returns, and how rewards are added up.

A reward scores finished episodes in one batch. Every number it produces is kept by
name, raw and weighted, so that a log never shows a sum nobody can take apart; an
episode it could not score is marked as such, which is never the same as a score of 0.
"""

import importlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np

from textenvs.errors import ConfigError, RewardError, UnknownNameError
from textenvs.types import Episode, Prompt

SCORED, UNSCORED = "scored", "unscored"


@dataclass(frozen=True, slots=True)
class Term:
    """One named part of a reward.

    Attributes:
        score: float64 [B], raw; NaN where not scored.
        weight: What the raw score is multiplied by in the total.
        status: [B] of "scored" or "unscored".
    """

    score: np.ndarray
    weight: float
    status: tuple[str, ...]

    @property
    def weighted(self) -> np.ndarray:
        """float64 [B], the term's share of the total."""
        return self.weight * self.score


@dataclass(frozen=True, slots=True)
class RewardResult:
    """Scores of a batch of episodes.

    Attributes:
        scores: float64 [B], the totals; NaN where any term was not scored.
        terms: Every term by name; the weighted scores add up to `scores`.
        per_token: Where a reward can say so, how each total spreads over the tokens:
            one float64 [T_i] an episode. None pays the total with the last token.
    """

    scores: np.ndarray
    terms: Mapping[str, Term] = field(default_factory=dict)
    per_token: list[np.ndarray] | None = None

    @classmethod
    def from_scores(cls, name: str, scores: Sequence[float | None] | np.ndarray) -> "RewardResult":
        """Return the result of a reward with one term; None and NaN mean "not scored"."""
        raw = np.array([math.nan if s is None else float(s) for s in scores], np.float64)
        status = tuple(UNSCORED if math.isnan(s) else SCORED for s in raw)
        return cls(raw.copy(), {name: Term(raw, 1.0, status)})

    def scaled(self, factor: float) -> "RewardResult":
        """Return the result with every weight multiplied."""
        terms = {
            name: Term(term.score, factor * term.weight, term.status)
            for name, term in self.terms.items()
        }
        per_token = None if self.per_token is None else [factor * row for row in self.per_token]
        return RewardResult(factor * self.scores, terms, per_token)


@runtime_checkable
class Reward(Protocol):
    """What the environment calls: anything with a name that scores episodes."""

    name: str

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""


class BaseReward(ABC):
    """A reward that can be weighted and added: `0.7 * ContextMatch() + 0.3 * other`."""

    name: str = "reward"

    @abstractmethod
    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return the least and the greatest score an answer to this prompt can get."""
        return (-math.inf, math.inf)

    def __mul__(self, weight: float) -> "WeightedSum":
        """Return this reward with a weight."""
        return WeightedSum(((self, _weight(weight)),))

    __rmul__ = __mul__

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
    """Rewards added up, each with a weight; every term keeps its name."""

    def __init__(self, parts: Sequence[tuple[BaseReward, float]]) -> None:
        """Keep (reward, weight) pairs.

        Raises:
            ConfigError: if two of the rewards have the same name.
        """
        names = [reward.name for reward, _ in parts]
        for name in names:
            if names.count(name) > 1:
                raise ConfigError(
                    f"two rewards of the sum are called {name!r}; give one another name "
                    "(its `name` attribute), so that the log can tell them apart"
                )
        self.parts = tuple(parts)
        self.name = " + ".join(f"{weight:g}*{reward.name}" for reward, weight in self.parts)

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch with every part."""
        results = [reward(episodes).scaled(weight) for reward, weight in self.parts]
        terms = {name: term for result in results for name, term in result.terms.items()}
        return RewardResult(np.sum([result.scores for result in results], axis=0), terms)

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return the bounds of the sum."""
        spans = [
            sorted(weight * bound for bound in reward.bounds(prompt))
            for reward, weight in self.parts
            if weight
        ]
        return (sum(low for low, _ in spans), sum(high for _, high in spans))


class FunctionReward(BaseReward):
    """A plain function as a reward; see `reward`."""

    def __init__(self, function: Callable[..., Any], name: str | None = None) -> None:
        """Wrap `function(prompt, completion)` or `function(episodes)`.

        Raises:
            ConfigError: if the function takes neither one nor two positional arguments.
        """
        self.function = function
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        self.__doc__ = function.__doc__
        self.batched = not _takes(function, 2)
        if self.batched and not _takes(function, 1):
            raise ConfigError(
                f"the reward function {self.name!r} must take (prompt, completion) and return "
                "a number, or (episodes) and return one number each"
            )

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        if self.batched:
            scores = self.function(episodes)
            if isinstance(scores, RewardResult):
                return scores
        else:
            scores = [self.function(episode.prompt, episode.completion) for episode in episodes]
        try:
            return RewardResult.from_scores(self.name, scores)
        except (TypeError, ValueError) as error:
            raise RewardError(
                f"the reward {self.name!r} returned {scores!r:.200}; it must return one number "
                "an episode, None where it cannot score"
            ) from error


def reward(function: Callable[..., Any] | None = None, *, name: str | None = None) -> Any:
    """Make a function a reward; used as `@reward` or `@reward(name="...")`.

    The function takes `(prompt, completion)` and returns a number, or takes
    `(episodes)` and returns a sequence of numbers. None or NaN means "not scored".
    """
    if function is None:
        return lambda f: FunctionReward(f, name)
    return FunctionReward(function, name)


def resolve_reward(spec: Any, registry: Mapping[str, Callable[[], Reward]]) -> Reward:
    """Return a reward for a name, `"module:object"`, a function, or a reward.

    Raises:
        UnknownNameError: if the name is not registered.
        ConfigError: if a `"module:object"` cannot be imported, or it is no reward.
    """
    if isinstance(spec, str):
        if spec in registry:
            return registry[spec]()
        if ":" not in spec:
            raise UnknownNameError("reward", spec, registry, 'Or give "module:object".')
        module, _, attribute = spec.partition(":")
        try:
            spec = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError) as error:
            raise ConfigError(
                f"the reward {module}:{attribute} cannot be imported: {error}"
            ) from error
    if isinstance(spec, type):
        spec = spec()
    if isinstance(spec, Reward) and not inspect.isfunction(spec):
        return spec
    if callable(spec):
        return FunctionReward(spec)
    raise ConfigError(
        f"{spec!r} is no reward; pass a name, a function of (prompt, completion), or an object "
        "with a name that scores episodes"
    )


def checked_result(reward: Reward, episodes: Sequence[Episode]) -> RewardResult:
    """Score a batch and refuse a result that would poison training unseen.

    Raises:
        RewardError: if the result is no `RewardResult`, of the wrong length, or infinite.
    """
    result = reward(episodes)
    if not isinstance(result, RewardResult):
        raise RewardError(
            f"the reward {reward.name!r} returned {type(result).__name__}, not a RewardResult; "
            "wrap a plain function with @textenvs.rewards.reward"
        )
    scores = np.asarray(result.scores, np.float64)
    if scores.shape != (len(episodes),):
        raise RewardError(
            f"the reward {reward.name!r} returned scores of shape {scores.shape} for "
            f"{len(episodes)} episodes; it must return one score each"
        )
    if np.isinf(scores).any():
        where = episodes[int(np.flatnonzero(np.isinf(scores))[0])].prompt.id
        raise RewardError(f"the reward {reward.name!r} returned infinity for the prompt {where!r}")
    return result


def _takes(function: Callable[..., Any], arguments: int) -> bool:
    """Return whether a function can be called with this many positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * arguments)
    except (TypeError, ValueError):  # ValueError: a builtin that does not tell
        return False
    return True


def _parts(reward: BaseReward) -> tuple[tuple[BaseReward, float], ...]:
    return reward.parts if isinstance(reward, WeightedSum) else ((reward, 1.0),)


def _weight(weight: float) -> float:
    if (
        isinstance(weight, bool)
        or not isinstance(weight, (int, float))
        or not math.isfinite(weight)
    ):
        raise ConfigError(f"a reward's weight must be a finite number, got {weight!r}")
    return float(weight)
