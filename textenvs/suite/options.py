"""Checks of options that several families share."""

from collections.abc import Sequence
from typing import Any

from textenvs.errors import ConfigError, PromptError, UnknownNameError
from textenvs.prompts import SPLITS
from textenvs.types import Split


def checked_split(split: Any) -> Split:
    """Return the split.

    Raises:
        UnknownNameError: if there is no such split.
    """
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    return split


def checked_integer(
    name: str, value: Any, least: int, default: int, most: int | None = None
) -> int:
    """Return an integer option.

    Raises:
        ConfigError: if it is no integer, or outside [least, most].
    """
    is_integer = isinstance(value, int) and not isinstance(value, bool)
    if not is_integer or value < least or (most is not None and value > most):
        span = f"at least {least}" if most is None else f"between {least} and {most}"
        raise ConfigError(f"{name} must be {span}, got {value!r}; the default is {default}")
    return value


def first_prompts(choices: Sequence[Any], n_prompts: int | None, split: Split) -> Sequence[Any]:
    """Return the first `n_prompts` of what a split offers, all of it for None.

    Raises:
        PromptError: if the split offers fewer, or `n_prompts` is no count.
    """
    if n_prompts is None:
        return choices
    if isinstance(n_prompts, bool) or not isinstance(n_prompts, int) or n_prompts < 1:
        raise PromptError(f"n_prompts must be at least 1, got {n_prompts!r}")
    if n_prompts > len(choices):
        raise PromptError(
            f"n_prompts is {n_prompts}, but the {split} split has {len(choices)}; lower it, or "
            "pass None to use all of them"
        )
    return choices[:n_prompts]
