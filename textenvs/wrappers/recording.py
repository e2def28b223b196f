"""Recording of the episodes of one environment, and of a batch of them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import (
    AsyncVectorEnv,
    AutoresetMode,
    SyncVectorEnv,
    VectorEnv,
    VectorWrapper,
)

from textenvs.env import TextEnv
from textenvs.errors import ConfigError
from textenvs.recording import EpisodeRecord, Header, RecordingWriter
from textenvs.tokenization import TextTokenizer
from textenvs.vector_env import TextVectorEnv
from textenvs.vector_infos import row_info


class EpisodeUnderWay:
    """What has been seen of an episode that has not ended."""

    def __init__(self, prompt_id: str, prompt: str) -> None:
        """Begin with a prompt and no token."""
        self.prompt_id, self.prompt = prompt_id, prompt
        self.tokens: list[int] = []
        self.rewards: list[float] = []
        self.values: list[float] = []
        self.logprobs: list[float] = []

    def add(self, token: int, reward: float, value: float, logprob: float) -> None:
        """Take one step; NaN where the agent did not say."""
        self.tokens.append(token)
        self.rewards.append(reward)
        self.values.append(value)
        self.logprobs.append(logprob)

    def record(self, info: Mapping[str, Any], tokenizer: TextTokenizer) -> EpisodeRecord:
        """Return the record, given the info of the last step."""
        return EpisodeRecord.of(
            info,
            tokenizer=tokenizer,
            prompt_id=self.prompt_id,
            prompt=self.prompt,
            completion_ids=self.tokens,
            token_rewards=self.rewards,
            values=_told(self.values),
            logprobs=_told(self.logprobs),
        )


class RecordEpisodes(gym.Wrapper[Any, Any, Any, Any], gym.utils.RecordConstructorArgs):
    """Write each finished episode of a text environment to a file; see `textenvs.recording`.

    As the outermost wrapper it records what the agent was paid. Episodes that a time limit
    below it cuts are recorded without a score, those that a reset abandons are not.
    """

    def __init__(self, env: gym.Env[Any, Any], path: str | Path) -> None:
        """Make the file; one with the same header is gone on with.

        Args:
            env: A `TextEnv`, possibly wrapped.
            path: The file.

        Raises:
            ConfigError: if it is no text environment, or the file is of another one.
        """
        gym.utils.RecordConstructorArgs.__init__(self, path=str(path))
        gym.Wrapper.__init__(self, env)
        self._tokenizer = _tokenizer_of(env)
        self._writer = RecordingWriter(path, Header.of(env))
        self._episode: EpisodeUnderWay | None = None
        self._value = self._logprob = np.nan

    def note(self, *, value: float | None = None, logprob: float | None = None) -> None:
        """Hand over what the agent thinks of the token it will take in the next `step`.

        Args:
            value: Its estimate of the return before the token.
            logprob: Log pi of the token; read from the action where that carries it.
        """
        self._value = np.nan if value is None else float(value)
        self._logprob = np.nan if logprob is None else float(logprob)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._episode = EpisodeUnderWay(info["prompt_id"], info["prompt"])
        self.note()
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Append one token; write the episode if it ends by it."""
        step = self.env.step(action)
        _, reward, terminated, truncated, info = step
        token, logprob = _split(action, self._logprob)
        episode, value = self._episode, self._value
        self.note()
        if episode is not None:
            episode.add(int(token), float(reward), value, float(logprob))
            if terminated or truncated:
                self._writer.append(episode.record(info, self._tokenizer))
                self._episode = None
        return step


class VectorRecordEpisodes(VectorWrapper):
    """`RecordEpisodes` for a vector environment, native or Gymnasium's own.

    Episodes are written as they end, those of one step in the order of their rows, in all
    three autoreset modes.
    """

    def __init__(self, env: VectorEnv, path: str | Path) -> None:
        """Make the file; arguments as in `RecordEpisodes`."""
        super().__init__(env)
        self._tokenizer = _tokenizer_of(env)
        self._same_step = env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
        self._writer = RecordingWriter(path, Header.of(env))
        self._episodes: list[EpisodeUnderWay | None] = [None] * env.num_envs
        self._values = self._logprobs = np.full(env.num_envs, np.nan)

    def note(self, *, values: Any = None, logprobs: Any = None) -> None:
        """Hand over what the agent thinks of the tokens it will take in the next `step`.

        Args:
            values: float [B], its estimates of the return before the tokens.
            logprobs: float [B], log pi of the tokens; read from the actions where they carry it.

        Raises:
            ConfigError: if there is not one a row.
        """
        self._values = self._one_a_row("values", values)
        self._logprobs = self._one_a_row("logprobs", logprobs)

    def _one_a_row(self, name: str, given: Any) -> np.ndarray:
        if given is None:
            return np.full(self.num_envs, np.nan)
        values = np.array(given, np.float64)
        if values.shape != (self.num_envs,):
            raise ConfigError(
                f"{name} must have the shape ({self.num_envs},), one a row, got {values.shape}"
            )
        return values

    def reset(
        self, *, seed: Any = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin an episode in every row, or in those of the mask."""
        observation, info = self.env.reset(seed=seed, options=options)
        self._begin(info)
        self.note()
        return observation, info

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Append one token to each row; write the episodes that end."""
        step = self.env.step(actions)
        _, rewards, terminated, truncated, info = step
        tokens, logprobs = _split(actions, self._logprobs)
        finals = info.get("final_info", {}) if self._same_step else info
        for row, episode in enumerate(self._episodes):
            if episode is None:  # the row was reset by this step
                continue
            value, logprob = float(self._values[row]), float(logprobs[row])
            episode.add(int(tokens[row]), float(rewards[row]), value, logprob)
            if terminated[row] or truncated[row]:
                self._writer.append(episode.record(row_info(finals, row), self._tokenizer))
                self._episodes[row] = None
        self._begin(info)
        self.note()
        return step

    def _begin(self, info: Mapping[str, Any]) -> None:
        """Begin an episode in each row whose info has a prompt."""
        for row in np.flatnonzero(info.get("_prompt_id", ())).tolist():
            self._episodes[row] = EpisodeUnderWay(info["prompt_id"][row], info["prompt"][row])


def _tokenizer_of(env: Any) -> TextTokenizer:
    base: Any = env.unwrapped
    if isinstance(base, (TextEnv, TextVectorEnv)):
        return base.tokenizer
    if isinstance(base, (SyncVectorEnv, AsyncVectorEnv)):
        try:
            tokenizer = base.get_attr("tokenizer")[0]
        except AttributeError:
            tokenizer = None
        if isinstance(tokenizer, TextTokenizer):
            return tokenizer
    raise ConfigError(
        f"{base!r} is no text environment; wrap a TextEnv in RecordEpisodes, a TextVectorEnv or "
        "Gymnasium's vector environment of them in VectorRecordEpisodes"
    )


def _split(action: Any, logprob: Any) -> tuple[Any, Any]:
    """Return the token of an action, and log pi of it: as noted, or as the action says."""
    if not isinstance(action, Mapping):
        return action, logprob
    said = np.asarray(action.get("logprob", logprob), np.float64)
    return action["token"], np.where(np.isnan(logprob), said, logprob)


def _told(values: Sequence[float]) -> Sequence[float] | None:
    """Return the values, or None where the agent said nothing at all."""
    return None if np.isnan(values).all() else values
