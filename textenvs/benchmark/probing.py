"""How long a cell will take, from short runs of it that are thrown away."""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from textenvs.benchmark.cell import Cell
from textenvs.benchmark.engines.job import Engine, Job, Outcome
from textenvs.errors import ConfigError

SHORT, LONG = 1, 3
"""Updates, or steps of fine-tuning, of the two lengths that are timed."""


def probe_cells(cells: Sequence[Cell], engine: Engine) -> list[float]:
    """Return what each of some cells will take, in seconds, from shortened runs of it.

    A cell's time is taken for linear, a + b * updates + c * evaluations, and four runs tell
    the three: one that is not counted, for it imports and loads; the same again; a longer one;
    and a longer one that is evaluated after each update. A start model's time is linear in the
    steps of its fine-tuning. Cells are probed from the model itself, not from a start model.

    Args:
        cells: One of each kind.
        engine: Runs them, one after the other.

    Raises:
        ConfigError: if a probe fails, naming the error.
    """
    with tempfile.TemporaryDirectory() as folder, engine:
        return [_Probe(cell, engine, Path(folder)).seconds() for cell in cells]


class _Probe:
    """The short runs of one cell."""

    def __init__(self, cell: Cell, engine: Engine, root: Path) -> None:
        self._cell, self._engine, self._root, self._runs = cell, engine, root, 0

    def seconds(self) -> float:
        """Return what the whole cell will take."""
        self._timed(SHORT, SHORT)
        short, long = self._timed(SHORT, SHORT), self._timed(LONG, LONG)
        each = max(0.0, long - short) / (LONG - SHORT)
        if self._cell.kind == "preparation":
            return short + each * (_steps(self._cell.config) - SHORT)
        # An evaluation before training, and one after every update in place of one at the end.
        judged = max(0.0, self._timed(LONG, 1) - long) / (LONG - 1)
        updates = int(self._cell.config["agent"]["updates"])
        evaluations = 1 + -(-updates // int(self._cell.config["evaluation"]["every"]))
        return short + each * (updates - SHORT) + judged * (evaluations - 2)

    def _timed(self, length: int, every: int) -> float:
        """Return the seconds of a run of so many updates, or steps."""
        short = Cell.of(shortened(self._cell.config, length, every))
        folder = self._root / f"{self._cell.id}-{self._runs}"
        self._runs += 1
        folder.mkdir()
        config, runner = {"id": short.id, **short.config}, str(short.config["runner"])
        log, path = str(folder.with_suffix(".log")), tuple(sys.path)
        self._engine.submit(Job(short.id, runner, config, str(folder), str(self._root), log, path))
        outcomes: list[Outcome] = []
        while not outcomes:
            outcomes = self._engine.wait(1.0)
        if outcomes[0].error:
            raise ConfigError(f"a short run of {self._cell.label} failed: {outcomes[0].error}")
        return outcomes[0].seconds


def shortened(config: Mapping[str, Any], length: int, every: int) -> dict[str, Any]:
    """Return the config of a cell with fewer updates, of a preparation with fewer steps."""
    if config["kind"] == "preparation":
        sft = {**config["agent"]["sft"], "steps": length}
        return {**config, "agent": {**config["agent"], "sft": sft}}
    agent = {**config["agent"], "updates": length, "sft": None}
    evaluation = {**config["evaluation"], "every": every}
    return {**config, "agent": agent, "evaluation": evaluation, "needs": []}


def _steps(config: Mapping[str, Any]) -> int:
    """Return the steps of a start model's fine-tuning; a runner that has none takes one."""
    return int(config["agent"]["sft"].get("steps", SHORT))
