"""The engines: the same files from each, whatever dies in between."""

import importlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from textenvs.benchmark.engines.job import Job
from textenvs.benchmark.engines.pool import PoolEngine, cause_of_death
from textenvs.benchmark.store import CellStore
from textenvs.benchmark.summary import write_summary
from textenvs.errors import ConfigError, MissingDependencyError

HERE = Path(__file__).parent
KILLS = 10
PATIENCE_S = 60.0


@pytest.fixture
def grids(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `benchmark_grids` beside this file."""
    monkeypatch.syspath_prepend(str(HERE))
    return importlib.import_module("benchmark_grids")


def start(file: Path, folder: Path, jobs: int = 2, *, cell_s: float) -> "subprocess.Popen[bytes]":
    """Run a study in a process group of its own; a cell takes so many seconds."""
    command = [sys.executable, str(HERE / "benchmark_grids.py"), str(file), str(folder), str(jobs)]
    environment = {**os.environ, "GRID_RUNNER_SLEEP_S": str(cell_s)}
    return subprocess.Popen(command, start_new_session=True, env=environment)


def wait_until_a_cell_is_under_way(folder: Path, process: "subprocess.Popen[bytes]") -> bool:
    """Return True then, False if the process has ended."""
    deadline = time.monotonic() + PATIENCE_S
    while process.poll() is None and time.monotonic() < deadline:
        if list(folder.glob("partial/*-run-*/checkpoints.jsonl")):
            return True
        time.sleep(0.005)
    return False


def test_a_grid_killed_ten_times_ends_as_an_unbroken_one(grids: Any, tmp_path: Path) -> None:
    file = grids.write_study(tmp_path / "study.toml", seeds=range(8))
    folder, generator = tmp_path / "killed", random.Random(0)
    for _ in range(KILLS):
        process = start(file, folder, cell_s=0.3)
        assert wait_until_a_cell_is_under_way(folder, process)
        time.sleep(generator.uniform(0.0, 0.35))
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert list(folder.glob("partial/*"))
    assert grids.run_grid(file, folder, PoolEngine(2))
    assert not list(folder.glob("partial/*"))
    grids.run_grid(file, tmp_path / "unbroken", PoolEngine(2))
    assert len(grids.contents(folder)) == len(grids.contents(tmp_path / "unbroken"))
    assert grids.contents(folder) == grids.contents(tmp_path / "unbroken")
    for ended in (folder, tmp_path / "unbroken"):
        write_summary(ended)
    summaries = [(f / "summary.json").read_bytes() for f in (folder, tmp_path / "unbroken")]
    assert summaries[0] == summaries[1]


def test_two_runs_at_once_share_the_cells(grids: Any, tmp_path: Path) -> None:
    ran = tmp_path / "ran.txt"
    options = f'ran = "{ran}"'
    file = grids.write_study(tmp_path / "study.toml", seeds=range(4), options=options)
    first, second = (start(file, tmp_path / "out", jobs=1, cell_s=0.1) for _ in range(2))
    assert first.wait(PATIENCE_S) == second.wait(PATIENCE_S) == 0
    lines = ran.read_text().split()
    assert len(lines) == len(set(lines)) == 8
    assert len(CellStore(tmp_path / "out").ids()) == 12


@pytest.mark.parametrize(
    ("fate", "expected"),
    [
        ("raise", "ValueError: the dummy was told to fail"),
        ("exit", "SystemExit: enough"),
        ("segfault", "the worker process died of SIGSEGV"),
    ],
)
def test_a_cell_that_dies_is_a_row_and_the_others_go_on(
    grids: Any, tmp_path: Path, fate: str, expected: str
) -> None:
    design = f'reward = "rouge-l"\nagent_options = {{ fate = "{fate}" }}'
    file = grids.write_study(tmp_path / "study.toml", seeds=[0, 1], design=design)
    store = CellStore(tmp_path / "out")
    events = grids.run_grid(file, store.path, PoolEngine(1))
    assert [event.error for event in events] == ["", "", expected, "", "", expected]
    failed = [event.cell.id for event in events if event.error]
    told = store.failure(failed[0])
    where = "Fatal Python error" if fate == "segfault" else "grid_runner.py"
    assert where in told["traceback"]


def test_workers_compute_on_one_thread_and_die_with_their_master(tmp_path: Path) -> None:
    runner = tmp_path / "runner_of_a_thread_test.py"
    runner.write_text(
        "import os, time\n\n\ndef run_cell(cell, folder, study):\n"
        "    (folder / 'pid').write_text(f\"{os.getpid()} {os.environ['OMP_NUM_THREADS']}\")\n"
        "    time.sleep(60)\n"
    )
    job = Job("a", f"{runner.stem}:run_cell", {}, *[str(tmp_path)] * 2, str(tmp_path / "log"), ())
    job = Job(**{**vars(job), "path": (str(tmp_path),)})
    with PoolEngine(1) as engine:
        engine.submit(job)
        deadline = time.monotonic() + PATIENCE_S
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text():
            assert engine.wait(0.02) == [] and time.monotonic() < deadline
        pid, threads = (tmp_path / "pid").read_text().split()
        assert threads == "1"
        os.kill(int(pid), 0)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid), 0)


def test_an_interrupt_stops_cleanly(grids: Any, tmp_path: Path) -> None:
    file = grids.write_study(tmp_path / "study.toml", seeds=[0])
    folder = tmp_path / "out"
    process = start(file, folder, cell_s=600.0)
    assert wait_until_a_cell_is_under_way(folder, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(PATIENCE_S) != 0
    assert not list(folder.glob("partial/*")) and not list(folder.glob("leases/*"))
    states = {CellStore(folder).state(cell.id) for cell in grids.cells_of(file)}
    assert states == {"done", "missing"}  # the preparation had ended


def test_a_death_is_told_in_words() -> None:
    assert cause_of_death(3) == "the worker process ended with exit code 3"
    assert "out of memory" in cause_of_death(-signal.SIGKILL)
    assert "signal 250" in cause_of_death(-250)
    with pytest.raises(ConfigError, match="--jobs must be at least 1"):
        PoolEngine(0)


def test_without_ray_the_engine_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = importlib.import_module("textenvs.benchmark.engines.ray")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingDependencyError, match="textenvs\\[ray\\]"):
        engine.RayEngine()
