"""Checks of the options that several rewards have in common."""

import math
from typing import Any, TypeGuard

from textenvs.errors import ConfigError


def checked_count(name: str, value: int, default: int) -> int:
    """Return an option that counts something.

    Raises:
        ConfigError: if it is below 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be at least 1, got {value!r}; the default is {default}")
    return value


def is_finite(value: Any) -> TypeGuard[float]:
    """Return whether an option is a number, and neither NaN nor infinite."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)
