"""A cell: one training run of a study, named by the hash of everything it depends on."""

import importlib.metadata
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from textenvs.benchmark.fingerprints import canonical, text_hash

PACKAGES = ("textenvs", "gymnasium", "numpy", "rapidfuzz", "torch", "transformers", "peft")
UNHASHED = ("id", "versions")


@dataclass(frozen=True)
class Cell:
    """One training run, or the preparation of a start model that several runs share.

    Attributes:
        id: 16 hexadecimal digits.
        config: Everything that decides the outcome, JSON-able: `kind` ("cell" or
            "preparation"), `runner`, `environment`, `gold`, `design`, `agent`, `evaluation`,
            `seed`, `needs`, `hashes`; see docs/benchmark.md.
    """

    id: str
    config: Mapping[str, Any]

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Cell":
        """Return the cell of a resolved config; what does not decide the outcome is left out."""
        kept = {name: value for name, value in config.items() if name not in UNHASHED}
        return cls(cell_id(kept), kept)

    @property
    def kind(self) -> str:
        """Either "cell" or "preparation"."""
        return str(self.config["kind"])

    @property
    def needs(self) -> tuple[str, ...]:
        """Ids of the preparations that must have been finished before."""
        return tuple(self.config["needs"])

    @property
    def seed(self) -> int:
        """The seed."""
        return int(self.config["seed"])

    @property
    def names(self) -> tuple[str, ...]:
        """The names of environment, design and agent; of a preparation, of what it has."""
        parts = (self.config.get(part, {}) for part in ("environment", "design", "agent"))
        return tuple(str(part["name"]) for part in parts if "name" in part)

    @property
    def label(self) -> str:
        """What a person calls it."""
        if self.kind == "preparation":
            model = self.config["agent"]["model"]
            return f"{' '.join(self.names)}: start model from {model}, seed {self.seed}"
        return f"{' / '.join(self.names)}, seed {self.seed}"

    def record(self) -> dict[str, Any]:
        """Return what `cell.json` holds: id, config, and the versions of this moment."""
        return {"id": self.id, **self.config, "versions": versions()}


def cell_id(config: Mapping[str, Any]) -> str:
    """Return the hash of a resolved config, 16 hexadecimal digits.

    Raises:
        ValueError: if a number is not finite.
        TypeError: if JSON cannot hold a value.
    """
    return text_hash(canonical(config))


def versions() -> dict[str, str | None]:
    """Return the versions of Python and of the packages that a result may depend on."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = None
    return found
