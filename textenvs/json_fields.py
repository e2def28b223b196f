"""JSON from a file, checked field by field as it is taken; floats without loss.

NaN and infinity, which JSON has no numbers for, are the texts "NaN", "Infinity" and
"-Infinity", as in the JSON form of protocol buffers.
"""

import json
import math
from collections.abc import Callable, Mapping
from typing import Any

NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def jsonable(value: Any) -> Any:
    """Return a value with NaN and infinity as texts and tuples as lists."""
    if isinstance(value, Mapping):
        return {key: jsonable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return json.dumps(value)
    return value


class Fields:
    """The fields of a JSON object; each method takes one and raises `ValueError` on it."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        """Keep the fields."""
        self._values = values

    @classmethod
    def read(cls, line: bytes) -> "Fields":
        """Return the fields of the object that a line holds.

        Raises:
            ValueError: if it is no JSON, or no object.
        """
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"this is no JSON ({error})") from error
        if not isinstance(value, dict):
            raise ValueError(f"a line must be a JSON object, got {value!r:.60}")
        return cls(value)

    def get(self, name: str) -> Any:
        """Return a field unchecked, None where it is missing."""
        return self._values.get(name)

    def optional(self, name: str, take: Callable[..., Any], *arguments: Any) -> Any:
        """Return a field as `take` (a method of this class) does, None where it is null."""
        return None if self._values.get(name) is None else take(name, *arguments)

    def text(self, name: str) -> str:
        """Return a text."""
        return str(self._taken(name, str, "a text"))

    def boolean(self, name: str) -> bool:
        """Return true or false."""
        return bool(self._taken(name, bool, "true or false"))

    def mapping(self, name: str) -> dict[str, Any]:
        """Return an object, its values unchecked."""
        return dict(self._taken(name, dict, "an object"))

    def texts(self, name: str, length: int) -> tuple[str, ...]:
        """Return so many texts."""
        values = self._list(name, "a list of texts", length)
        if not all(isinstance(value, str) for value in values):
            raise ValueError(f"{name!r} must hold texts, got {values!r:.60}")
        return tuple(values)

    def naturals(self, name: str) -> tuple[int, ...]:
        """Return integers from 0."""
        values = self._list(name, "a list of integers")
        if not all(type(value) is int and value >= 0 for value in values):
            raise ValueError(f"{name!r} must hold integers from 0, got {values!r:.60}")
        return tuple(values)

    def number(self, name: str) -> float:
        """Return a float."""
        return _number(name, self._taken(name, object, "a number"))

    def numbers(self, name: str, length: int) -> tuple[float, ...]:
        """Return so many floats."""
        values = self._list(name, "a list of numbers", length)
        return tuple(_number(name, value) for value in values)

    def figures(self, name: str) -> dict[str, float]:
        """Return an object whose values are floats."""
        return {key: _number(f"{name}.{key}", v) for key, v in self.mapping(name).items()}

    def _list(self, name: str, words: str, length: int | None = None) -> list[Any]:
        values = list(self._taken(name, list, words))
        if length is not None and len(values) != length:
            raise ValueError(f"{name!r} must hold {length} values, one a token, got {len(values)}")
        return values

    def _taken(self, name: str, kind: type, words: str) -> Any:
        if name not in self._values:
            raise ValueError(f"the field {name!r} is missing")
        value = self._values[name]
        if not isinstance(value, kind):
            raise ValueError(f"{name!r} must be {words}, got {value!r:.60}")
        return value


def _number(name: str, value: Any) -> float:
    if isinstance(value, str) and value in NOT_FINITE:
        return NOT_FINITE[value]
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise ValueError(f"{name!r} must be a number, got {value!r:.60}")
    try:
        return float(value)
    except OverflowError as error:
        raise ValueError(f"{name!r} is too large for a float") from error
