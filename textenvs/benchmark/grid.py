"""Running the cells of a study: each once, whatever happens in between."""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from textenvs.benchmark.cell import Cell
from textenvs.benchmark.engines.job import Engine, Job, Outcome
from textenvs.benchmark.leases import Lease
from textenvs.benchmark.store import CellStore

POLL_S = 0.2
"""How often cells that another process runs are looked at."""


@dataclass(frozen=True)
class Event:
    """A cell that has ended.

    Attributes:
        cell: Which.
        seconds: It took; 0 where it was not begun.
        error: What went wrong; "" where nothing did.
        elsewhere: Whether another process ran it.
    """

    cell: Cell
    seconds: float
    error: str = ""
    elsewhere: bool = False


@dataclass
class GridRun:
    """One pass over the cells of a study.

    Cells that are finished are left alone, and so are those that have failed, unless they are
    to be tried again. A cell that another process runs is waited for. Each is published in
    one rename, so that a run killed at any moment goes on where it stood.

    Attributes:
        store: The study's folder.
        cells: In the order of running, preparations before what needs them.
        engine: Runs them.
        tell: Called when a cell has ended.
        retry_failed: Whether to try failed cells again, once.
    """

    store: CellStore
    cells: Sequence[Cell]
    engine: Engine
    tell: Callable[[Event], None]
    retry_failed: bool = False
    _running: dict[str, tuple[Cell, Path]] = field(default_factory=dict)
    _leases: dict[str, Lease] = field(default_factory=dict)
    _retried: set[str] = field(default_factory=set)

    def run(self) -> None:
        """Run what is not finished; an interrupt stops the cells under way and passes on."""
        waiting = owed(self.store, self.cells, retry_failed=self.retry_failed)
        self._retried = {c.id for c in waiting if self.store.state_on_disk(c.id) == "failed"}
        try:
            with self.engine:
                while waiting or self._running:
                    waiting = [cell for cell in waiting if not self._is_dealt_with(cell)]
                    for outcome in self.engine.wait(POLL_S):
                        self._end(outcome)
        finally:  # the engine has stopped them: nobody writes there any more
            self.store.drop_own()
            for lease in self._leases.values():
                lease.release()

    def _is_dealt_with(self, cell: Cell) -> bool:
        """Return whether a cell has ended or was started just now."""
        if len(self._running) >= self.engine.slots or self._is_awaiting(cell):
            return False
        lease = self.store.take(cell.id)
        if lease is None:
            return False
        self._leases[cell.id] = lease
        # Only now: another process may have ended it between our looking and our taking.
        state = self.store.state_on_disk(cell.id)
        if state == "done" or (state == "failed" and cell.id not in self._retried):
            self._release(cell.id)
            self._tell_elsewhere(cell)
            return True
        self._retried.discard(cell.id)
        folder = self.store.begin(cell)
        broken = [need for need in cell.needs if self.store.state_on_disk(need) != "done"]
        if broken:
            error = f"its preparation {broken[0]} has failed"
            self.store.fail(cell.id, folder, error, "")
            self._release(cell.id)
            self.tell(Event(cell, 0.0, error))
            return True
        self._running[cell.id] = (cell, folder)
        self.engine.submit(self._job(cell, folder))
        return True

    def _is_awaiting(self, cell: Cell) -> bool:
        """Return whether a preparation has yet to end."""
        return any(
            need in self._running
            or need in self._retried
            or self.store.state_on_disk(need) == "missing"
            for need in cell.needs
        )

    def _job(self, cell: Cell, folder: Path) -> Job:
        store = self.store
        return Job(
            id=cell.id,
            runner=str(cell.config["runner"]),
            cell={"id": cell.id, **cell.config},
            folder=str(folder.absolute()),
            study=str(store.path.absolute()),
            log=str(store.log(cell.id).absolute()),
            path=tuple(sys.path),
        )

    def _end(self, outcome: Outcome) -> None:
        """Publish what came of a cell."""
        cell, folder = self._running.pop(outcome.id)
        if outcome.error:
            self.store.fail(outcome.id, folder, outcome.error, outcome.traceback)
        else:
            self.store.finish(outcome.id, folder, outcome.seconds)
        self._release(outcome.id)
        self.tell(Event(cell, outcome.seconds, outcome.error))

    def _release(self, cell_id: str) -> None:
        self._leases.pop(cell_id).release()

    def _tell_elsewhere(self, cell: Cell) -> None:
        error = str(self.store.failure(cell.id).get("error", ""))
        self.tell(Event(cell, 0.0, error, elsewhere=True))


def owed(store: CellStore, cells: Sequence[Cell], *, retry_failed: bool) -> list[Cell]:
    """Return the cells that a run has to see to.

    A preparation is owed only for the sake of cells that are; a preparation that has failed is
    tried again with them.
    """
    ended = ("done",) if retry_failed else ("done", "failed")
    kept = [c for c in cells if c.kind == "cell" and store.state_on_disk(c.id) not in ended]
    needed = {need for cell in kept for need in cell.needs}
    preparations = [c for c in cells if c.id in needed and store.state_on_disk(c.id) not in ended]
    order = {cell.id: place for place, cell in enumerate(cells)}
    return sorted((*preparations, *kept), key=lambda cell: order[cell.id])
