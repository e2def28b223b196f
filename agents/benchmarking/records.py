"""The files a cell leaves: checkpoints, answers, rollouts, metrics of the updates."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agents.benchmarking.held_out import HeldOutAnswer, finite
from agents.runs import write_text

CHECKPOINTS, ANSWERS, ROLLOUTS, UPDATES = (
    "checkpoints.jsonl",
    "answers.jsonl",
    "rollouts.jsonl",
    "updates.jsonl",
)
TIMINGS = ("seconds_", "_per_second")
"""What the names of metrics that no two runs share begin or end with."""


class CellRecords:
    """Writes the records of one cell; what an earlier attempt left is overwritten.

    All but the `seconds` of `checkpoints.jsonl` is the same in every run of a cell on a CPU.
    """

    def __init__(self, folder: Path) -> None:
        """Begin the files.

        Args:
            folder: Of the cell; made if need be.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        for name in (CHECKPOINTS, ANSWERS, ROLLOUTS, UPDATES):
            (folder / name).unlink(missing_ok=True)

    def update(self, metrics: Mapping[str, Any]) -> None:
        """Add the metrics of an update, less its timings."""
        kept = {
            name: finite(value)
            for name, value in metrics.items()
            if not name.startswith(TIMINGS[0]) and not name.endswith(TIMINGS[1])
        }
        self._append(UPDATES, [kept])

    def checkpoint(self, row: Mapping[str, Any], answers: Iterable[HeldOutAnswer]) -> None:
        """Add a checkpoint and its answers.

        Args:
            row: The line of `checkpoints.jsonl`.
            answers: To the held-out prompts.
        """
        number = row["checkpoint"]
        self._append(ANSWERS, ({"checkpoint": number, **a.answer_row()} for a in answers))
        self._append(CHECKPOINTS, [row])

    def rollouts(self, answers: Iterable[HeldOutAnswer]) -> None:
        """Write the answers of the last checkpoint, token by token."""
        write_text(self.folder / ROLLOUTS, "".join(_line(a.rollout_row()) for a in answers))

    def _append(self, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        with (self.folder / name).open("a", encoding="utf-8") as stream:
            stream.write("".join(map(_line, rows)))


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n"
