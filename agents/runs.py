"""Run folders: the settings, the metrics and the checkpoints of one run.

`config.toml`, `metrics.jsonl` (one line an update), `episodes.jsonl` (some episodes of
each update, as `textenvs.recording` writes them and `textenvs replay` reads them),
`checkpoints/step-N/`, and `manifest.json`, written last: a folder that holds it is whole.
"""

import dataclasses
import importlib.metadata
import json
import math
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import tomli_w

from agents.machine import machine
from textenvs.errors import ConfigError
from textenvs.files import write_text as write_text

MANIFEST = "manifest.json"
PACKAGES = ("textenvs", "gymnasium", "numpy", "torch", "transformers", "peft", "rapidfuzz")


class RunFolder:
    """A folder that one run writes to; every file appears whole or not at all."""

    def __init__(self, path: str | Path, config: Any = None) -> None:
        """Make the folder and write the settings.

        Args:
            path: Where; must not hold a finished run.
            config: A dataclass to keep as `config.toml`.

        Raises:
            ConfigError: if the folder holds a finished run, or something else.
        """
        self.path = Path(path)
        if (self.path / MANIFEST).is_file():
            raise ConfigError(f"{path} holds a finished run; choose another folder with --out")
        if self.path.is_file():
            raise ConfigError(f"{path} is a file; choose a folder with --out")
        (self.path / "checkpoints").mkdir(parents=True, exist_ok=True)
        if config is not None:
            write_text(self.path / "config.toml", tomli_w.dumps(plain(config)))

    def checkpoint(self, step: int) -> Path:
        """Return where the checkpoint of a step goes."""
        return self.path / "checkpoints" / f"step-{step}"

    @property
    def episodes(self) -> Path:
        """Where sampled episodes are recorded."""
        return self.path / "episodes.jsonl"

    def log(self, metrics: Mapping[str, Any], file: str = "metrics.jsonl") -> None:
        """Append one line; NaN and infinity become null, which JSON has no other word for."""
        line = json.dumps(_finite(metrics), ensure_ascii=False)
        with (self.path / file).open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")

    def finish(self, summary: Mapping[str, Any]) -> None:
        """Write the manifest: what was run, with which versions, and what came out."""
        manifest = {
            "finished": datetime.now(UTC).isoformat(timespec="seconds"),
            "python": platform.python_version(),
            "machine": machine(),
            "packages": package_versions(),
            "summary": _finite(summary),
        }
        write_text(self.path / MANIFEST, json.dumps(manifest, indent=2, ensure_ascii=False) + "\n")


def package_versions() -> dict[str, str | None]:
    """Return the installed version of each of `PACKAGES`, None for one that is absent."""
    return {name: _version(name) for name in PACKAGES}


def free_folder(name: str) -> Path:
    """Return `runs/NAME`, or `runs/NAME-2`, ... if earlier runs stand there."""
    path, number = Path("runs") / name, 1
    while path.exists():
        number += 1
        path = Path("runs") / f"{name}-{number}"
    return path


def plain(config: Any) -> dict[str, Any]:
    """Return a dataclass as nested dicts of what TOML can hold; None is left out."""
    return {
        key: value
        for key, value in ((k, _plain_value(v)) for k, v in _items(config))
        if value is not None
    }


def _items(config: Any) -> list[tuple[str, Any]]:
    if isinstance(config, Mapping):
        return list(config.items())
    return [(f.name, getattr(config, f.name)) for f in dataclasses.fields(config)]


def _plain_value(value: Any) -> Any:
    if dataclasses.is_dataclass(value) or isinstance(value, Mapping):
        return plain(value)
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, (list, tuple)):
        return [_plain_value(item) for item in value]
    return value


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None
