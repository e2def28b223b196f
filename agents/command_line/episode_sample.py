"""Some episodes of every rollout, recorded as they were when the update began."""

from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv

from agents.batch import Batch
from agents.rollout import Rollout
from textenvs.errors import ConfigError
from textenvs.recording import EpisodeRecord, Header, RecordingWriter


class EpisodeSample:
    """A `PPO.recorder` that writes the first episodes of each rollout to a file.

    The records hold what `RecordEpisodes` writes, and the values and log-probabilities of
    the policy before the update.
    """

    def __init__(self, path: str | Path, venv: VectorEnv, count: int) -> None:
        """Make the file; see `RecordingWriter`.

        Raises:
            ConfigError: if the count is below 1, or the file is something else.
        """
        if count < 1:
            raise ConfigError(f"record_episodes must be at least 0, got {count}")
        env: Any = venv.unwrapped
        self._tokenizer, self._count = env.tokenizer, count
        self._writer = RecordingWriter(path, Header.of(venv))

    def __call__(self, rollout: Rollout, batch: Batch) -> None:
        """Write the first episodes of a rollout."""
        for row, prompt in enumerate(rollout.prompts[: self._count]):
            length = int(rollout.lengths[row])
            ids = rollout.input_ids[row, rollout.start : rollout.start + length]
            record = EpisodeRecord.of(
                rollout.infos[row],
                tokenizer=self._tokenizer,
                prompt_id=prompt.id,
                prompt=prompt.text,
                completion_ids=ids.tolist(),
                token_rewards=rollout.rewards[row, :length].tolist(),
                values=batch.values[row, :length].tolist(),
                logprobs=rollout.logprobs[row, :length].tolist(),
            )
            self._writer.append(record)
