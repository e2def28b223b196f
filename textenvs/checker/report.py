"""What a check says: rows, and the report of all of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args

Status = Literal["ok", "fault", "note", "skipped"]
STATUSES: tuple[Status, ...] = get_args(Status)


@dataclass(frozen=True, slots=True)
class Row:
    """One thing that was checked.

    Attributes:
        name: The check, or the check and a part of it: "floor/empty".
        status: "ok"; "fault"; "note", worth knowing and no fault; "skipped", not checked.
        words: What was found, with the figures.
    """

    name: str
    status: Status
    words: str

    @property
    def check(self) -> str:
        """The name of the check, without the part."""
        return self.name.partition("/")[0]

    def __str__(self) -> str:
        """Return the name and the words."""
        return f"{self.name}: {self.words}"


Rows = Iterator[Row]


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that was found about one environment.

    Attributes:
        subject: The environment: its id, or its class.
        rows: Every check, in the order they were made.
    """

    subject: str
    rows: tuple[Row, ...]

    @property
    def ok(self) -> bool:
        """Whether no fault was found."""
        return not self.failures

    @property
    def failures(self) -> list[Row]:
        """The rows that are faults."""
        return [row for row in self.rows if row.status == "fault"]

    def count(self, status: Status) -> int:
        """Return how many rows have a status."""
        return sum(row.status == status for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data that JSON can hold."""
        return {
            "subject": self.subject,
            "ok": self.ok,
            "counts": {status: self.count(status) for status in STATUSES},
            "rows": [
                {"name": row.name, "status": row.status, "words": row.words} for row in self.rows
            ],
        }

    def __str__(self) -> str:
        """Return one line a row."""
        width = max((len(row.name) for row in self.rows), default=0)
        return "\n".join(f"{row.status:<8}{row.name:<{width}}  {row.words}" for row in self.rows)


class Skipped(Exception):  # noqa: N818  no error: a check that cannot be made says so
    """A check, or the rest of it, cannot be made; the message says why."""


class Fault(Exception):  # noqa: N818  a finding about an environment, not an error of ours
    """A check found the environment at fault; the message says what is wrong."""
