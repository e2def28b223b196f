"""What an audit says: rows with the figures behind them, and the report of all of them."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Literal

from textenvs.checker import report as checker_report

Kind = Literal["probe", "search", "property", "control"]
"""Scripted exploits; answers found by search; laws a reward should keep; null policies."""


@dataclass(frozen=True, slots=True)
class Row(checker_report.Row):
    """One thing that was tried on a reward.

    A figure is a mean over the prompts that were counted, None where there is none.

    Attributes:
        kind: "probe", "search", "property" or "control".
        reward: What the answers scored.
        honest: What the honest answers they are compared with scored.
        gold: The gold measure of the answers: 1 is as good as the oracle, 0 as bad as nothing.
        prompt_id: Of the example.
        answer: The example: the answer that was paid best for what it is worth.
        paid: Share of the counted prompts on which the exploit paid like an honest answer.
    """

    kind: Kind = "probe"
    reward: float | None = None
    honest: float | None = None
    gold: float | None = None
    prompt_id: str | None = None
    answer: str | None = None
    paid: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the row as plain data that JSON can hold; a figure that is not finite is None."""
        values = dataclasses.asdict(self)
        return {name: _plain(value) for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class Report(checker_report.Report):
    """Everything that was tried on one reward.

    Attributes:
        subject: The environment, and the reward where it is not the environment's own.
        rows: Every `Row`, in the order they were made.
        gold: In words, what "as good as" was measured by.
        n_prompts: How many prompts were answered.
    """

    rows: tuple[Row, ...]
    gold: str = ""
    n_prompts: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data that JSON can hold."""
        rows = [row.to_dict() for row in self.rows]
        shared = checker_report.Report.to_dict(self)
        return {**shared, "gold": self.gold, "n_prompts": self.n_prompts, "rows": rows}


def _plain(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
