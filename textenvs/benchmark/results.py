"""What the cells of a study left on disk, read into arrays."""

import json
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from textenvs.errors import CheckpointError, ConfigError

Status = Literal["finished", "failed", "missing"]
PER_ANSWER = ("proxy", "kl", "length", "win")
"""Numbers of every answer; gold metrics and reward terms come on top."""


@dataclass(frozen=True)
class Checkpoint:
    """One evaluation of a cell.

    Attributes:
        number: 0 is before training.
        update: Updates done.
        timesteps: Tokens trained on.
        episodes: Episodes trained on.
        metrics: Metric -> value; NaN where it has none.
        seconds: Part of the work -> seconds since the checkpoint before.
    """

    number: int
    update: int
    timesteps: float
    episodes: float
    metrics: Mapping[str, float]
    seconds: Mapping[str, float]


@dataclass(frozen=True)
class Answers:
    """The answers of a cell to its held-out prompts, C checkpoints x P prompts.

    Attributes:
        checkpoints: int [C], their numbers.
        prompt_ids: P names, in the order of the file.
        values: Name -> float64 [C, P]: `proxy`, `kl` (nats a sequence), `length` (tokens),
            `win` (1, 0.5 or 0), `gold/NAME`, `term/NAME`. NaN: no such answer, or no score.
        completions: C x P texts.
    """

    checkpoints: tuple[int, ...]
    prompt_ids: tuple[str, ...]
    values: Mapping[str, np.ndarray]
    completions: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class CellResult:
    """One cell: a design trained by an agent in an environment from a seed.

    Attributes:
        id: Its id; None if the cell was planned and never begun.
        environment: Name in the study file.
        design: Name in the study file.
        agent: Name in the study file.
        seed: Of training.
        status: "finished", "failed" or "missing" (never begun, or not yet ended).
        gold: Name of the gold metric, or None.
        error: What failed.
        attempts: How often a failed cell was tried.
        checkpoints: In order; none of a cell that is not finished.
        answers: None without any.
    """

    id: str | None
    environment: str
    design: str
    agent: str
    seed: int
    status: Status
    gold: str | None = None
    error: str | None = None
    attempts: int | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    answers: Answers | None = None

    @property
    def key(self) -> tuple[str, str, str, int]:
        """Its place in the grid: environment, agent, design, seed."""
        return (self.environment, self.agent, self.design, self.seed)


@dataclass(frozen=True)
class StudyResults:
    """A study as far as it got.

    Attributes:
        name: Of the study.
        cells: Every cell of the grid, in the order of the study file: environments, agents,
            designs, seeds. Those that failed or are missing are there too.
        folder: Where it was read from.
    """

    name: str
    cells: tuple[CellResult, ...]
    folder: Path | None = field(default=None, compare=False)


def load_study(folder: str | Path) -> StudyResults:
    """Read the cells of a study's folder, finished or not.

    The grid is that of `study.toml` (environments x agents x designs x seeds): what it names
    and no folder holds is a missing cell, and a folder that it does not name is left out.
    Without that file the grid is what is there.

    Args:
        folder: Holds `cells/ID/cell.json`, ...

    Raises:
        ConfigError: if the folder holds no cell, or two that claim the same place.
        CheckpointError: if a file of a cell cannot be read.
    """
    folder = Path(folder)
    study = _study_file(folder)
    found: dict[tuple[str, str, str, int], CellResult] = {}
    for path in sorted(folder.glob("cells/*/cell.json")):
        config = _json(path)
        if config.get("kind", "cell") != "cell":
            continue
        cell = load_cell(path.parent)
        if cell.key in found:
            raise ConfigError(
                f"the cells {found[cell.key].id} and {cell.id} in {folder} are both "
                f"{_told(cell.key)}: one is of an earlier form of the study file; delete it"
            )
        found[cell.key] = cell
    grid = list(_grid(study)) if study else sorted(found)
    if not grid:
        raise ConfigError(f"{folder} holds no cell of a study; run one with: textenvs bench run")
    cells = tuple(found.get(key) or _missing(key, study) for key in grid)
    return StudyResults(str(study.get("name") or folder.name), cells, folder)


