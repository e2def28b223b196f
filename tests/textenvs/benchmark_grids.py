"""Study files of tiny grids, run without training, and what their folders hold."""

import json
import math
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from types import TracebackType

from textenvs.benchmark.cell import Cell
from textenvs.benchmark.engines.job import Engine, Job, Outcome, run_job
from textenvs.benchmark.grid import Event, GridRun
from textenvs.benchmark.plan import plan_cells
from textenvs.benchmark.store import CellStore
from textenvs.benchmark.study import Study

RUNNER = "grid_runner:run_cell"
STUDY = """
name = "dummy"
seeds = {seeds}
runner = "grid_runner:run_cell"

[environments.films]
id = "textenvs/ContextSelect-v0"
options = {{ n_items = 3, max_prompt_tokens = 128, max_new_tokens = 8, n_prompts = 4 }}
gold = "correct"

[designs.f1]
reward = "context-match-f1"

[designs.other]
{design}

[agents.rloo]
agent = "RLOO"
sft = {{ steps = 2 }}
options = {{ {options} }}
"""
SUM = """
terms = [
    { reward = "context-match", options = { threshold = 80 }, weight = 0.7 },
    { reward = "repetition-penalty", weight = 0.3 },
]
"""


def write_study(
    path: Path, *, seeds: Iterable[int] = (0, 1), options: str = "", design: str = SUM
) -> Path:
    path.write_text(STUDY.format(seeds=list(seeds), options=options, design=design))
    return path


class InlineEngine:
    """Runs jobs in this process, one at a time; `meanwhile` is called at each wait."""

    def __init__(self, meanwhile: Callable[[], None] = lambda: None) -> None:
        self.slots = 1
        self._meanwhile = meanwhile
        self._outcomes: list[Outcome] = []

    def submit(self, job: Job) -> None:
        self._outcomes.append(run_job(job))

    def wait(self, timeout_s: float) -> list[Outcome]:
        self._meanwhile()
        ended, self._outcomes = self._outcomes, []
        return ended

    def __enter__(self) -> "InlineEngine":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        return None


class TimedEngine(InlineEngine):
    """Runs nothing, and says that a job took what a formula gives."""

    def __init__(
        self, cell_s: Callable[[int, int], float], preparation_s: Callable[[int], float]
    ) -> None:
        super().__init__()
        self._cell_s, self._preparation_s = cell_s, preparation_s

    def submit(self, job: Job) -> None:
        try:
            self._outcomes.append(Outcome(job.id, self._seconds(job)))
        except ZeroDivisionError as error:
            self._outcomes.append(Outcome(job.id, 0.0, str(error)))

    def _seconds(self, job: Job) -> float:
        if job.cell["kind"] == "preparation":
            return self._preparation_s(job.cell["agent"]["sft"]["steps"])
        updates, every = job.cell["agent"]["updates"], job.cell["evaluation"]["every"]
        return self._cell_s(updates, 1 + math.ceil(updates / every))


def run_grid(
    file: Path, folder: Path, engine: Engine | None = None, *, retry_failed: bool = False
) -> list[Event]:
    """Run a study; return the cells that ended."""
    study, store = Study.from_toml(file), CellStore(folder)
    cells = plan_cells(study, RUNNER)
    store.write_study(study)
    store.retire(cell.id for cell in cells)
    events: list[Event] = []
    GridRun(store, cells, engine or InlineEngine(), events.append, retry_failed).run()
    return events


def cells_of(file: Path) -> list[Cell]:
    return plan_cells(Study.from_toml(file), RUNNER)


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file of a study's cells, timings taken out."""
    paths = (path for path in folder.glob("cells/**/*") if path.is_file())
    return {path.relative_to(folder).as_posix(): _without_timings(path) for path in paths}


def _without_timings(path: Path) -> bytes:
    if path.name not in ("DONE.json", "checkpoints.jsonl"):
        return path.read_bytes()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for row in rows:
        del row["seconds"]
    return json.dumps(rows).encode()


def main(file: str, folder: str, jobs: str) -> None:
    """Run a study on a pool, for a test that kills the process that does."""
    from textenvs.benchmark.engines.pool import PoolEngine

    run_grid(Path(file), Path(folder), PoolEngine(int(jobs)))


if __name__ == "__main__":
    main(*sys.argv[1:])
