"""Rewards from plain functions, names and `"module:object"` texts."""

import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from textenvs.errors import ConfigError, RewardError, UnknownNameError
from textenvs.rewards.base import BaseReward, Reward
from textenvs.rewards.results import RewardResult
from textenvs.types import Episode, Prompt

ROUNDING = 1e-9
"""A score may leave its declared bounds by this, relative to them."""


class FunctionReward(BaseReward):
    """A plain function as a reward; see `reward`."""

    def __init__(
        self,
        function: Callable[..., Any],
        name: str | None = None,
        *,
        bounds: tuple[float, float] | None = None,
        per_token: bool = False,
    ) -> None:
        """Wrap `function(prompt, completion)` or `function(episodes)`.

        Args:
            function: What scores.
            name: Of the reward and its term; None takes the function's.
            bounds: The least and the greatest score there can be; None declares none.
            per_token: Whether the function takes `(episodes)` and returns for each a number
                a token, which adds up to its score.

        Raises:
            ConfigError: if the function takes neither one nor two positional arguments, or
                the bounds are none.
        """
        self.function = function
        self.name = name or str(getattr(function, "__name__", type(function).__name__))
        self.__doc__ = function.__doc__
        self.batched = not takes(function, 2)
        self.per_token = per_token
        self.limits = checked_bounds(self.name, bounds)
        if self.batched and not takes(function, 1):
            raise ConfigError(
                f"the reward function {self.name!r} must take (prompt, completion) and return "
                "a number, or (episodes) and return one number each"
            )
        if per_token and not self.batched:
            raise ConfigError(
                f"the reward function {self.name!r} must take (episodes): the tokens that "
                "per_token=True scores are in Episode.completion_ids"
            )

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch.

        Raises:
            RewardError: if the function returns something else than numbers, or a number
                outside the declared bounds.
        """
        if self.batched:
            scores = self.function(episodes)
        else:
            scores = [self.function(episode.prompt, episode.completion) for episode in episodes]
        if isinstance(scores, RewardResult):
            result = scores
        elif self.per_token:
            result = self._from_tokens(scores)
        else:
            result = self._from_scores(scores)
        self._check_bounds(result, episodes)
        return result

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return the declared bounds; infinite where there are none."""
        return self.limits or (-math.inf, math.inf)

    def _from_scores(self, scores: Any) -> RewardResult:
        try:
            return RewardResult.from_scores(self.name, scores)
        except (TypeError, ValueError) as error:
            raise RewardError(
                f"the reward {self.name!r} returned {scores!r:.200}; it must return one number "
                "an episode, None where it cannot score"
            ) from error

    def _from_tokens(self, shares: Any) -> RewardResult:
        try:
            rows = [None if row is None else np.array(row, np.float64) for row in shares]
            if any(row is not None and row.ndim != 1 for row in rows):
                raise ValueError("not one number a token")
        except (TypeError, ValueError) as error:
            raise RewardError(
                f"the reward {self.name!r} returned {shares!r:.200}; with per_token=True it must "
                "return one sequence of numbers an episode, None where it cannot score"
            ) from error
        totals = [None if row is None else float(row.sum()) for row in rows]
        result = RewardResult.from_scores(self.name, totals)
        spread = [np.zeros(0) if row is None else row for row in rows]
        return RewardResult(result.scores, result.terms, spread)

    def _check_bounds(self, result: RewardResult, episodes: Sequence[Episode]) -> None:
        if self.limits is None:
            return
        low, high = self.limits
        slack = ROUNDING * max([1.0, *(abs(end) for end in self.limits if math.isfinite(end))])
        for episode, score in zip(episodes, result.scores.tolist(), strict=False):
            if score < low - slack or score > high + slack:
                raise RewardError(
                    f"the reward {self.name!r} scored the completion {episode.completion!r:.80} "
                    f"of the prompt {episode.prompt.id!r} {score!r}, but declares the bounds "
                    f"[{low:g}, {high:g}]; mend the function, or declare wider bounds"
                )


def reward(
    function: Callable[..., Any] | None = None,
    *,
    name: str | None = None,
    bounds: tuple[float, float] | None = None,
    per_token: bool = False,
) -> Any:
    """Make a function a reward: `@reward`, or `@reward(name="...", bounds=(0, 1))`.

    The function takes `(prompt, completion)` and returns a number, or takes
    `(episodes)` and returns a sequence of numbers. None or NaN means "not scored".
    Options: see `FunctionReward`.
    """
    if function is None:
        return lambda f: FunctionReward(f, name, bounds=bounds, per_token=per_token)
    return FunctionReward(function, name, bounds=bounds, per_token=per_token)


def as_base_reward(spec: Any) -> BaseReward:
    """Return a reward that can be combined, for itself or for a function.

    Raises:
        ConfigError: if it is neither.
    """
    if isinstance(spec, BaseReward):
        return spec
    if callable(spec) and not isinstance(spec, (type, Reward)):
        return FunctionReward(spec)
    raise ConfigError(
        f"{spec!r:.80} cannot be combined with other rewards; pass a function, or an object of "
        "a class that inherits from textenvs.rewards.BaseReward"
    )


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


def takes(function: Callable[..., Any], arguments: int) -> bool:
    """Return whether a function can be called with this many positional arguments."""
    try:
        inspect.signature(function).bind(*[None] * arguments)
    except (TypeError, ValueError):  # ValueError: a builtin that does not tell
        return False
    return True


def checked_bounds(name: str, bounds: Any) -> tuple[float, float] | None:
    """Return declared bounds as floats, None for none.

    Raises:
        ConfigError: if they are no pair of numbers, the lower one first.
    """
    if bounds is None:
        return None
    try:
        low, high = (float(end) for end in bounds)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"the bounds of {name!r} must be a pair of numbers (low, high), got {bounds!r}"
        ) from error
    if not low <= high or low == math.inf or high == -math.inf:
        raise ConfigError(
            f"the bounds of {name!r} must be (low, high) with low at most high, got {bounds!r}"
        )
    return (low, high)
