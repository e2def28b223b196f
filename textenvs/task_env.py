"""`TaskEnv`: an environment made from a task and the user's options.

A family of the suite, a plug-in and `textenvs.register` all say the same thing: a task,
a function from options to the arguments of `TextEnv`. What every task has in common, from
the token budget to reference-KL shaping, is added here.
"""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from textenvs.env import TextEnv
from textenvs.episode_batch import EpisodeBatch
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.vector_env import TextVectorEnv

Task = Callable[..., Mapping[str, Any]]
"""From options to the arguments of `TextEnv`: at least `prompts` and `reward`."""

COMMON_OPTIONS = (
    "reward",
    "tokenizer",
    "max_prompt_tokens",
    "max_new_tokens",
    "stop",
    "overlong",
    "on_unscored",
    "curriculum",
    "chat",
)
"""Options of every task, over what the task itself says."""


class TaskEnv(TextEnv):
    """A text environment with the options of its task.

    A subclass names its task, `task = staticmethod(my_task)`, and describes observation,
    action, reward, end and version history in its docstring. The options of the task are
    the parameters of that function; to them come `COMMON_OPTIONS`.
    """

    task: ClassVar[Task]

    def __init__(self, *, render_mode: str | None = None, **options: Any) -> None:
        """Build the environment.

        Args:
            render_mode: As in `TextEnv`.
            **options: Of the task, and `COMMON_OPTIONS`.

        Raises:
            UnknownNameError: if an option is neither.
        """
        super().__init__(**task_arguments(self.task, options), render_mode=render_mode)

    @classmethod
    def make_vec(
        cls,
        num_envs: int = 1,
        *,
        reference: Any = None,
        kl_coef: float = 0.0,
        kl_timing: str = "episode",
        **options: Any,
    ) -> Any:
        """Build the native vector environment, with reference-KL shaping where asked for.

        Args:
            num_envs: Number of rows.
            reference: Model name, folder or object; None shapes nothing.
            kl_coef: Coefficient beta of the KL term; 0 shapes nothing.
            kl_timing: "episode" or "step".
            **options: As in the constructor, and `autoreset_mode`, `samples_per_prompt`,
                `max_episode_steps` and `render_mode` as in `TextVectorEnv`.

        Raises:
            UnknownNameError: if an option is unknown.
        """
        return make_task_vec(
            cls.task,
            num_envs,
            reference=reference,
            kl_coef=kl_coef,
            kl_timing=kl_timing,
            **options,
        )


VECTOR_OPTIONS = ("autoreset_mode", "samples_per_prompt", "max_episode_steps", "render_mode")
KL_OPTIONS = ("reference", "kl_coef", "kl_timing")


def make_task_vec(
    task: Task,
    num_envs: int,
    *,
    reference: Any = None,
    kl_coef: float = 0.0,
    kl_timing: str = "episode",
    **options: Any,
) -> Any:
    """Build a native vector environment of a task; see `TaskEnv.make_vec`."""
    vector = {name: options.pop(name) for name in VECTOR_OPTIONS if name in options}
    also = (*VECTOR_OPTIONS, *KL_OPTIONS)
    venv = TextVectorEnv(**task_arguments(task, options, also), num_envs=num_envs, **vector)
    if reference is None or kl_coef == 0:
        return venv
    from textenvs.wrappers.reference_kl import VectorReferenceKL

    return VectorReferenceKL(venv, reference, kl_coef, timing=kl_timing)


def task_arguments(
    task: Task, options: Mapping[str, Any], also: Sequence[str] = ("render_mode",)
) -> dict[str, Any]:
    """Return the arguments of `TextEnv` for a task with these options.

    Args:
        task: Gets the options it has parameters for.
        options: As the user gave them.
        also: Further names to suggest.

    Raises:
        UnknownNameError: naming an option that is unknown, and near ones.
        ConfigError: if the task returns something else.
    """
    names = task_options(task)
    for name in options:
        if name not in names and name not in COMMON_OPTIONS:
            raise UnknownNameError("option", name, {*names, *COMMON_OPTIONS, *also})
    given = {name: value for name, value in options.items() if name in names}
    common = {name: value for name, value in options.items() if name not in names}
    arguments = task(**given)
    if not isinstance(arguments, Mapping) or not {"prompts", "reward"} <= set(arguments):
        raise ConfigError(
            f"the task {getattr(task, '__name__', task)!r} must return the arguments of TextEnv, "
            f"'prompts' and 'reward' among them, got {arguments!r:.80}"
        )
    known = {*COMMON_OPTIONS, *inspect.signature(EpisodeBatch.__init__).parameters}
    for name in arguments:
        if name not in known:
            raise UnknownNameError("argument returned by the task", name, known - {"self"})
    return {**arguments, **common}


def task_options(task: Task) -> list[str]:
    """Return the names of a task's own options."""
    return [
        parameter.name
        for parameter in inspect.signature(task).parameters.values()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
