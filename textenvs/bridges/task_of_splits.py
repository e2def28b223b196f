"""`TaskOfSplits`: the prompts and the reward behind an id, for trainers that sample themselves."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from textenvs.env import TextEnv
from textenvs.episode_batch import EpisodeBatch
from textenvs.errors import ConfigError, DoubleCountingError, UnknownNameError
from textenvs.prompts import checked_split
from textenvs.registration import list_envs
from textenvs.task_env import KL_OPTIONS
from textenvs.types import Split
from textenvs.vector_env import TextVectorEnv

DEFAULT_SPLIT: Split = "train"
"""What an environment is made of unless told otherwise."""


class TaskOfSplits:
    """A task with the prompts of each split, made when first asked for.

    Attributes:
        name: Of the environment, without namespace.
        split: The split the environment itself is of.
    """

    def __init__(self, id_or_env: Any, options: Mapping[str, Any]) -> None:
        """Make the environment of an id, or take the one given.

        Args:
            id_or_env: An id, or a `TextEnv` or `TextVectorEnv`, wrapped or not.
            options: Of the environment, where an id is given.

        Raises:
            DoubleCountingError: if the environment charges a reference KL.
            UnknownNameError: if the id or an option is unknown.
            ConfigError: if it is no text environment, or options go with one made already.
        """
        _refuse_kl(id_or_env, options)
        self._id: str | None = None
        self._options = {key: options[key] for key in options if key not in KL_OPTIONS}
        if isinstance(id_or_env, str):
            self._id, self.name = id_or_env, id_or_env.rpartition("/")[2]
            self.split: Split = checked_split(self._options.pop("split", DEFAULT_SPLIT))
            first = _made(id_or_env, self._options, self.split)
        else:
            first = _checked_env(id_or_env, self._options)
            spec = first.spec
            self.name = first.reward.name if spec is None else spec.id.rpartition("/")[2]
            self.split = DEFAULT_SPLIT if spec is None else spec.kwargs.get("split", DEFAULT_SPLIT)
        self._batches: dict[str, EpisodeBatch] = {self.split: first.batch}

    def batch(self, split: str | None = None) -> EpisodeBatch:
        """Return the task with the prompts of a split; None is the environment's own.

        Raises:
            UnknownNameError: if there is no such split.
            ConfigError: if the environment was given as an object, of another split.
        """
        split = checked_split(self.split if split is None else split)
        if split not in self._batches:
            if self._id is None:
                raise ConfigError(
                    f"this environment holds the prompts of the split {self.split!r}, but "
                    f"{split!r} was asked for; give its id and options instead, or one made of "
                    "that split"
                )
            self._batches[split] = _made(self._id, self._options, split).batch
        return self._batches[split]


def _made(env_id: str, options: Mapping[str, Any], split: Split) -> Any:
    """Return the environment of an id, without wrappers."""
    if env_id not in gym.registry:
        raise UnknownNameError("environment", env_id, list_envs(), "Import what registers it.")
    # A task of the user's need not know the option where it has but one split.
    chosen: dict[str, Any] = {} if split == DEFAULT_SPLIT else {"split": split}
    return _checked_env(gym.make(env_id, **{**options, **chosen}), {})


def _checked_env(env: Any, options: Mapping[str, Any]) -> Any:
    """Return a text environment without its wrappers.

    Raises:
        ConfigError: if it is none, or if options are given for it.
    """
    if not isinstance(env, (gym.Env, gym.vector.VectorEnv)) or not isinstance(
        env.unwrapped, (TextEnv, TextVectorEnv)
    ):
        raise ConfigError(
            "give the id of a text environment, a TextEnv or a TextVectorEnv (SyncVectorEnv and "
            f"the like have no task of their own), got {env!r:.80}"
        )
    if options:
        raise ConfigError(
            f"the options {sorted(options)} go with an id; this environment is made already"
        )
    return env.unwrapped


def _refuse_kl(id_or_env: Any, options: Mapping[str, Any]) -> None:
    """Refuse a reference KL in the environment: a trainer that samples itself charges its own.

    Raises:
        DoubleCountingError: with the remedy.
    """
    if isinstance(id_or_env, str):
        charged = options.get("reference") is not None and bool(options.get("kl_coef"))
    else:
        from textenvs.wrappers.reference_kl import find_shaping  # imports torch

        charged = find_shaping(id_or_env) is not None
    if charged:
        raise DoubleCountingError(
            "this environment charges a reference KL, and so does the trainer, by its `beta`; "
            "leave out reference= and kl_coef=, or the ReferenceKL wrapper, and leave the KL to "
            "the trainer's beta"
        )
