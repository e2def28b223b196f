"""How long the cells of a study took: what may differ between two runs of the same grid."""

import math
from typing import Any

from textenvs.benchmark.results import CellResult, StudyResults

SCHEMA, VERSION = "textenvs-benchmark-timings", 1


def timings(results: StudyResults) -> dict[str, Any]:
    """Return the seconds of each finished cell, by part of the work.

    Returns:
        See `textenvs.benchmark.summary`.
    """
    rows = [_row(cell) for cell in results.cells if cell.checkpoints]
    return {"schema": SCHEMA, "version": VERSION, "cells": rows}


def _row(cell: CellResult) -> dict[str, Any]:
    seconds: dict[str, float] = {}
    for checkpoint in cell.checkpoints:
        for part, value in checkpoint.seconds.items():
            seconds[part] = seconds.get(part, 0.0) + (0.0 if math.isnan(value) else value)
    total = sum(seconds.values())
    tokens = cell.checkpoints[-1].timesteps
    return {
        "id": cell.id,
        "environment": cell.environment,
        "design": cell.design,
        "agent": cell.agent,
        "seed": cell.seed,
        **seconds,
        "total": total,
        "tokens": tokens,
        "tokens_per_second": tokens / total if total > 0 else None,
    }
