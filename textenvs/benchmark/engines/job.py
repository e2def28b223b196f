"""A cell as an engine is given it, and what comes back."""

import importlib
import sys
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

ONE_THREAD = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "VECLIB_MAXIMUM_THREADS": "1",
    "NUMEXPR_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""What a worker's environment says before anything is imported: sums are then added up in one
order, and cells side by side do not fight for the processors."""


@dataclass(frozen=True)
class Job:
    """One cell to run; JSON can hold it.

    Attributes:
        id: Of the cell.
        runner: `module:function`, called with (cell, folder, study).
        cell: What `cell.json` holds.
        folder: Where the cell writes.
        study: The study's folder.
        log: The file that takes what the cell prints.
        path: Folders to import from, of the process that gives the job.
    """

    id: str
    runner: str
    cell: Mapping[str, Any]
    folder: str
    study: str
    log: str
    path: tuple[str, ...]


@dataclass(frozen=True)
class Outcome:
    """What came of a job.

    Attributes:
        id: Of the cell.
        seconds: It took.
        error: What went wrong, in a line; "" where nothing did.
        traceback: Where, or what the process said last.
    """

    id: str
    seconds: float
    error: str = ""
    traceback: str = ""


class Engine(Protocol):
    """Runs jobs side by side.

    Attributes:
        slots: How many.
    """

    slots: int

    def submit(self, job: Job) -> None:
        """Start a job; called while fewer than `slots` are under way."""

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return the jobs that have ended since, at once if some have; [] when time is up."""

    def __enter__(self) -> "Engine":
        """Return the engine."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop every job that is under way, at once."""


def run_job(job: Job) -> Outcome:
    """Run a cell in this process; whatever it raises is an outcome, not an error here."""
    for folder in job.path:
        if folder not in sys.path:
            sys.path.append(folder)
    start = time.perf_counter()
    try:
        module, _, function = job.runner.partition(":")
        run_cell = getattr(importlib.import_module(module), function)
        run_cell(job.cell, Path(job.folder), Path(job.study))
    except (Exception, SystemExit) as error:  # a user's reward may do anything, exit() too
        words = "".join(traceback.format_exception_only(error)).strip()
        return Outcome(job.id, time.perf_counter() - start, words, traceback.format_exc())
    return Outcome(job.id, time.perf_counter() - start)
