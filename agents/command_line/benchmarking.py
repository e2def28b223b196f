"""`textenvs bench`: run a study's cells, verify one, say how far they are."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro
from rich.table import Table
from rich.text import Text

from agents.command_line.console import Console
from agents.command_line.settings import read_settings
from textenvs.benchmark.cell import Cell
from textenvs.benchmark.durations import duration, estimate
from textenvs.benchmark.engines.job import Engine
from textenvs.benchmark.engines.pool import PoolEngine
from textenvs.benchmark.engines.ray import RayEngine
from textenvs.benchmark.grid import Event, GridRun, owed
from textenvs.benchmark.plan import chosen, plan_cells
from textenvs.benchmark.probing import probe_cells
from textenvs.benchmark.store import CellStore
from textenvs.benchmark.study import Study, parse_seeds
from textenvs.benchmark.verification import verify_cell
from textenvs.errors import ConfigError, UnknownNameError

RUNNER = "agents.benchmark_cell:run_cell"
"""What runs the cells of a study that names no runner of its own."""

USAGE = """usage: textenvs bench COMMAND [options]

  run FILE.toml    run the cells of a study that are not finished, then write the report
  verify CELL      run a finished cell again and compare bit for bit
  status STUDY     how far the cells of a study folder are, and what failed

