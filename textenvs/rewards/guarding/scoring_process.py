"""The guard's end of a scoring process: start it, ask it with a deadline, kill it."""

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import time
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from textenvs.errors import ConfigError, RewardError
from textenvs.rewards.guarding import scoring_worker
from textenvs.rewards.guarding.scored_batch import Failure, ScoredBatch
from textenvs.rewards.guarding.scoring_messages import RequestWriter, from_json, portable
from textenvs.rewards.guarding.scoring_worker import receive_message, send_message
from textenvs.types import Episode

START_S = 120.0
"""What the interpreter, the imports and the reward's own construction may take."""
KILL_S = 10.0
"""What a supervisor may take to kill its worker, before it is killed itself."""


class ScoringProcess:
    """A process with a reward in it, which can be killed at any moment.

    It dies with this object, with the interpreter, and with the process that holds either.

    Attributes:
        owner: Id of the process that started it; a forked copy of this object is void.
        asked: How many batches it was given.
    """

    def __init__(
        self,
        reward: Any,
        *,
        state: Mapping[str, Any],
        allow_unscored: bool,
        memory_bytes: int | None,
    ) -> None:
        """Start a process and wait until it is ready.

        Args:
            reward: The name of a reward, or an object to send.
            state: What the reward is to go on from; {} for none.
            allow_unscored: As in `score_batch`.
            memory_bytes: What it may take, over what it holds once the reward is there.

        Raises:
            ConfigError: if the reward cannot be sent.
            RewardError: if the process does not start.
        """
        named = isinstance(reward, str)
        start = {
            "path": sys.path,
            "name": reward if named else None,
            "reward": None if named else portable(reward, "the reward"),
            "state": state,
            "allow_unscored": allow_unscored,
            "memory_bytes": memory_bytes,
        }
        self.owner, self.asked = os.getpid(), 0
        self._requests = RequestWriter()
        self._connection, theirs = socket.socketpair()
        with theirs:
            self._program = subprocess.Popen(
                # -P: the folder of the script is no place to import from
                [
                    sys.executable,
                    "-P",
                    scoring_worker.__file__,
                    str(theirs.fileno()),
                    f"{self.owner}",
                ],
                stdin=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,  # an interrupt from the terminal is not for it
            )
        self._end = weakref.finalize(self, _end, self._program, self._connection, self.owner)
        deadline = time.monotonic() + START_S
        try:
            send_message(self._connection, pickle.dumps(start), deadline)
            why = json.loads(receive_message(self._connection, deadline))
        except TimeoutError:
            why = f"it was not ready after {START_S:g} s"
        except OSError:
            why = self.stop()
        except BaseException:
            self.stop()
            raise
        if why is not None:
            self.stop()
            raise RewardError(f"the scoring process did not start: {why}")

    def ask(
        self, episodes: Sequence[Episode], timeout_s: float
    ) -> tuple[ScoredBatch | Failure, dict[str, Any] | None]:
        """Score a batch; return what came of it, and the reward's state if that has changed.

        Raises:
            TimeoutError: if it takes longer than `timeout_s`; the process must then be stopped.
            OSError: if the process is dead.
            ConfigError: if a prompt cannot be sent.
        """
        request = self._requests.request(episodes)
        deadline = time.monotonic() + timeout_s
        self.asked += 1
        send_message(self._connection, request, deadline)
        return from_json(receive_message(self._connection, deadline))

    def stop(self) -> str:
        """Kill the process, and those it has started; return how it had ended if it had."""
        code = self._end()
        return _cause(0 if code is None else code)


def _end(program: "subprocess.Popen[bytes]", connection: socket.socket, owner: int) -> int:
    """Have a process ended by its supervisor; return its exit code."""
    connection.close()
    if os.getpid() != owner:  # a forked copy: the process is another's child
        program.returncode = 0
        return 0
    program.terminate()
    try:
        return program.wait(KILL_S)
    except subprocess.TimeoutExpired:
        program.kill()
        return program.wait()


def _cause(code: int) -> str:
    """Return an exit code in words."""
    number = code - 128 if code > 128 else -code
    try:
        return f"the process died of {signal.Signals(number).name}"
    except ValueError:
        return f"the process ended with exit code {code}"


def check_platform() -> None:
    """Refuse a system on which scoring processes cannot be had.

    Raises:
        ConfigError: saying so.
    """
    if os.name != "posix" or not sys.executable:
        raise ConfigError(
            f"Guarded needs a POSIX system and a Python interpreter to start, got {sys.platform} "
            f"and {sys.executable!r}; use the reward without a guard"
        )


def check_memory_limit() -> None:
    """Refuse a system that cannot bound the memory of a process.

    Raises:
        ConfigError: saying so.
    """
    if sys.platform != "linux":
        raise ConfigError(
            f"memory_bytes needs Linux, which this is not ({sys.platform}); leave it None: "
            "timeout_s still ends a reward that takes memory without end"
        )
