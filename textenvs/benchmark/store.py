"""The folder of a study: cells that appear whole or not at all."""

import json
import os
import shutil
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import tomli_w

from textenvs.benchmark.cell import Cell
from textenvs.benchmark.leases import Lease, holder
from textenvs.benchmark.study import Study
from textenvs.errors import CheckpointError, ConfigError, UnknownNameError
from textenvs.files import write_text

CELL, DONE, FAILED, STUDY = "cell.json", "DONE.json", "FAILED.json", "study.toml"
State = Literal["done", "failed", "running", "missing"]


class CellStore:
    """A study folder.

    - `study.toml`: the study with every default filled in, and all seeds ever run here.
    - `cells/ID/`: finished and failed cells of the study as it is now, nothing else.
    - `retired/ID/`: those of an earlier form of it; they come back when it does.
    - `partial/`, `leases/`, `logs/`: of cells under way, and what they printed.
    """

    def __init__(self, path: str | Path) -> None:
        """Name the folder; nothing is written."""
        self.path = Path(path)

    def folder(self, cell_id: str) -> Path:
        """Return where a cell lies once it has ended."""
        return self.path / "cells" / cell_id

    def log(self, cell_id: str) -> Path:
        """Return the file that takes what a cell prints."""
        return self.path / "logs" / f"{cell_id}.log"

    def study_file(self) -> Study | None:
        """Return the study that was last run here."""
        path = self.path / STUDY
        return Study.from_toml(path) if path.is_file() else None

    def write_study(self, study: Study) -> None:
        """Keep the study.

        Raises:
            ConfigError: if the folder is a file.
        """
        if self.path.is_file():
            raise ConfigError(f"{self.path} is a file; choose a folder with --out")
        (self.path / "cells").mkdir(parents=True, exist_ok=True)
        write_text(self.path / STUDY, tomli_w.dumps(study.written()))

    def ids(self) -> list[str]:
        """Return the ids of the cells that have ended, sorted."""
        return sorted(path.parent.name for path in self.path.glob(f"cells/*/{CELL}"))

    def read(self, cell_id: str) -> Cell:
        """Return a cell that has ended.

        Raises:
            CheckpointError: if its file cannot be read.
        """
        return Cell.of(_json(self.folder(cell_id) / CELL))

    def find(self, prefix: str) -> str:
        """Return the one id that begins so.

        Raises:
            UnknownNameError: if there is none, or more than one.
        """
        found = [cell_id for cell_id in self.ids() if cell_id.startswith(prefix)]
        if len(found) != 1:
            remedy = "Give more of its digits." if found else "textenvs bench status lists them."
            raise UnknownNameError(f"cell of {self.path}", prefix, found or self.ids(), remedy)
        return found[0]

    def state(self, cell_id: str) -> State:
        """Return how far a cell is."""
        state = self.state_on_disk(cell_id)
        if state != "done" and holder(self._lease(cell_id)) is not None:
            return "running"
        return state

    def state_on_disk(self, cell_id: str) -> Literal["done", "failed", "missing"]:
        """Return how a cell has ended, "missing" if it has not."""
        folder = self.folder(cell_id)
        if (folder / DONE).is_file():
            return "done"
        return "failed" if (folder / FAILED).is_file() else "missing"

    def take(self, cell_id: str) -> Lease | None:
        """Return the right to run a cell, None if another process has it."""
        return Lease.take(self._lease(cell_id))

    def failure(self, cell_id: str) -> dict[str, Any]:
        """Return what is known of a failure; {} if the cell has not failed."""
        path = self.folder(cell_id) / FAILED
        return _json(path) if path.is_file() else {}

    def seconds(self, cell_id: str) -> float | None:
        """Return how long a finished cell took."""
        path = self.folder(cell_id) / DONE
        return float(_json(path)["seconds"]) if path.is_file() else None

    def begin(self, cell: Cell, *, purpose: str = "run") -> Path:
        """Return an empty folder for a cell to write to, with its `cell.json`.

        What a dead process left of the same cell is removed: who runs it has the lease.

        Args:
            cell: Which.
            purpose: "run", or "verify", which has no lease and removes nothing.
        """
        partial = self.path / "partial"
        if purpose == "run":
            for left in (*partial.glob(f"{cell.id}-run-*"), *partial.glob(f"{cell.id}.old")):
                shutil.rmtree(left, ignore_errors=True)
        # A name of its own: a worker whose master was killed may live for another moment.
        folder = partial / f"{cell.id}-{purpose}-{os.getpid()}-{time.time_ns()}"
        folder.mkdir(parents=True)
        self.log(cell.id).parent.mkdir(exist_ok=True)
        write_text(folder / CELL, json.dumps(cell.record(), indent=2, ensure_ascii=False) + "\n")
        return folder

    def finish(self, cell_id: str, folder: Path, seconds: float) -> None:
        """Make a cell's folder one of the finished, at once."""
        told = {"attempts": self._attempts(cell_id) + 1, "seconds": round(seconds, 3)}
        write_text(folder / DONE, json.dumps(told) + "\n")
        self._publish(cell_id, folder)

    def fail(self, cell_id: str, folder: Path, error: str, traceback: str) -> None:
        """Keep the failure of a cell in place of its results."""
        for path in folder.iterdir():
            if path.name != CELL:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        told = {"error": error, "traceback": traceback, "attempts": self._attempts(cell_id) + 1}
        write_text(folder / FAILED, json.dumps(told, indent=2, ensure_ascii=False) + "\n")
        self._publish(cell_id, folder)

    def drop(self, folder: Path) -> None:
        """Remove what a cell has written before it was stopped."""
        shutil.rmtree(folder, ignore_errors=True)

    def drop_own(self) -> None:
        """Remove what the cells that this process was running have written."""
        for folder in self.path.glob(f"partial/*-run-{os.getpid()}-*"):
            self.drop(folder)

    def retire(self, planned: Iterable[str]) -> tuple[int, int]:
        """Put aside the cells that the study does not name any more, bring back those it does.

        Args:
            planned: Ids of the study as it is now, with all seeds.

        Returns:
            How many cells went, and how many came back.
        """
        named = set(planned)
        gone = [cell_id for cell_id in self.ids() if cell_id not in named]
        back = [i for i in named if self._retired(i).is_dir() and not self.folder(i).exists()]
        for cell_id in gone:
            self._retired(cell_id).parent.mkdir(exist_ok=True)
            shutil.rmtree(self._retired(cell_id), ignore_errors=True)
            self.folder(cell_id).rename(self._retired(cell_id))
        for cell_id in back:
            self._retired(cell_id).rename(self.folder(cell_id))
        return len(gone), len(back)

    def _publish(self, cell_id: str, folder: Path) -> None:
        """Rename a folder to its place; what stood there, a failure, goes."""
        _flush(folder)
        target = self.folder(cell_id)
        if target.exists():
            old = self.path / "partial" / f"{cell_id}.old"
            target.rename(old)
            folder.rename(target)
            shutil.rmtree(old)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(target)

    def _attempts(self, cell_id: str) -> int:
        return int(self.failure(cell_id).get("attempts", 0))

    def _lease(self, cell_id: str) -> Path:
        return self.path / "leases" / f"{cell_id}.json"

    def _retired(self, cell_id: str) -> Path:
        return self.path / "retired" / cell_id


def _flush(folder: Path) -> None:
    """Have every file on the disk before the rename is: a power cut leaves no empty files."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
