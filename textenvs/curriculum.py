"""Curricula: which prompts may be drawn, as training goes on."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textenvs.errors import ConfigError

Schedule = Callable[[int], "float | Sequence[int] | np.ndarray"]
"""From the number of episodes a row has begun to the prompts it may draw next: a share in
(0, 1] of the source, whose prompts then stand from easy to hard, or prompt indices."""


@dataclass(frozen=True)
class GrowingShare:
    """The first share of the prompts, growing evenly from `start` to `end`.

    Attributes:
        start: Share at first, above 0.
        end: Share at last, at most 1.
        episodes: Episodes of one row from `start` to `end`, at least 1.
    """

    start: float = 0.1
    end: float = 1.0
    episodes: int = 1000

    def __post_init__(self) -> None:
        """Refuse shares out of range."""
        if not 0 < self.start <= self.end <= 1 or self.episodes < 1:
            raise ConfigError(
                "a growing share needs 0 < start <= end <= 1 and episodes of at least 1, got "
                f"{self.start}, {self.end} and {self.episodes}"
            )

    def __call__(self, episode: int) -> float:
        """Return the share after so many episodes."""
        return self.start + (self.end - self.start) * min(1.0, episode / self.episodes)


def as_schedule(curriculum: Any) -> Schedule | None:
    """Return the schedule for a function, `"module:function"`, or None.

    A class is made with its defaults.

    Raises:
        ConfigError: if it cannot be imported or called.
    """
    if isinstance(curriculum, str):
        module, _, attribute = curriculum.partition(":")
        try:
            curriculum = getattr(importlib.import_module(module), attribute)
        except (ImportError, AttributeError, ValueError) as error:
            raise ConfigError(
                f'the curriculum {module}:{attribute} cannot be imported: {error}; give "module:'
                'function", or a function'
            ) from error
    if isinstance(curriculum, type):
        curriculum = curriculum()
    if curriculum is not None and not callable(curriculum):
        raise ConfigError(
            f"curriculum must be a function from the number of episodes begun to a share of the "
            f"prompts or to prompt indices, got {curriculum!r}"
        )
    return curriculum


def draw_index(
    schedule: Schedule | None, size: int, episode: int, generator: np.random.Generator
) -> int:
    """Return the index of the next prompt, uniform among those the schedule allows.

    Args:
        schedule: None allows all.
        size: Number of prompts.
        episode: Episodes this row has begun before.
        generator: Where chance comes from; drawn from once.

    Raises:
        ConfigError: if the schedule allows nothing, or an index that does not exist.
    """
    if schedule is None:
        return int(generator.integers(size))
    allowed = schedule(episode)
    if isinstance(allowed, (float, int)):
        if not 0 < allowed <= 1:
            raise ConfigError(
                f"the curriculum returned the share {allowed} for episode {episode}; a share of "
                "the prompts is above 0 and at most 1"
            )
        return int(generator.integers(max(1, round(allowed * size))))
    if len(allowed) == 0:
        raise ConfigError(f"the curriculum allows no prompt for episode {episode}")
    index = int(allowed[int(generator.integers(len(allowed)))])
    if not 0 <= index < size:
        raise ConfigError(
            f"the curriculum returned the prompt index {index} for episode {episode}; indices are "
            f"0 to {size - 1}"
        )
    return index
