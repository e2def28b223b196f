"""The cells of one environment and agent, as arrays over seeds, checkpoints and prompts."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from textenvs.benchmark.results import CellResult, StudyResults


@dataclass(frozen=True)
class DesignRuns:
    """One design: S finished seeds, C checkpoints that all of them have, P prompts.

    Attributes:
        name: Of the design.
        ids: S cell ids.
        seeds: S seeds of training.
        failed: Cells that failed.
        missing: Cells that have not ended, or never began.
        numbers: int [C], the checkpoints; the first is before training.
        timesteps: float64 [S, C], tokens trained on.
        episodes: float64 [S, C].
        metrics: Metric -> float64 [S, C], of whole checkpoints.
        answers: `proxy`, `kl`, `length`, `win`, `gold/NAME`, `term/NAME` -> float64 [S, C, P].
        completions: S x C x P texts.
    """

    name: str
    ids: tuple[str, ...]
    seeds: tuple[int, ...]
    failed: int
    missing: int
    numbers: np.ndarray
    timesteps: np.ndarray
    episodes: np.ndarray
    metrics: Mapping[str, np.ndarray]
    answers: Mapping[str, np.ndarray]
    completions: tuple[tuple[tuple[str, ...], ...], ...]

    def scores(self, metric: str) -> np.ndarray | None:
        """Return a metric with a value for every answer, or else for every checkpoint.

        Returns:
            float64 [S, C, P] or [S, C, 1]; gaps between answers hold the mean of their row.
            None if the design does not have it.
        """
        if metric in self.answers:
            return _closed(self.answers[metric])
        if metric in self.metrics:
            return self.metrics[metric][:, :, None]
        return None

    def whole(self, *metrics: str) -> list[np.ndarray] | None:
        """Return metrics of the seeds that have all of them at every checkpoint.

        Returns:
            Each float64 [S', C, P or 1]; None if one is absent, or no seed is left.
        """
        tables = [self.scores(metric) for metric in metrics]
        if any(table is None for table in tables):
            return None
        known = [table for table in tables if table is not None]
        kept = np.all([~np.isnan(t).any(axis=(1, 2)) for t in known], axis=0)
        return [table[kept] for table in known] if kept.any() else None

    @property
    def kl(self) -> str:
        """The metric that holds the KL to the reference, in nats a sequence."""
        return "kl" if "kl" in self.answers else "kl_sequence"

    def rows_of(self, seeds: Sequence[int]) -> list[int]:
        """Return the rows of some seeds, in the order given."""
        return [self.seeds.index(seed) for seed in seeds]


@dataclass(frozen=True)
class Group:
    """The designs that are compared with each other.

    Attributes:
        environment: Name in the study file.
        agent: Name in the study file.
        gold: `gold/NAME`; None if the study names no gold metric, or no answer has it.
        designs: In the order of the study file; some may have no finished seed.
    """

    environment: str
    agent: str
    gold: str | None
    designs: tuple[DesignRuns, ...]

    def common(self, metric: str, a: DesignRuns, b: DesignRuns) -> tuple[np.ndarray, np.ndarray]:
        """Return a metric of two designs for the seeds that both have, float64 [S', C, P].

        S' is 0 where one of them does not have the metric.
        """
        seeds = [seed for seed in a.seeds if seed in b.seeds]
        of_a, of_b = a.scores(metric), b.scores(metric)
        if of_a is None or of_b is None:
            return np.zeros((0, 1, 1)), np.zeros((0, 1, 1))
        return of_a[a.rows_of(seeds)], of_b[b.rows_of(seeds)]


def groups_of(results: StudyResults) -> list[Group]:
    """Return the cells of a study by environment and agent, in their order."""
    places: dict[tuple[str, str], dict[str, list[CellResult]]] = {}
    for cell in results.cells:
        designs = places.setdefault((cell.environment, cell.agent), {})
        designs.setdefault(cell.design, []).append(cell)
    return [_group(*place, designs) for place, designs in places.items()]


def _group(environment: str, agent: str, designs: Mapping[str, list[CellResult]]) -> Group:
    cells = [cell for of_design in designs.values() for cell in of_design]
    prompts: dict[str, int] = {}
    for cell in cells:
        for prompt in cell.answers.prompt_ids if cell.answers else ():
            prompts.setdefault(prompt, len(prompts))
    runs = tuple(_runs(name, of_design, prompts) for name, of_design in designs.items())
    golds = sorted({f"gold/{cell.gold}" for cell in cells if cell.gold is not None})
    measured = [g for g in golds if any(run.scores(g) is not None for run in runs)]
    return Group(environment, agent, measured[0] if measured else None, runs)


def _runs(name: str, cells: Sequence[CellResult], prompts: Mapping[str, int]) -> DesignRuns:
    done = [cell for cell in cells if cell.status == "finished" and cell.checkpoints]
    numbers = [c.number for c in done[0].checkpoints] if done else []
    for cell in done:
        has = {checkpoint.number for checkpoint in cell.checkpoints}
        numbers = [number for number in numbers if number in has]
    picked = [[c for c in cell.checkpoints if c.number in numbers] for cell in done]
    shape = (len(done), len(numbers))
    names = dict.fromkeys(name for row in picked for c in row for name in c.metrics)
    metrics = {
        name: np.array([[c.metrics.get(name, np.nan) for c in row] for row in picked])
        for name in names
    }
    return DesignRuns(
        name,
        tuple(str(cell.id) for cell in done),
        tuple(cell.seed for cell in done),
        sum(cell.status == "failed" for cell in cells),
        sum(cell.status == "missing" for cell in cells),
        np.array(numbers, np.int64),
        np.array([[c.timesteps for c in row] for row in picked]).reshape(shape),
        np.array([[c.episodes for c in row] for row in picked]).reshape(shape),
        metrics,
        _answers(done, numbers, prompts),
        tuple(_completions(cell, numbers) for cell in done),
    )


def _answers(
    cells: Sequence[CellResult], numbers: Sequence[int], prompts: Mapping[str, int]
) -> dict[str, np.ndarray]:
    tables: dict[str, np.ndarray] = {}
    shape = (len(cells), len(numbers), len(prompts))
    for s, cell in enumerate(cells):
        if cell.answers is None:
            continue
        place = {number: c for c, number in enumerate(cell.answers.checkpoints)}
        known = [c for c, number in enumerate(numbers) if number in place]
        rows = [place[numbers[c]] for c in known]
        columns = [prompts[prompt] for prompt in cell.answers.prompt_ids]
        for name, values in cell.answers.values.items():
            table = tables.setdefault(name, np.full(shape, np.nan))
            table[s][np.ix_(known, columns)] = values[rows]
    return tables


def _completions(cell: CellResult, numbers: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    if cell.answers is None:
        return ()
    texts = dict(zip(cell.answers.checkpoints, cell.answers.completions, strict=True))
    return tuple(texts.get(number, ()) for number in numbers)


def most_common_share(texts: Sequence[str]) -> float:
    """Return how many of the texts are the most frequent one, as a share; NaN without any."""
    if not texts:
        return float("nan")
    return Counter(texts).most_common(1)[0][1] / len(texts)


def _closed(scores: np.ndarray) -> np.ndarray:
    """Return scores with the mean of its row in each gap; a row without any score stays NaN."""
    gaps = np.isnan(scores)
    if not gaps.any():
        return scores
    counts = (~gaps).sum(axis=-1, keepdims=True)
    sums = np.where(gaps, 0.0, scores).sum(axis=-1, keepdims=True)
    means = np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)
    return np.where(gaps, means, scores)