def load_cell(folder: Path) -> CellResult:
    """Read the folder of one cell.

    Raises:
        CheckpointError: if a file cannot be read.
    """
    config = _json(folder / "cell.json")
    failed = folder / "FAILED.json"
    trouble: dict[str, Any] = {}
    status: Status = "finished" if (folder / "DONE.json").is_file() else "missing"
    if status != "finished" and failed.is_file():
        status, trouble = "failed", _json(failed)
    try:
        return CellResult(
            str(config["id"]),
            str(config["environment"]["name"]),
            str(config["design"]["name"]),
            str(config["agent"]["name"]),
            int(config["seed"]),
            status,
            config.get("gold"),
            trouble.get("error"),
            trouble.get("attempts"),
            tuple(_checkpoints(folder / "checkpoints.jsonl")) if status == "finished" else (),
            _answers(folder / "answers.jsonl") if status == "finished" else None,
        )
    except (KeyError, TypeError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(
            f"{folder / 'cell.json'} is no description of a cell: {error!r}"
        ) from error


def _study_file(folder: Path) -> dict[str, Any]:
    path = folder / "study.toml"
    if not path.is_file():
        return {}
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no TOML file: {error}") from error


def _grid(study: Mapping[str, Any]) -> Iterator[tuple[str, str, str, int]]:
    for environment in study.get("environments", {}):
        for agent in study.get("agents", {}):
            for design in study.get("designs", {}):
                for seed in study.get("seeds", []):
                    yield (environment, agent, design, int(seed))


def _missing(key: tuple[str, str, str, int], study: Mapping[str, Any]) -> CellResult:
    environment, agent, design, seed = key
    gold = study.get("environments", {}).get(environment, {}).get("gold")
    return CellResult(None, environment, design, agent, seed, "missing", gold)


def _told(key: tuple[str, str, str, int]) -> str:
    environment, agent, design, seed = key
    return f"{environment} / {agent} / {design} / seed {seed}"


def _checkpoints(path: Path) -> Iterator[Checkpoint]:
    for row in _lines(path):
        yield Checkpoint(
            int(row["checkpoint"]),
            int(row["update"]),
            float(row["timesteps"]),
            float(row["episodes"]),
            {name: _number(value) for name, value in row["metrics"].items()},
            {name: _number(value) for name, value in row.get("seconds", {}).items()},
        )


def _answers(path: Path) -> Answers | None:
    if not path.is_file():
        return None
    numbers: dict[int, int] = {}
    prompts: dict[str, int] = {}
    rows = []
    for row in _lines(path):
        c = numbers.setdefault(int(row["checkpoint"]), len(numbers))
        p = prompts.setdefault(str(row["prompt_id"]), len(prompts))
        rows.append((c, p, row))
    shape = (len(numbers), len(prompts))
    values: dict[str, np.ndarray] = {}
    completions = [[""] * shape[1] for _ in range(shape[0])]
    for c, p, row in rows:
        completions[c][p] = str(row.get("completion", ""))
        for name, value in _numbers_of(row):
            if name not in values:
                values[name] = np.full(shape, np.nan)
            values[name][c, p] = _number(value)
    return Answers(tuple(numbers), tuple(prompts), values, tuple(map(tuple, completions)))


def _numbers_of(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name in PER_ANSWER:
        if name in row:
            yield name, row[name]
    for name, value in (row.get("gold") or {}).items():
        yield f"gold/{name}", value
    for name, value in (row.get("terms") or {}).items():
        yield f"term/{name}", value


def _number(value: Any) -> float:
    """Return a float; null, which stands for "not scored" or "not measured", is NaN."""
    return float("nan") if value is None else float(value)


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {value!r:.60}")
    return value


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(content.splitlines(), 1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise CheckpointError(f"{path}, line {number}: this is no JSON ({error})") from error
        if not isinstance(row, dict):
            raise CheckpointError(f"{path}, line {number} must be an object, got {row!r:.60}")
        yield row
