"""Rewards: what scores a completion."""

from collections.abc import Callable
from functools import partial
from typing import Any

from textenvs.rewards.base import (
    BaseReward,
    FunctionReward,
    Reward,
    RewardResult,
    Term,
    WeightedSum,
    reward,
)
from textenvs.rewards.base import resolve_reward as _resolve
from textenvs.rewards.context_match import ContextMatch

REWARDS: dict[str, Callable[[], Reward]] = {
    "context-match": ContextMatch,
    "context-match-f1": partial(ContextMatch, scoring="f1"),
    "context-match-first": partial(ContextMatch, scoring="first"),
}
"""Rewards by name, each with its defaults."""


def resolve_reward(spec: Any) -> Reward:
    """Return a reward for a name of `REWARDS`, `"module:object"`, a function, or a reward."""
    return _resolve(spec, REWARDS)


__all__ = [
    "REWARDS",
    "BaseReward",
    "ContextMatch",
    "FunctionReward",
    "Reward",
    "RewardResult",
    "Term",
    "WeightedSum",
    "resolve_reward",
    "reward",
]
