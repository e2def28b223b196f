"""A reward as a study file writes it down: a name, a sum, or stages."""

import importlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from textenvs.errors import ConfigError, UnknownNameError
from textenvs.rewards import (
    REWARDS,
    REWARDS_OF_MODELS,
    FunctionReward,
    Reward,
    Staged,
    WeightedSum,
    resolve_reward,
)
from textenvs.rewards.functions import as_base_reward
from textenvs.typed_tables import from_table


@dataclass(frozen=True)
class RewardSpec:
    """One of three: a reward by name, a weighted sum of rewards, rewards in stages.

    Attributes:
        reward: A name (`textenvs.rewards.REWARDS`), `reward-model:FOLDER`, `judge:MODEL`, or
            `module:object`, where the object is a function or a class.
        options: Keyword arguments of the named reward, class or function.
        terms: What is added up, each with its weight; terms may be sums or stages again.
        stages: See `textenvs.rewards.Staged`.
    """

    reward: str | None = None
    options: dict[str, Any] = field(default_factory=dict)
    terms: tuple["TermSpec", ...] = ()
    stages: tuple["StageSpec", ...] = ()

    def __post_init__(self) -> None:
        """Refuse two rewards in one, or none."""
        given = [name for name in ("reward", "terms", "stages") if getattr(self, name)]
        if len(given) != 1:
            said = " and ".join(given) or "none of them"
            raise ConfigError(
                f"a design is a reward, a list of terms or a list of stages, got {said}; say "
                "one of reward = ..., terms = [...], stages = [...]"
            )
        if self.options and not self.reward:
            raise ConfigError(
                f"options are of a reward by name, got {sorted(self.options)} beside "
                f"{given[0]}; write them into the term that they are of"
            )

    def written(self) -> dict[str, Any]:
        """Return it as a mapping of what JSON and TOML can hold; `make_reward` reads it."""
        if self.reward is not None:
            return {"reward": self.reward, "options": self.options}
        if self.terms:
            return {"terms": [{**term.written(), "weight": term.weight} for term in self.terms]}
        return {"stages": [stage.written_stage() for stage in self.stages]}

    def leaves(self) -> list[str]:
        """Return the names of the rewards within, in order."""
        if self.reward is not None:
            return [self.reward]
        parts: tuple[RewardSpec, ...] = (*self.terms, *self.stages)
        return [name for part in parts for name in part.leaves()]

    def make(self) -> Reward:
        """Return the reward.

        Raises:
            ConfigError: if it cannot be made.
            UnknownNameError: if a name or an option is unknown.
        """
        if self.reward is not None:
            return _named(self.reward, self.options)
        if self.terms:
            return WeightedSum([(as_base_reward(t.make()), t.weight) for t in self.terms])
        weights = [stage.weight for stage in self.stages if stage.weight is not None]
        if weights and len(weights) != len(self.stages):
            raise ConfigError("give every stage a weight, or none of them")
        stages = [(stage.make(), stage.threshold) for stage in self.stages]
        return Staged(stages, weights=weights or None)


@dataclass(frozen=True)
class TermSpec(RewardSpec):
    """A term of a sum.

    Attributes:
        weight: What its score is multiplied by; negative for a charge.
    """

    weight: float = 1.0


@dataclass(frozen=True)
class StageSpec(RewardSpec):
    """A stage.

    Attributes:
        threshold: The score that passes it; none, in the last stage, for the upper bound.
        weight: What passing it pays; all stages pay the same if none says.
    """

    threshold: float | None = None
    weight: float | None = None

    def written_stage(self) -> dict[str, Any]:
        """Return it as a mapping; what is none is left out, for TOML has no word for it."""
        own = {"threshold": self.threshold, "weight": self.weight}
        return {**self.written(), **{k: v for k, v in own.items() if v is not None}}


def make_reward(spec: Mapping[str, Any]) -> Reward:
    """Return the reward that a mapping describes, as `RewardSpec.written` gives it.

    Raises:
        ConfigError: if it cannot be made.
        UnknownNameError: if a name or an option is unknown.
    """
    return from_table(RewardSpec, spec, "the reward").make()


def _named(name: str, options: Mapping[str, Any]) -> Reward:
    if not options:
        return resolve_reward(name)
    maker = _maker(name)
    parameters = inspect.signature(maker).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        for option in options:
            if option not in parameters:
                raise UnknownNameError(f"option of the reward {name!r}", option, parameters)
    if inspect.isfunction(maker) and name not in REWARDS:
        return FunctionReward(partial(maker, **options), maker.__name__)
    try:
        inspect.signature(maker).bind(**options)
    except TypeError as error:
        raise ConfigError(f"the reward {name!r} with {dict(options)}: {error}") from error
    return resolve_reward(maker(**options))


def _maker(name: str) -> Callable[..., Any]:
    """Return what the options of a reward are the arguments of."""
    if name in REWARDS:
        return REWARDS[name]
    kind, _, rest = name.partition(":")
    if kind in REWARDS_OF_MODELS and rest:
        return partial(REWARDS_OF_MODELS[kind], rest)
    if not rest:
        resolve_reward(name)  # raises: it is no name
    try:
        found = getattr(importlib.import_module(kind), rest)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"the reward {name} cannot be imported: {error}") from error
    if not callable(found) or isinstance(found, Reward) and not isinstance(found, type):
        raise ConfigError(
            f"{name} is {type(found).__name__}, which takes no options; name a function or a class"
        )
    return found
