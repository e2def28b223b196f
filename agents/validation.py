"""Checks that the settings of the learners share: the value, the rule, the default."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from textenvs.errors import ConfigError, UnknownNameError


def require(config: Any, name: str, rule: str, holds: Callable[[Any], bool]) -> None:
    """Refuse a field that breaks a rule; None, where a field may be None, passes.

    Args:
        config: A dataclass with the field.
        name: The field.
        rule: What it must be, as the message says it.
        holds: Whether a finite number keeps the rule.

    Raises:
        ConfigError: with the value, the rule and the default.
    """
    value = getattr(config, name)
    if value is None:
        return
    try:
        fine = not isinstance(value, bool) and math.isfinite(value) and holds(value)
    except TypeError:
        fine = False
    if not fine:
        field = next(f for f in dataclasses.fields(config) if f.name == name)
        raise ConfigError(f"{name} must be {rule}, got {value!r}; the default is {field.default}")


def positive(config: Any, *names: str) -> None:
    """Refuse fields that are not above 0."""
    for name in names:
        require(config, name, "above 0", lambda value: value > 0)


def not_negative(config: Any, *names: str) -> None:
    """Refuse fields below 0."""
    for name in names:
        require(config, name, "at least 0", lambda value: value >= 0)


def share(config: Any, *names: str) -> None:
    """Refuse fields outside [0, 1]."""
    for name in names:
        require(config, name, "between 0 and 1", lambda value: 0 <= value <= 1)


def count(config: Any, *names: str) -> None:
    """Refuse fields that are no whole number of at least 1."""
    for name in names:
        require(
            config, name, "a whole number of at least 1", lambda v: isinstance(v, int) and v >= 1
        )


def choice(config: Any, name: str, choices: Sequence[str]) -> None:
    """Refuse a field that names none of the choices.

    Raises:
        UnknownNameError: with what was probably meant.
    """
    value = getattr(config, name)
    if value not in choices:
        raise UnknownNameError(name, str(value), choices)