textenvs bench COMMAND --help lists the options of a command."""


@dataclass(frozen=True)
class RunSettings:
    """Run the cells of a study that are not finished, then write its report.

    Attributes:
        file: The study file.
        out: The study's folder; by default runs/bench-FILE.
        seeds: In place of those of the file, such as 0..9; cells of other seeds are kept.
        only: Run only what has this name: an environment, a design, an agent, or
            environment/design/agent; * stands for any text. May be repeated.
        jobs: Cells side by side; by default as many as there are processors for.
        engine: "pool" for processes on this machine, "ray" for a Ray cluster.
        ray_address: Of the cluster, such as ray://head:10001; by default one is started here.
        cpus_per_cell: Processors a cell takes.
        gpus_per_cell: GPUs a cell takes; needs the engine "ray".
        retry_failed: Try failed cells again.
        report: Write summary and report in the end.
        probe: With --dry-run, where no cell is finished: tell the time from short runs that are
            thrown away, about a minute of them.
    """

    file: Annotated[Path | None, tyro.conf.Positional] = None
    out: Path | None = None
    seeds: str | None = None
    only: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    jobs: int | None = None
    engine: Literal["pool", "ray"] = "pool"
    ray_address: str | None = None
    cpus_per_cell: float = 1.0
    gpus_per_cell: float = 0.0
    retry_failed: bool = False
    report: bool = True
    probe: bool = True


@dataclass(frozen=True)
class VerifySettings:
    """Run a finished cell again and compare what it leaves, bit for bit; 1 if it differs.

    Attributes:
        cell: Its id, or the beginning of it.
        out: The study's folder.
    """

    cell: Annotated[str, tyro.conf.Positional] = ""
    out: Path | None = None


@dataclass(frozen=True)
class StatusSettings:
    """Say how far the cells of a study are.

    Attributes:
        study: The study's folder.
    """

    study: Annotated[Path | None, tyro.conf.Positional] = None


def bench(arguments: Sequence[str], console: Console) -> int:
    """Run, verify or look at the cells of a study."""
    words = list(arguments)
    if not words or words[0] in ("-h", "--help"):
        console.say(USAGE)
        return 0 if words else 2
    if words[0] not in COMMANDS:
        raise UnknownNameError("command of bench", words[0], COMMANDS)
    return COMMANDS[words[0]](words[1:], console)


def run(arguments: Sequence[str], console: Console) -> int:
    """Run what is not finished; 1 if a cell of the study has failed."""
    settings, dry_run = read_settings(RunSettings, arguments, command="bench run")
    if settings.file is None:
        raise ConfigError("name the study file: textenvs bench run FILE.toml")
    study = Study.from_toml(settings.file)
    if settings.seeds is not None:
        study = study.with_seeds(parse_seeds(settings.seeds))
    store = CellStore(settings.out or Path("runs") / f"bench-{settings.file.stem}")
    cells = chosen(plan_cells(study, RUNNER), settings.only)
    if dry_run:
        _show_plan(store, cells, settings, console)
        return 0
    _keep_study(store, study, console)
    todo = owed(store, cells, retry_failed=settings.retry_failed)
    if todo:
        with _progress(console, len(todo)) as tell:
            GridRun(store, cells, make_engine(settings), tell, settings.retry_failed).run()
    failed = _say_end(store, cells, len(todo), console)
    if settings.report:
        _report(store, console)
    return 1 if failed else 0


def verify(arguments: Sequence[str], console: Console) -> int:
    """Run a finished cell again; 0 if it leaves the same files, else 1."""
    settings, _ = read_settings(VerifySettings, arguments, command="bench verify")
    store = _study_folder(settings.out, "textenvs bench verify CELL --out STUDY")
    cell_id = store.find(settings.cell)
    study = store.study_file()
    found = verify_cell(store, cell_id, PoolEngine(1))
    if study is not None and cell_id not in {cell.id for cell in plan_cells(study, RUNNER)}:
        console.say("note: the study, a reward's source or the data have changed since it ran")
    for note in found.notes:
        console.say(f"note: {note}")
    if found.ok:
        console.say(f"{cell_id} ({found.cell.label}): the same, {', '.join(found.compared)}")
        return 0
    console.say(f"{cell_id} ({found.cell.label}) differs: {found.difference}")
    return 1


def status(arguments: Sequence[str], console: Console) -> int:
    """Print how far the cells are, by environment, design and agent."""
    settings, _ = read_settings(StatusSettings, arguments, command="bench status")
    store = _study_folder(settings.study, "textenvs bench status STUDY")
    study = store.study_file()
    assert study is not None
    cells = plan_cells(study, RUNNER)
    rows: dict[str, list[str]] = {}
    for cell in cells:
        key = " / ".join(cell.names) if cell.kind == "cell" else "start models"
        rows.setdefault(key, []).append(store.state(cell.id))
    states = ("done", "running", "failed", "missing")
    table = Table("", *states, title=study.name)
    for key, found in rows.items():
        table.add_row(Text(key), *(str(found.count(s) or "") for s in states))
    console.print(table)
    _say_failures(store, cells, console)
    return 0


COMMANDS: dict[str, Callable[[Sequence[str], Console], int]] = {
    "run": run,
    "verify": verify,
    "status": status,
}


def make_engine(settings: RunSettings) -> Engine:
    """Return the engine that was asked for.

    Raises:
        ConfigError: if the settings do not go together.
    """
    if settings.engine == "ray":
        return RayEngine(
            settings.ray_address,
            cpus_per_cell=settings.cpus_per_cell,
            gpus_per_cell=settings.gpus_per_cell,
            slots=settings.jobs,
        )
    if settings.ray_address is not None or settings.gpus_per_cell:
        raise ConfigError("--ray-address and --gpus-per-cell need --engine ray")
    return PoolEngine(_pool_slots(settings))


def _pool_slots(settings: RunSettings) -> int:
    if settings.jobs is not None:
        return settings.jobs
    if settings.cpus_per_cell <= 0:
        raise ConfigError(f"--cpus-per-cell must be above 0, got {settings.cpus_per_cell:g}")
    return max(1, int((os.cpu_count() or 1) // settings.cpus_per_cell))


def _keep_study(store: CellStore, study: Study, console: Console) -> None:
    """Write the study file with the seeds of earlier runs too; put aside what it left out."""
    before = store.study_file()
    earlier = () if before is None else before.seeds
    every = study.with_seeds(tuple(sorted({*study.seeds, *earlier})))
    store.write_study(every)
    gone, back = store.retire(cell.id for cell in plan_cells(every, RUNNER))
    if gone:
        console.say(
            f"{gone} cells are of an earlier form of the study, of a reward's source or of the "
            f"data: put aside in {store.path / 'retired'}"
        )
    if back:
        console.say(f"{back} cells of an earlier form of the study are of use again")


def _show_plan(
    store: CellStore, cells: Sequence[Cell], settings: RunSettings, console: Console
) -> None:
    for cell in cells:
        console.say(f"{cell.id}  {store.state(cell.id):<8}{cell.label}")
    todo = owed(store, cells, retry_failed=settings.retry_failed)
    console.say(f"{len(cells)} cells, {len(todo)} to run, in {store.path}")

    def probe(unknown: Sequence[Cell]) -> list[float]:
        console.say("Short runs tell the time (--no-probe leaves them out) ...")
        return probe_cells(unknown, PoolEngine(1))

    told = estimate(store, todo, cells, probe if settings.probe else None)
    console.say(f"Time: {told.words(_pool_slots(settings))}")


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[Event], None]]:
    """Yield a function that prints a line a cell, above a bar on a terminal."""
    done = 0

    def say(event: Event) -> None:
        nonlocal done
        done += 1
        how = f"FAILED: {event.error}" if event.error else "done"
        where = " by another process" if event.elsewhere else f" in {duration(event.seconds)}"
        end = "" if event.error else where
        console.say(f"[{done:>{len(str(total))}}/{total}] {event.cell.label}: {how}{end}")

    if not console.rich.is_terminal:
        yield say
        return
    with console.progress("cells", total) as advance:

        def say_and_advance(event: Event) -> None:
            say(event)
            advance("")

        yield say_and_advance


def _say_end(store: CellStore, cells: Sequence[Cell], ran: int, console: Console) -> int:
    states = [store.state(cell.id) for cell in cells]
    failed = states.count("failed")
    console.say(
        f"{states.count('done')} of {len(cells)} cells are finished, {failed} failed; "
        f"{ran} ended in this run. Study folder: {store.path}"
    )
    if failed:
        _say_failures(store, cells, console)
        console.say("Try them again with --retry-failed.")
    return failed


def _say_failures(store: CellStore, cells: Sequence[Cell], console: Console) -> None:
    for cell in cells:
        failure = store.failure(cell.id)
        if failure:
            console.say(
                f"{cell.id} ({cell.label}) failed, attempts: {failure['attempts']}. "
                f"{failure['error']}"
            )


def _report(store: CellStore, console: Console) -> None:
    """Write summary and report, and print the verdict on each design."""
    from textenvs.benchmark.report import write_report  # scipy and matplotlib are slow to import
    from textenvs.benchmark.summary import write_summary

    summary = write_summary(store.path)
    for group in summary["groups"]:
        console.say(f"{group['environment']} / {group['agent']}: {group['best']['words']}")
        for design in group["designs"]:
            console.say(f"  {design['name']}: {design['verdict']}")
    console.say(f"Report: {write_report(store.path)}")


def _study_folder(path: Path | None, usage: str) -> CellStore:
    if path is None:
        raise ConfigError(f"name the study's folder: {usage}")
    store = CellStore(path)
    if store.study_file() is None:
        raise ConfigError(f"{path} is no study folder: it holds no study.toml")
    return store
