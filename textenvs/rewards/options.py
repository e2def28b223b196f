"""Checks of the options that several rewards have in common."""

import math
from typing import Any, TypeGuard

from textenvs.options import checked_integer


def checked_count(name: str, value: int, default: int) -> int:
    """Return an option that counts something.

    Raises:
        ConfigError: if it is below 1.
    """
    return checked_integer(name, value, 1, default)


def is_finite(value: Any) -> TypeGuard[float]:
    """Return whether an option is a number, and neither NaN nor infinite."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value)
