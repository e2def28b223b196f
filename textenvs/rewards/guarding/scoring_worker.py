"""The program in which a `Guarded` reward is computed.

It is run by its path, not imported with the package, because it forks before it loads
anything. The process that was started becomes the supervisor: it waits for SIGTERM, or for
the death of the process that started it, and then kills the worker. The worker, its child,
imports the reward and answers requests. It cannot watch over itself: code that hangs in C
with the interpreter's lock runs no thread and no signal handler.

Requests are pickled, answers are JSON: the worker has read what a model wrote, so nothing
it says is ever executed.
"""

import json
import os
import pickle
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

HEADER = struct.Struct("!Q")
MOST_BYTES = 1 << 30
"""Of one message."""
CHECK_PARENT_S = 0.5
"""How often the supervisor looks whether its parent lives. The closing of a pipe would not
tell: a process that the parent has forked may hold it open."""
PR_SET_PDEATHSIG = 1


def send_message(connection: socket.socket, message: bytes, deadline: float | None = None) -> None:
    """Send a message.

    Args:
        connection: To the other process.
        message: At most `MOST_BYTES`.
        deadline: By the clock `time.monotonic`; None waits for ever.

    Raises:
        TimeoutError: if the deadline passes first.
        OSError: if the other process is gone.
    """
    _wait_until(connection, deadline)
    connection.sendall(HEADER.pack(len(message)) + message)


def receive_message(connection: socket.socket, deadline: float | None = None) -> bytes:
    """Return the next message; see `send_message` for the arguments.

    Raises:
        TimeoutError: if the deadline passes first.
        OSError: if the other process is gone, or announces more than `MOST_BYTES`.
    """
    (length,) = HEADER.unpack(_receive_bytes(connection, HEADER.size, deadline))
    if length > MOST_BYTES:
        raise ConnectionError(f"a message of {length} bytes was announced")
    return bytes(_receive_bytes(connection, length, deadline))


def _receive_bytes(connection: socket.socket, length: int, deadline: float | None) -> bytearray:
    received = bytearray(length)
    view, filled = memoryview(received), 0
    while filled < length:
        _wait_until(connection, deadline)
        count = connection.recv_into(view[filled:])
        if not count:
            raise ConnectionError("the other process closed the connection")
        filled += count
    return received


def _wait_until(connection: socket.socket, deadline: float | None) -> None:
    """Let the next operation block until the deadline."""
    if deadline is None:
        connection.settimeout(None)
        return
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the deadline has passed")
    connection.settimeout(left)


def main(arguments: list[str]) -> None:
    """Fork; see the module's description.

    Args:
        arguments: The file descriptor of the connection, the process id of the parent.
    """
    descriptor, parent = map(int, arguments)
    supervisor = os.getpid()
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})  # until someone can act on it
    worker = os.fork()
    if worker:
        os.close(descriptor)  # so that the guard sees the connection close with the worker
        supervise(worker, parent)
    _become_worker(supervisor)
    serve(socket.socket(fileno=descriptor))


def supervise(worker: int, parent: int) -> None:
    """Wait for SIGTERM or the parent's death; kill the worker; exit as it did."""
    with suppress(OSError):  # the worker does the same, and either may be first
        os.setpgid(worker, worker)
    signalled, written = os.pipe()
    os.set_blocking(written, False)
    signal.set_wakeup_fd(written)
    signal.signal(signal.SIGTERM, _do_nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    while os.getppid() == parent:
        if select.select([signalled], [], [], CHECK_PARENT_S)[0]:
            break
    with suppress(ProcessLookupError):
        os.killpg(worker, signal.SIGKILL)  # with every process the reward has started
    code = os.waitstatus_to_exitcode(os.waitpid(worker, 0)[1])
    os._exit(code if code >= 0 else 128 - code)


def _do_nothing(*signal_and_frame: object) -> None:
    """Handle SIGTERM, so that it is told to the wake-up descriptor and ends nothing."""


def _become_worker(supervisor: int) -> None:
    """Leave the supervisor's process group, and make sure not to outlive it."""
    import resource

    with suppress(OSError):
        os.setpgid(0, 0)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM})
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        # Where memory runs out, the kernel shall end this process and not the training.
        with suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
            file.write("1000")
    if os.getppid() != supervisor:
        os._exit(1)


def serve(connection: socket.socket) -> None:
    """Load the reward, then answer requests until the connection closes."""
    start = pickle.loads(receive_message(connection))
    sys.path[:] = start["path"]
    try:
        answer = _scorer(start)
        limit_memory(start["memory_bytes"])
    except BaseException as error:  # a reward may raise anything, SystemExit too
        send_message(connection, json.dumps(f"{type(error).__name__}: {error}").encode())
        return
    send_message(connection, b"null")
    while True:
        try:
            request = receive_message(connection)
        except OSError:
            return
        send_message(connection, answer(request))


def _scorer(start: Mapping[str, Any]) -> Callable[[bytes], bytes]:
    """Return the function from a request to its answer."""
    # Imported here, since the supervisor needs none of it and must not have threads.
    from textenvs.rewards import resolve_reward
    from textenvs.rewards.guarding.scoring_messages import Scorer, load_state

    spec = start["name"]
    reward = resolve_reward(pickle.loads(start["reward"]) if spec is None else spec)
    load_state(reward, start["state"])
    return Scorer(reward, allow_unscored=start["allow_unscored"]).answer


def limit_memory(memory_bytes: int | None) -> None:
    """Bound what this process may take over what it holds now; None leaves it without bounds."""
    if memory_bytes is None:
        return
    import resource

    with open("/proc/self/status") as file:
        held = next(int(line.split()[1]) for line in file if line.startswith("VmData:")) * 1024
    limit = held + memory_bytes
    hard = resource.getrlimit(resource.RLIMIT_DATA)[1]
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


if __name__ == "__main__":
    main(sys.argv[1:])
