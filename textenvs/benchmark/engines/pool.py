"""The default engine: fresh interpreters on this machine, one torch thread each."""

import dataclasses
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType

from textenvs.benchmark.engines.job import ONE_THREAD, Job, Outcome
from textenvs.errors import ConfigError

DYING_S = 10.0
"""What a worker may take to end once it has hung up, writing its core to the disk perhaps."""
LOG_TAIL = 4000
"""Characters of a dead worker's output that are kept."""


class PoolEngine:
    """A pool of worker processes.

    Each is a new interpreter, not a fork, started when it is first needed and used for one
    cell after the other. One that dies is a failed cell and is replaced; the others go on.
    """

    def __init__(self, slots: int) -> None:
        """Choose how many cells run side by side.

        Raises:
            ConfigError: if that is below 1.
        """
        if slots < 1:
            raise ConfigError(f"--jobs must be at least 1, got {slots}")
        self.slots = slots
        self._idle: list[_Worker] = []
        self._busy: list[_Worker] = []
        self._selector = selectors.DefaultSelector()

    def submit(self, job: Job) -> None:
        """Start a job."""
        worker = self._idle.pop() if self._idle else _Worker()
        self._busy.append(worker)
        self._selector.register(worker.answers, selectors.EVENT_READ, worker)
        worker.give(job)

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return the jobs that have ended since, at once if some have; [] when time is up."""
        if not self._busy:
            time.sleep(timeout_s)
            return []
        outcomes = []
        for key, _ in self._selector.select(timeout_s):
            worker: _Worker = key.data
            self._selector.unregister(worker.answers)
            self._busy.remove(worker)
            outcome = worker.take()
            outcomes.append(outcome)
            if worker.is_alive:
                self._idle.append(worker)
        return outcomes

    def __enter__(self) -> "PoolEngine":
        """Return the engine."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Kill the workers."""
        for worker in (*self._idle, *self._busy):
            worker.kill()
        self._idle, self._busy = [], []
        self._selector.close()


class _Worker:
    """One process of the pool.

    Attributes:
        answers: The file descriptor its outcomes come from.
        is_alive: Whether it can be given another job.
    """

    def __init__(self) -> None:
        """Start it."""
        its_requests, mine = os.pipe()
        self.answers, its_answers = os.pipe()
        module = "textenvs.benchmark.engines.worker"
        command = [sys.executable, "-X", "faulthandler", "-m", module]
        self._process = subprocess.Popen(
            [*command, str(its_requests), str(its_answers)],
            stdin=subprocess.DEVNULL,
            env={**os.environ, **ONE_THREAD},
            pass_fds=(its_requests, its_answers),
        )
        os.close(its_requests)
        os.close(its_answers)
        self._requests = os.fdopen(mine, "w", encoding="utf-8")
        self._job: Job | None = None
        self._start = 0.0
        self.is_alive = True

    def give(self, job: Job) -> None:
        """Have it run a job."""
        self._job, self._start = job, time.perf_counter()
        try:
            self._requests.write(json.dumps(dataclasses.asdict(job)) + "\n")
            self._requests.flush()
        except BrokenPipeError:
            pass  # it has died; `take` says so

    def take(self) -> Outcome:
        """Return what came of its job; called when there is something to read."""
        assert self._job is not None
        line = self._line()
        if line.endswith(b"\n"):
            return Outcome(**json.loads(line))
        seconds = time.perf_counter() - self._start
        try:
            self._process.wait(DYING_S)
        except subprocess.TimeoutExpired:
            pass  # its pipe is closed and it lives: `kill` ends that
        self.kill()
        cause = cause_of_death(self._process.returncode)
        return Outcome(self._job.id, seconds, cause, _tail(Path(self._job.log)))

    def kill(self) -> None:
        """End it, whatever it does."""
        self.is_alive = False
        self._process.kill()
        self._process.wait()
        try:
            self._requests.close()
        except BrokenPipeError:
            pass
        os.close(self.answers)

    def _line(self) -> bytes:
        """Return the line it answers with; a shorter one without an end if it dies."""
        line = b""
        while not line.endswith(b"\n"):
            piece = os.read(self.answers, 65536)
            if not piece:
                break
            line += piece
        return line


def cause_of_death(code: int) -> str:
    """Return the exit code of a worker in words."""
    if code >= 0:
        return f"the worker process ended with exit code {code}"
    name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
    hint = "; the system may have run out of memory" if name == "SIGKILL" else ""
    return f"the worker process died of {name}{hint}"


def _tail(path: Path) -> str:
    return path.read_text("utf-8", errors="replace")[-LOG_TAIL:] if path.is_file() else ""
