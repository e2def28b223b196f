"""Registration: the suite, plug-ins, and `register` for an environment of one's own.

Everything Gymnasium keeps is a string or a number, so that specs round-trip through JSON;
nothing but strings is read until an id is made.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym

from textenvs.env import TextEnv
from textenvs.errors import ConfigError, RegistrationError, UnknownNameError
from textenvs.plugins import PLUGINS, check_id, register_plugins
from textenvs.prompts import PromptSource, as_source, checked_split, split_source
from textenvs.suite import SUITE
from textenvs.task_env import Task, make_task_vec, task_arguments
from textenvs.types import Split

MAKE, MAKE_VEC = (
    "textenvs.registration:make_registered",
    "textenvs.registration:make_registered_vec",
)


@dataclass(frozen=True)
class Registered:
    """A task of the user's, made an environment by `register`.

    Attributes:
        task: From options to the arguments of `TextEnv`.
        description: What it asks.
    """

    task: Task
    description: str


REGISTERED: dict[str, Registered] = {}
"""Id -> what `register` was given; the registry of Gymnasium holds only the id."""


def register_all() -> None:
    """Make the suite and the plug-ins known to `gym.make` and `gym.make_vec`."""
    for env_id, family in SUITE.items():
        if env_id not in gym.registry:
            module = family.entry_point.partition(":")[0]
            gym.register(
                env_id,
                family.entry_point,
                vector_entry_point=f"{module}:make_vec",
            )
    register_plugins()


def register(
    id: str,  # noqa: A002  the name Gymnasium gives it
    prompts: Any = None,
    reward: Any = None,
    *,
    task: Task | None = None,
    tokenizer: Any = "tiny-lm",
    max_prompt_tokens: int = 512,
    max_new_tokens: int = 32,
    stop: Sequence[str] = (),
    oracle: Callable[..., str] | None = None,
    metrics: Callable[..., Mapping[str, Any]] | None = None,
    probes: Callable[..., Mapping[str, str]] | None = None,
    description: str = "",
) -> None:
    """Make an environment of one's own known to `gym.make` and `gym.make_vec`.

    ```python
    textenvs.register("me/Polite-v0", prompts=["Ask for the salt:"], reward=polite)
    ```

    `gym.make(id, ...)` then takes the options of every task (`reward`, `tokenizer`,
    `max_new_tokens`, ...) and `split`.

    Args:
        id: `namespace/Name-vN`; the namespace may be left out.
        prompts: A list, a generator (read once, when first made), a `datasets.Dataset`, a
            file, a `PromptSource`; or a mapping from split to one of these, or a function
            from the split to one. What is not given by split is split by group, 80/10/10;
            where that leaves a split empty, every split is the whole.
        reward: A `Reward`, a function of (prompt, completion), a name.
        task: Instead of `prompts` and `reward`: a function from options to the arguments
            of `TextEnv`, for an environment with options of its own.
        tokenizer: A name, a folder, a transformers tokenizer.
        max_prompt_tokens: Columns kept for the prompt.
        max_new_tokens: The token budget of a completion.
        stop: Strings that end a completion.
        oracle: From a prompt to a right answer; by default the prompt's reference.
        metrics: From episodes to gold metrics.
        probes: From a prompt to answers that exploit the task, by name.
        description: A sentence on what it asks.

    Raises:
        RegistrationError: if the id is taken, or is no id.
        ConfigError: if neither prompts and reward nor a task are given, or both.
    """
    check_id(id)
    if id in gym.registry:
        raise RegistrationError(
            f"the id {id!r} is taken; raise its version (-v1), choose another name, or call "
            "textenvs.unregister first"
        )
    if task is None:
        if prompts is None or reward is None:
            raise ConfigError(f"register({id!r}) needs prompts and a reward, or a task")
        task = _PromptsTask(
            prompts,
            {
                "reward": reward,
                "tokenizer": tokenizer,
                "max_prompt_tokens": max_prompt_tokens,
                "max_new_tokens": max_new_tokens,
                "stop": stop,
                "oracle": oracle,
                "metrics": metrics,
                "probes": probes,
            },
        )
    elif prompts is not None or reward is not None:
        raise ConfigError(f"register({id!r}) got a task, which brings the prompts and the reward")
    REGISTERED[id] = Registered(task, description or _first_line(task))
    gym.register(id, MAKE, vector_entry_point=f"{MAKE}_vec", kwargs={"env_id": id})


def unregister(id: str) -> None:  # noqa: A002
    """Forget an environment made known by `register`.

    Raises:
        UnknownNameError: if `register` did not make it known.
    """
    if id not in REGISTERED:
        raise UnknownNameError("registered environment", id, REGISTERED)
    del REGISTERED[id]
    gym.registry.pop(id, None)


class RegisteredEnv(TextEnv):
    """An environment made known by `textenvs.register`."""

    def __init__(self, env_id: str, *, render_mode: str | None = None, **options: Any) -> None:
        """Build the environment.

        Args:
            env_id: As registered.
            render_mode: As in `TextEnv`.
            **options: As in `TaskEnv`.
        """
        arguments = task_arguments(registered(env_id).task, options)
        super().__init__(**arguments, render_mode=render_mode)


def make_registered(env_id: str, **options: Any) -> RegisteredEnv:
    """Build an environment made known by `register`."""
    return RegisteredEnv(env_id, **options)


def make_registered_vec(num_envs: int = 1, *, env_id: str, **options: Any) -> Any:
    """Build the vector environment of one made known by `register`."""
    return make_task_vec(registered(env_id).task, num_envs, **options)


def registered(env_id: str) -> Registered:
    """Return what `register` was given for an id.

    Raises:
        UnknownNameError: if it was not called in this process.
    """
    if env_id not in REGISTERED:
        raise UnknownNameError(
            "registered environment",
            env_id,
            REGISTERED,
            "Call textenvs.register for it in this process first.",
        )
    return REGISTERED[env_id]


def list_envs() -> list[str]:
    """Return the ids of the registered text environments, sorted."""
    return sorted({*SUITE, *REGISTERED, *PLUGINS})


def describe(env_id: str) -> str:
    """Return in one sentence what an environment asks, without importing a plug-in."""
    if env_id in REGISTERED:
        return REGISTERED[env_id].description
    if env_id in PLUGINS:
        plugin = PLUGINS[env_id]
        return f"plug-in of the package {plugin.package} {plugin.version}"
    return SUITE[env_id].summary


class _PromptsTask:
    """Prompts and a reward given to `register`."""

    def __init__(self, prompts: Any, arguments: Mapping[str, Any]) -> None:
        self._prompts, self._arguments = prompts, arguments
        self._sources: dict[Split, PromptSource] = {}

    def __call__(self, *, split: Split = "train") -> Mapping[str, Any]:
        checked_split(split)
        if split not in self._sources:
            self._sources |= self._read(split)
        return {"prompts": self._sources[split], **self._arguments}

    def _read(self, split: Split) -> dict[Split, PromptSource]:
        prompts = self._prompts
        if isinstance(prompts, Mapping):
            if split not in prompts:
                raise UnknownNameError("split of this environment", split, prompts)
            return {split: as_source(prompts[split])}
        if callable(prompts) and not isinstance(prompts, PromptSource):
            return {split: as_source(prompts(split))}
        return split_source(as_source(prompts))


def _first_line(task: Task) -> str:
    return (task.__doc__ or "").strip().partition("\n")[0]
