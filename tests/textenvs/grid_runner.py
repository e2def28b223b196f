"""A runner of cells that takes no time: measures that its config and its seed decide.

Imported by name in the processes of an engine, as a user's own runner is.
"""

import hashlib
import json
import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from textenvs.errors import UnknownNameError

OPTIONS = {"fate": "fine", "noise": False, "flag": "", "ran": ""}
"""`fate`: "fine", "raise", "exit", "segfault", "once" (fails the first time); `flag`: a file
whose being there the fate "once" looks at; `ran`: a file that gets a line a run."""

SLEEP = "GRID_RUNNER_SLEEP_S"
"""Variable of the environment: what a cell takes; no part of its config, as no delay is."""


def resolve_cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    if cell["kind"] == "preparation":
        return dict(cell)
    options = cell["agent"]["options"]
    for name in options:
        if name not in OPTIONS:
            raise UnknownNameError("option of the runner", name, OPTIONS)
    return {**cell, "agent": {**cell["agent"], "options": {**OPTIONS, **options}}}


def run_cell(cell: Mapping[str, Any], folder: Path, study: Path) -> None:
    if cell["kind"] == "preparation":
        (folder / "model").mkdir()
        (folder / "model" / "config.json").write_text(json.dumps({"seed": cell["seed"]}))
        return
    options = cell["agent"]["options"]
    if options["ran"]:
        with Path(options["ran"]).open("a") as stream:
            stream.write(f"{cell['id']}\n")
    _meet(options["fate"], options["flag"])
    start = "base"
    if cell["needs"]:
        start = (study / "cells" / cell["needs"][0] / "model" / "config.json").read_text()
    for file in ("checkpoints.jsonl", "answers.jsonl", "rollouts.jsonl"):
        with (folder / file).open("w") as stream:
            for number in range(3):
                time.sleep(float(os.environ.get(SLEEP, 0)) / 9)
                stream.write(json.dumps(_row(cell, start, file, number)) + "\n")
                stream.flush()


def _row(cell: Mapping[str, Any], start: str, file: str, number: int) -> dict[str, Any]:
    text = json.dumps([cell["id"], start, file, number])
    noise = os.urandom(4).hex() if cell["agent"]["options"]["noise"] else ""
    value = int(hashlib.sha256((text + noise).encode()).hexdigest()[:8], 16) / 2**32
    if file != "checkpoints.jsonl":
        return {
            "checkpoint": number,
            "prompt_id": f"p{number}",
            "proxy": value,
            "kl": value,
            "length": 4,
            "win": 0.5,
            "completion": "x",
            "prompt": "?",
            "tokens": ["x"],
            "token_rewards": [value],
            "token_kl": [value],
        }
    seconds = {"rollout": time.perf_counter()}
    place = {"update": number, "timesteps": 4 * number, "episodes": number}
    metrics = {"proxy": value, "kl_sequence": float(number), "gold/correct": value}
    return {"checkpoint": number, **place, "metrics": metrics, "seconds": seconds}


def _meet(fate: str, flag: str) -> None:
    if fate == "raise":
        raise ValueError("the dummy was told to fail")
    if fate == "exit":
        raise SystemExit("enough")
    if fate == "segfault":
        os.kill(os.getpid(), signal.SIGSEGV)
    if fate == "once" and not Path(flag).exists():
        Path(flag).touch()
        raise RuntimeError("the first time")
