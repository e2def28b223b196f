"""The file of the episodes that a guarded reward failed on, for people to look at."""

import json
import warnings
from pathlib import Path

from textenvs.errors import ConfigError
from textenvs.rewards.guarding.scored_batch import Failure
from textenvs.types import Episode

MOST_LINES = 10_000
"""What one guard writes, so that a reward that always fails does not fill the disk."""


class Quarantine:
    """Appends failed episodes to a file, as JSON lines; never raises."""

    def __init__(self, path: str | Path) -> None:
        """Keep the path; the file is made when there is something to write.

        Raises:
            ConfigError: if it is a folder.
        """
        self._path = Path(path)
        if self._path.is_dir():
            raise ConfigError(f"quarantine must be a file, but {str(path)!r} is a folder")
        self._left = MOST_LINES

    def add(self, reward: str, episode: Episode, failure: Failure) -> None:
        """Write a line, unless there are too many already; warn if that does not work.

        Args:
            reward: Name of the reward.
            episode: What it failed on.
            failure: How.
        """
        if not self._left:
            return
        self._left -= 1
        record = {
            "reward": reward,
            "kind": failure.kind,
            "error": failure.text,
            "prompt_id": episode.prompt.id,
            "completion": episode.completion,
            "finish_reason": episode.finish_reason,
        }
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            # In one write, since other processes may write here too.
            with self._path.open("ab", buffering=0) as file:
                file.write(json.dumps(record).encode() + b"\n")
        except OSError as error:
            self._left = 0  # said once is enough
            warnings.warn(
                f"{self._path} cannot be written ({error}); failed episodes are counted, but "
                "not kept",
                RuntimeWarning,
                stacklevel=2,
            )
