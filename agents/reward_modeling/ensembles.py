"""Ensembles: the same rankings learned from several seeds."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from agents.preferences.rankings import Ranking
from agents.reward_modeling.training import TrainedRewardModel, train_reward_model
from textenvs.errors import ConfigError


def train_ensemble(
    rankings: Sequence[Ranking],
    folder: str | Path,
    *,
    members: int,
    seed: int = 0,
    **options: Any,
) -> list[TrainedRewardModel]:
    """Train reward models that differ in their seed: in the head and the order of the data.

    `textenvs.rewards.Ensemble([member.reward for member in ...])` unites them; each is
    normalised by itself, so that they are on one scale.

    Args:
        rankings: At least one.
        folder: Member s is written to `seed-s` in it.
        members: How many, at least 1.
        seed: Of the first; the others follow.
        options: As for `train_reward_model`.

    Raises:
        ConfigError: if there is no member.
    """
    if members < 1:
        raise ConfigError(f"an ensemble has at least 1 member, got {members}")
    return [
        train_reward_model(
            rankings, Path(folder) / f"seed-{own}", seed=own, name=f"rm_{own}", **options
        )
        for own in range(seed, seed + members)
    ]
