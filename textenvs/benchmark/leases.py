"""Leases: which of several processes works on a cell."""

import fcntl
import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import IO


class Lease:
    """The right to work on one cell, held by this process alone.

    It is a lock of the operating system on a file, which goes when its holder ends, however
    that happens: a lease of a dead process is never in the way, and no clock is asked. The
    file's content, host, process id and time, is for people. On a network file system the
    locks must be shared between hosts, as those of NFS 4 are.
    """

    def __init__(self, path: Path, stream: IO[str]) -> None:
        """Keep the locked file; use `take`."""
        self._path, self._stream = path, stream

    @classmethod
    def take(cls, path: Path) -> "Lease | None":
        """Return the lease, None if another process holds it."""
        path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            stream = path.open("a+", encoding="utf-8")
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                stream.close()
                return None
            if _is_file(stream, path):
                break
            stream.close()  # its last holder removed the file between our opening and locking
        holder = {"host": socket.gethostname(), "pid": os.getpid(), "taken": int(time.time())}
        stream.truncate(0)
        stream.write(json.dumps(holder))
        stream.flush()
        return cls(path, stream)

    def release(self) -> None:
        """Give it back."""
        if not self._stream.closed:
            self._path.unlink(missing_ok=True)
            self._stream.close()

    def __enter__(self) -> "Lease":
        """Return the lease."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Give it back."""
        self.release()


def holder(path: Path) -> str | None:
    """Return in words who holds a lease, None if nobody does."""
    if not path.is_file():
        return None
    with path.open("r", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = stream.read()
        else:
            return None
    try:
        said = json.loads(text)
    except ValueError:  # locked, not yet written
        return "another process"
    return f"process {said['pid']} on {said['host']}"


def _is_file(stream: IO[str], path: Path) -> bool:
    """Return whether an open file is the one that now lies at a path."""
    try:
        return os.path.samestat(os.fstat(stream.fileno()), path.stat())
    except FileNotFoundError:
        return False
