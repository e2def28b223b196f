"""The worker's end of the pool: `python -m textenvs.benchmark.engines.worker REQUESTS ANSWERS`.

Jobs come in and outcomes go out as lines of JSON on two pipes. A worker ends when the pipe of
jobs does, so that it never outlives who started it; even in the middle of a cell.
"""

import contextlib
import dataclasses
import json
import os
import queue
import signal
import sys
import threading
from collections.abc import Iterator

from textenvs.benchmark.engines.job import Job, run_job


def main(requests: int, answers: int) -> None:
    """Run jobs until there are none.

    Args:
        requests: File descriptor to read jobs from.
        answers: File descriptor to write outcomes to.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interrupt is for who gives the jobs
    jobs: queue.Queue[Job] = queue.Queue()
    threading.Thread(target=_read, args=(requests, jobs), daemon=True).start()
    with os.fdopen(answers, "w", encoding="utf-8") as stream:
        while True:
            job = jobs.get()
            with _printing_to(job.log):
                outcome = run_job(job)
            stream.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
            stream.flush()


def _read(requests: int, jobs: "queue.Queue[Job]") -> None:
    """Queue the jobs as they come; end the process when there can be no more."""
    with os.fdopen(requests, encoding="utf-8") as stream:
        for line in stream:
            jobs.put(Job(**json.loads(line)))
    os._exit(0)  # the main thread may be deep in a cell that nobody waits for


@contextlib.contextmanager
def _printing_to(path: str) -> Iterator[None]:
    """Have everything printed, by C code and dying gasps too, go to a file."""
    sys.stdout.flush()
    sys.stderr.flush()
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
    os.dup2(file, 1)
    os.dup2(file, 2)
    os.close(file)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
