"""How long the cells that are still to be run will take."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from textenvs.benchmark.cell import Cell
from textenvs.benchmark.store import CellStore


@dataclass(frozen=True)
class Estimate:
    """The time that cells will take, from those that are finished.

    Attributes:
        seconds: Of one process for all cells that can be told; divide by the processes.
        told: Cells that can be told.
        untold: Cells none like which is finished.
        finished: Cells it was learned from.
        probed: Cells it was learned from by short runs of them.
    """

    seconds: float
    told: int
    untold: int
    finished: int
    probed: int = 0

    def words(self, slots: int) -> str:
        """Return the estimate in words, with so many cells side by side."""
        if not self.told + self.untold:
            return "nothing is left to run"
        if not self.told:
            return "unknown until a first cell is finished"
        rest = f"; {self.untold} more of a kind none of which is finished" if self.untold else ""
        wall = duration(self.seconds / min(slots, self.told))
        learned = f"{self.finished} finished cells" if self.finished else ""
        if self.probed:
            learned += f"{' and ' if learned else ''}short runs of {self.probed}"
        return f"about {wall} with {slots} side by side, from {learned}{rest}"


def estimate(
    store: CellStore,
    cells: Sequence[Cell],
    planned: Sequence[Cell],
    probe: Callable[[Sequence[Cell]], Sequence[float]] | None = None,
) -> Estimate:
    """Return how long cells will take: the median of the finished ones like them.

    Alike are cells of one environment and agent, whatever their design and seed.

    Args:
        store: The study's folder.
        cells: Still to be run.
        planned: All of the study.
        probe: Returns what each of some cells will take, in seconds; asked for one cell of
            each kind none of which is finished.
    """
    known: dict[tuple[str, ...], list[float]] = {}
    for cell in planned:
        seconds = store.seconds(cell.id)
        if seconds is not None:
            known.setdefault(_kind(cell), []).append(seconds)
    finished = sum(map(len, known.values()))
    unknown: dict[tuple[str, ...], Cell] = {}
    for cell in cells:
        if _kind(cell) not in known:
            unknown.setdefault(_kind(cell), cell)
    if probe is not None and unknown:
        for kind, seconds in zip(unknown, probe(list(unknown.values())), strict=True):
            known[kind] = [seconds]
    told = [median(known[_kind(cell)]) for cell in cells if _kind(cell) in known]
    probed = len(unknown) if probe is not None else 0
    return Estimate(sum(told), len(told), len(cells) - len(told), finished, probed)


def duration(seconds: float) -> str:
    """Return a time in words.

    >>> duration(4210.0)
    '1 h 10 min'
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


def _kind(cell: Cell) -> tuple[str, ...]:
    """Return what cells that take about the same time have in common."""
    agent = cell.config["agent"]
    return (cell.kind, str(cell.config["environment"]["name"]), str(agent.get("name", agent)))
