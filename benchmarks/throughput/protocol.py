"""How `run.py` and a worker talk: one line of JSON each way over pipes, one update at a time.

Every worker, in whichever virtual environment, imports this file; it needs the standard
library alone.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

UPDATE = "update"


def memory(field: str) -> int:
    """Return a figure of this process's memory in bytes.

    Args:
        field: A row of /proc/self/status: "VmRSS", the resident set now, or "VmHWM", the
            largest it has been.
    """
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"/proc/self/status has no row {field!r}")


class Channel:
    """The worker's end. What the worker prints goes to standard error, out of the way."""

    def __init__(self) -> None:
        """Keep standard output for answers alone."""
        self.answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self.resident_before = 0

    def ready(self, **said: Any) -> None:
        """Say that everything is loaded; the resident set of now is the memory before training."""
        self.resident_before = memory("VmRSS")
        self._send({"resident_before": self.resident_before, **said})

    def wait_for_update(self) -> bool:
        """Sleep until `run.py` asks for an update; False when it has gone."""
        return sys.stdin.readline().strip() == UPDATE

    def done(self, **said: Any) -> None:
        """Answer an update: its seconds and parts, and the peak of the memory so far."""
        self._send({"peak": memory("VmHWM"), **said})

    def _send(self, message: Mapping[str, Any]) -> None:
        self.answers.write(json.dumps(message) + "\n")
        self.answers.flush()


class Worker:
    """The other end: a worker process that is idle until `update` is called."""

    def __init__(
        self, python: str, script: Path, settings: Mapping[str, Any], threads: int
    ) -> None:
        """Start a worker and wait until it is ready.

        Args:
            python: The interpreter, of the project's environment or of TRL's.
            script: The worker.
            settings: Its only argument, as JSON.
            threads: OMP_NUM_THREADS.

        Raises:
            RuntimeError: if the worker ends before it is ready.
        """
        self.name = script.stem
        environment = {
            **os.environ,
            "OMP_NUM_THREADS": str(threads),
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            **settings.get("environment", {}),
        }
        self.process = subprocess.Popen(
            [python, str(script), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=None if os.environ.get("THROUGHPUT_VERBOSE") else subprocess.DEVNULL,
            text=True,
            env=environment,
        )
        self.hello = self._receive()

    def update(self) -> dict[str, Any]:
        """Have one update made; return what the worker says of it."""
        assert self.process.stdin is not None
        self.process.stdin.write(UPDATE + "\n")
        self.process.stdin.flush()
        return self._receive()

    def close(self) -> None:
        """Let the worker go; its end of file is its signal."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(timeout=60)

    def _receive(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self.name} ended with exit code {self.process.wait()}; "
                "set THROUGHPUT_VERBOSE=1 to see what it printed"
            )
        return json.loads(line)


def settings() -> dict[str, Any]:
    """Return the settings a worker was started with."""
    return json.loads(sys.argv[1])
