"""Is a cell repeatable? Run it again and compare bit for bit."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from textenvs.benchmark.cell import Cell, versions
from textenvs.benchmark.engines.job import Engine, Job, Outcome
from textenvs.benchmark.store import CELL, DONE, CellStore
from textenvs.errors import ConfigError

TIMINGS = "seconds"
"""The key of a line that may differ from run to run."""


@dataclass(frozen=True)
class Verification:
    """What a second run of a cell showed.

    Attributes:
        cell: Which.
        difference: The first difference, in words; "" where there is none.
        compared: Files that were compared.
        notes: What has changed since the first run, such as the version of a package.
    """

    cell: Cell
    difference: str
    compared: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def ok(self) -> bool:
        """Whether the second run left the same files."""
        return not self.difference


def verify_cell(store: CellStore, cell_id: str, engine: Engine) -> Verification:
    """Run a finished cell again, in a folder that is removed, and compare what it leaves.

    Raises:
        ConfigError: if the cell is not finished.
    """
    if store.state_on_disk(cell_id) != "done":
        state = store.state(cell_id)
        raise ConfigError(f"the cell {cell_id} is {state}; only a finished one can be verified")
    cell = store.read(cell_id)
    folder = store.begin(cell, purpose="verify")
    try:
        with engine:
            log = str(folder / "verify.log")
            study = str(store.path.absolute())
            told = {"id": cell.id, **cell.config}
            runner, path = str(cell.config["runner"]), tuple(sys.path)
            written = folder / "cell"
            written.mkdir()
            engine.submit(Job(cell.id, runner, told, str(written.absolute()), study, log, path))
            outcomes: list[Outcome] = []
            while not outcomes:
                outcomes = engine.wait(1.0)
        if outcomes[0].error:
            difference = f"the second run failed: {outcomes[0].error}"
        else:
            difference = first_difference(store.folder(cell_id), written)
        compared = tuple(_files(store.folder(cell_id)))
    finally:
        store.drop(folder)
    return Verification(cell, difference, compared, tuple(_changes(store, cell_id)))


def first_difference(one: Path, other: Path) -> str:
    """Return the first difference between two folders of a cell, "" where there is none.

    Files are compared byte for byte, lines of JSON without their timings.
    """
    ours, theirs = _files(one), _files(other)
    for name in sorted({*ours, *theirs}):
        if name not in theirs or name not in ours:
            return f"{name}: only the {'first' if name in ours else 'second'} run wrote it"
        if name.endswith(".jsonl"):
            found = _line_difference(one / name, other / name)
        else:
            same = (one / name).read_bytes() == (other / name).read_bytes()
            found = "" if same else "the bytes differ"
        if found:
            return f"{name}: {found}"
    return ""


def _files(folder: Path) -> list[str]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    names = sorted(path.relative_to(folder).as_posix() for path in paths)
    return [name for name in names if name not in (CELL, DONE)]


def _line_difference(one: Path, other: Path) -> str:
    pairs = zip_longest(one.read_bytes().splitlines(), other.read_bytes().splitlines())
    for number, (first, second) in enumerate(pairs, 1):
        if first == second:
            continue
        if first is None or second is None:
            return f"line {number}: only the {'second' if first is None else 'first'} run wrote it"
        for place, mine, its in _leaf_differences("", json.loads(first), json.loads(second)):
            return f"line {number}, {place}: {mine!r:.60} and {its!r:.60}"
    return ""


def _leaf_differences(place: str, one: Any, other: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield where two JSON values differ; NaN equals NaN, and timings are not looked at."""
    if isinstance(one, dict) and isinstance(other, dict):
        for key in {**one, **other}:
            if place or key != TIMINGS:
                inner = f"{place}.{key}" if place else key
                yield from _leaf_differences(inner, one.get(key), other.get(key))
    elif isinstance(one, list) and isinstance(other, list) and len(one) == len(other):
        for i, (mine, its) in enumerate(zip(one, other, strict=True)):
            yield from _leaf_differences(f"{place}[{i}]", mine, its)
    elif repr(one) != repr(other):
        yield place, one, other


def _changes(store: CellStore, cell_id: str) -> Iterator[str]:
    """Yield the versions that are not those of the first run."""
    path = store.folder(cell_id) / CELL
    before = json.loads(path.read_text(encoding="utf-8")).get("versions", {})
    for name, version in versions().items():
        if before.get(name) != version:
            yield f"{name} was {before.get(name)} and is {version}"
