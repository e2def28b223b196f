"""The checkpoints of all cells as one table, `cells.parquet`."""

import math
from pathlib import Path
from typing import Any

from textenvs.benchmark.results import CellResult, Checkpoint, StudyResults
from textenvs.errors import MissingDependencyError
from textenvs.files import replacing


def write_cells_table(results: StudyResults, path: Path) -> None:
    """Write one row a cell and checkpoint; see `textenvs.benchmark.summary` for the columns.

    Raises:
        MissingDependencyError: if pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise MissingDependencyError(
            "pyarrow", "cells.parquet", 'pip install "textenvs[bench]"'
        ) from error
    rows = [row for cell in results.cells for row in _rows(cell)]
    first = [name for name in rows[0] if "/" not in name] if rows else []
    rest = sorted({name for row in rows for name in row} - set(first))
    columns = {name: [row.get(name) for row in rows] for name in (*first, *rest)}
    with replacing(path) as partial:
        parquet.write_table(pyarrow.table(columns), partial)


def _rows(cell: CellResult) -> list[dict[str, Any]]:
    head = {
        "cell": cell.id,
        "environment": cell.environment,
        "design": cell.design,
        "agent": cell.agent,
        "seed": cell.seed,
        "status": cell.status,
        "error": cell.error,
    }
    if not cell.checkpoints:
        return [{**head, "checkpoint": None, "update": None, "timesteps": None, "episodes": None}]
    return [{**head, **_of(checkpoint)} for checkpoint in cell.checkpoints]


def _of(checkpoint: Checkpoint) -> dict[str, Any]:
    values = {
        **checkpoint.metrics,
        **{f"seconds/{name}": value for name, value in checkpoint.seconds.items()},
    }
    return {
        "checkpoint": checkpoint.number,
        "update": checkpoint.update,
        "timesteps": checkpoint.timesteps,
        "episodes": checkpoint.episodes,
        **{name: None if math.isnan(value) else value for name, value in values.items()},
    }
