"""Checks of options that environments and rewards have in common."""

from typing import Any

from textenvs.errors import ConfigError


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
