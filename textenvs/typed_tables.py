"""A TOML table, or any mapping, as a settings dataclass: every key and value checked."""

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from textenvs.errors import ConfigError, UnknownNameError

Settings = TypeVar("Settings")

NONE = "none"
"""No value, where a setting may have none; TOML has no word for it."""


def read_toml(path: Path, what: str = "config file") -> dict[str, Any]:
    """Return the table of a TOML file.

    Args:
        path: Of the file.
        what: The file is, for messages.

    Raises:
        ConfigError: if there is no such file, or it is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"the {what} {str(path)!r} cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML: {error}") from error


def from_table(kind: type[Settings], table: Mapping[str, Any], where: str) -> Settings:
    """Return a dataclass with the values of a table.

    Args:
        kind: The dataclass; its type hints say what each value must be.
        table: Name -> value; "-" in a name is read as "_".
        where: What the table is of, for messages.

    Raises:
        ConfigError: if a value is of a wrong type or out of range, or a needed one is missing.
        UnknownNameError: if a name is no setting.
    """
    values = table_values(kind, table, where)
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and field.name not in values:
            raise ConfigError(f"{where} must say {field.name}")
    return kind(**values)


def table_values(kind: Any, table: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the values of a table, checked against the type hints of a dataclass.

    Raises:
        ConfigError: if a value is of a wrong type.
        UnknownNameError: if a name is no setting.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    hints = typing.get_type_hints(kind)
    values = {}
    for key, value in table.items():
        name = key.replace("-", "_")
        if name not in fields:
            raise UnknownNameError(f"setting in {where}", key, fields)
        values[name] = _value(hints[name], value, f"{where}: {name}")
    return values


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} must be a table, got {value!r}")
        return from_table(typing.cast(type[Any], hint), value, where)
    union = typing.get_origin(hint) in (types.UnionType, typing.Union)
    choices = typing.get_args(hint) if union else (hint,)
    for choice in choices:
        if choice is type(None) and isinstance(value, str) and value.lower() == NONE:
            return None
        if choice is Path and isinstance(value, str):
            return Path(value)
        if choice is float and isinstance(value, int) and not isinstance(value, bool):
            return float(value)
        origin = typing.get_origin(choice)
        if origin is typing.Literal and value in typing.get_args(choice):
            return value
        if origin is tuple and isinstance(value, list):
            return _items(choice, value, where)
        if origin in (dict, Mapping) and isinstance(value, Mapping):
            return _entries(choice, value, where)
        if isinstance(choice, type) and isinstance(value, choice):
            if not (isinstance(value, bool) and choice is not bool):
                return value
    names = " or ".join(_type_name(choice) for choice in choices)
    raise ConfigError(f"{where} must be {names}, got {value!r}")


def _items(hint: Any, values: list[Any], where: str) -> tuple[Any, ...]:
    """Return the values of a list, for `tuple[X, ...]`."""
    of = typing.get_args(hint)[0]
    if of is str:
        return tuple(str(value) for value in values)
    return tuple(_value(of, value, f"{where}[{i}]") for i, value in enumerate(values))


def _entries(hint: Any, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the values of a table whose keys are the user's, for `dict[str, X]`."""
    of = typing.get_args(hint)[1]
    if of is Any:
        return dict(values)
    return {key: _value(of, value, f"{where}.{key}") for key, value in values.items()}


def _type_name(hint: Any) -> str:
    if hint is type(None):
        return NONE
    origin = typing.get_origin(hint)
    if origin is typing.Literal:
        return " or ".join(map(repr, typing.get_args(hint)))
    if origin in (dict, Mapping):
        return "a table"
    if origin is tuple:
        return "a list"
    return str(getattr(hint, "__name__", hint))
