"""JSON files of a run or a cell, read as far as they can be: a killed writer leaves torn ones."""

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from textenvs.json_fields import NOT_FINITE

LARGEST_LINE = 16 * 2**20
"""Bytes; a longer line is passed over, so that one answer cannot fill the memory."""


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON-lines file; lines that hold none, and no file, are passed over.

    Args:
        path: May be missing.
    """
    if not path.is_file():
        return
    with path.open("rb") as file:
        for line in file:
            value = _object(line) if len(line) <= LARGEST_LINE else None
            if value is not None:
                yield value


def read_object(path: Path) -> dict[str, Any]:
    """Return the object of a JSON file; empty if there is none."""
    return (_object(path.read_bytes()) or {}) if path.is_file() else {}


def read_text(path: Path) -> str:
    """Return the text of a file, what is no UTF-8 replaced; empty if there is none."""
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def number(value: Any) -> float | None:
    """Return a number of JSON, infinity and NaN as this project writes them; else None."""
    if isinstance(value, str):
        return NOT_FINITE.get(value)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value)


def numbers(value: Any) -> tuple[float, ...]:
    """Return a list of numbers, NaN where there is none; empty for anything else."""
    if not isinstance(value, list):
        return ()
    found = [number(item) for item in value]
    return tuple(math.nan if item is None else item for item in found)


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None
