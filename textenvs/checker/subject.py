"""What is checked: an id, a text environment, or any environment of the same shape."""

import copy
import importlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers import OrderEnforcing, PassiveEnvChecker

from textenvs.checker.report import Fault, Skipped
from textenvs.env import TextEnv
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.prompts import PromptSource
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.tokenization import TextTokenizer
from textenvs.types import Prompt
from textenvs.vector_env import TextVectorEnv

ADDRESS = re.compile(r" at 0x[0-9a-f]+")
OWN_WRAPPERS = (OrderEnforcing, PassiveEnvChecker)
"""What `gym.make` puts around every environment; they change nothing that is checked."""


@runtime_checkable
class HasPrompts(Protocol):
    """An environment that says which prompts it draws from."""

    @property
    def prompts(self) -> PromptSource:
        """The prompts."""


@runtime_checkable
class HasTokenizer(Protocol):
    """An environment that says which tokenizer its tokens belong to."""

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer."""


@runtime_checkable
class HasReward(Protocol):
    """An environment that shows its reward."""

    @property
    def reward(self) -> Any:
        """The reward."""


@runtime_checkable
class HasScore(Protocol):
    """An environment that judges text without stepping."""

    def score(self, prompt: Prompt, texts: Sequence[str]) -> RewardResult:
        """Judge texts as answers to one prompt."""


@runtime_checkable
class HasOracle(Protocol):
    """An environment that knows a right answer to each prompt."""

    def oracle(self, prompt: Prompt) -> str:
        """Return a right answer."""


@runtime_checkable
class HasProbes(Protocol):
    """An environment that names exploits of its own task."""

    def probes(self, prompt: Prompt) -> Mapping[str, str]:
        """Return answers that exploit the task, by name."""


@dataclass(frozen=True)
class Subject:
    """One environment under study, and how to make more of it.

    Attributes:
        name: For the report.
        given: The single environment, without wrappers; None where an id is made anew.
        venv: The vector environment that was given, without wrappers; None where none was.
        env_id: What to make it again from, with other options; None where that cannot be done.
        options: Options of the id.
        wrappers: Class names of wrappers that were taken off.
    """

    name: str
    given: gym.Env[Any, Any] | None = None
    venv: TextVectorEnv | None = None
    env_id: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()

    def fresh(self) -> Any:
        """Return an environment that shares no episode with any other, without wrappers."""
        if self.given is not None:
            return twin(self.given)
        return self.remade()

    def remade(self, **options: Any) -> Any:
        """Return the environment made from its id with further options, without wrappers.

        Raises:
            Skipped: if there is no id to make it from.
        """
        if self.env_id is None:
            raise Skipped("the environment was given as an object, not as an id to make it from")
        return gym.make(self.env_id, **{**self.options, **options}).unwrapped

    def single(self) -> Any:
        """Return an environment as a row of a vector environment holds it, its limits included."""
        if self.given is not None or self.env_id is None:
            return self.fresh()
        return gym.make(self.env_id, **self.options)

    def vector_of_id(
        self, num_envs: int, mode: AutoresetMode | None, vectorization: str | None, **options: Any
    ) -> Any:
        """Return a vector environment of the id.

        Args:
            num_envs: Number of rows.
            mode: What happens to a finished row; None leaves it to the environment.
            vectorization: "sync"; None takes the native vector environment.
            **options: Further options of the native one.

        Raises:
            Skipped: if there is no id.
        """
        if self.env_id is None:
            raise Skipped("the environment was given as an object, not as an id to make it from")
        if vectorization is None:
            in_mode = {} if mode is None else {"autoreset_mode": mode}
            return gym.make_vec(self.env_id, num_envs, **{**self.options, **in_mode, **options})
        vector_kwargs = {} if mode is None else {"autoreset_mode": mode}
        return gym.make_vec(
            self.env_id,
            num_envs,
            vectorization_mode=vectorization,
            vector_kwargs=vector_kwargs,
            **self.options,
        )

    @property
    def is_limited(self) -> bool:
        """Whether what `single` returns is truncated by a limit of its id."""
        if self.given is not None or self.env_id is None:
            return False
        return gym.spec(self.env_id).max_episode_steps is not None

    @property
    def is_native(self) -> bool:
        """Whether the id brings a vector environment of its own."""
        return self.env_id is not None and gym.spec(self.env_id).vector_entry_point is not None


def subject_of(id_or_env: Any, options: Mapping[str, Any]) -> Subject:
    """Return what is to be checked.

    Raises:
        UnknownNameError: if an id is not registered.
        ConfigError: if it is neither id nor environment, or options come with an object.
    """
    if isinstance(id_or_env, str):
        return Subject(id_or_env, env_id=_registered_id(id_or_env), options=dict(options))
    if options:
        raise ConfigError(
            f"the options {sorted(options)} need an id to make the environment with; it was given "
            "as an object, so set them when you make it"
        )
    if isinstance(id_or_env, VectorEnv):
        return _subject_of_vector(id_or_env)
    if not isinstance(id_or_env, gym.Env):
        raise ConfigError(
            f"{id_or_env!r:.80} is no environment; give an id, a gymnasium.Env, or a TextVectorEnv"
        )
    env = id_or_env.unwrapped
    spec = id_or_env.spec
    env_id = spec.id if spec is not None and spec.id in gym.registry else None
    return Subject(
        name=env_id or type(env).__name__,
        given=env,
        env_id=env_id,
        options=dict(spec.kwargs) if spec is not None and env_id is not None else {},
        wrappers=_wrappers(id_or_env),
    )


def _registered_id(text: str) -> str:
    """Return an id; "module:id" imports the module first, as `gym.make` does."""
    module, _, env_id = text.rpartition(":")
    if module:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ConfigError(f"the module of {text!r} cannot be imported: {error}") from error
    if env_id not in gym.registry:
        known = [i for i in gym.registry if not _is_of_gymnasium(i)]
        raise UnknownNameError("environment", env_id, known)
    return env_id


def _subject_of_vector(venv: VectorEnv) -> Subject:
    inner = venv.unwrapped
    if not isinstance(inner, TextVectorEnv):
        raise ConfigError(
            f"{type(inner).__name__} is no TextVectorEnv; give its id, or one of its single "
            "environments, such as venv.envs[0]"
        )
    single = TextEnv(**inner.batch.task_arguments())
    taken_off = () if inner is venv else (type(venv).__name__,)
    return Subject(type(inner).__name__, given=single, venv=inner, wrappers=taken_off)


def _wrappers(env: gym.Env[Any, Any]) -> tuple[str, ...]:
    names = []
    while isinstance(env, gym.Wrapper):
        if not isinstance(env, OWN_WRAPPERS):
            names.append(type(env).__name__)
        env = env.env
    return tuple(names)


def _is_of_gymnasium(env_id: str) -> bool:
    return str(gym.spec(env_id).entry_point).startswith("gymnasium.")


def twin(env: Any) -> Any:
    """Return a copy of an environment with episodes of its own.

    Prompts, reward and tokenizer are shared: they hold no episode, and may hold a model.
    """
    parts: list[Any] = []
    if isinstance(env, HasPrompts):
        parts.append(env.prompts)
    if isinstance(env, HasReward):
        parts.append(env.reward)
    if isinstance(env, HasTokenizer):
        parts.append(env.tokenizer)
    return copy.deepcopy(env, {id(part): part for part in parts})


def prompts_of(env: Any) -> PromptSource:
    """Return the prompts of an environment.

    Raises:
        Skipped: if it does not show them.
    """
    if not isinstance(env, HasPrompts):
        raise Skipped("the environment has no attribute `prompts`")
    return env.prompts


def tokenizer_of(env: Any) -> TextTokenizer:
    """Return the tokenizer of an environment.

    Raises:
        Skipped: if it does not show it.
    """
    if not isinstance(env, HasTokenizer):
        raise Skipped("the environment has no attribute `tokenizer`")
    return env.tokenizer


def shown(prompt: Prompt) -> str:
    """Return everything a prompt holds as text, without the addresses of objects."""
    return ADDRESS.sub("", repr(prompt))


def prompt_named(env: Any, prompt_id: str) -> Prompt:
    """Return the prompt of an episode."""
    prompts = prompts_of(env)
    return prompts[prompts.index_of(prompt_id)]


def scores_of(env: Any, prompt: Prompt, texts: Sequence[str]) -> np.ndarray:
    """Return what `env.score` says of texts, float64 [B].

    Raises:
        Skipped: if the environment has no such method.
    """
    if not isinstance(env, HasScore):
        raise Skipped("the environment has no method `score(prompt, texts)`")
    return np.asarray(env.score(prompt, texts).scores, np.float64)


def oracle_of(env: Any, prompt: Prompt) -> str:
    """Return a right answer.

    Raises:
        Skipped: if the environment knows none.
    """
    if not isinstance(env, HasOracle):
        raise Skipped("the environment has no method `oracle(prompt)`")
    if isinstance(env, TextEnv) and env.batch.oracle_of is None and prompt.reference is None:
        raise Skipped("the task has no oracle, and its prompts no reference")
    answer: Any = env.oracle(prompt)
    if answer is None:
        raise Skipped(f"the oracle knows no answer to the prompt {prompt.id!r}")
    if not isinstance(answer, str):
        raise Fault(
            f"the oracle answers {answer!r:.60} to the prompt {prompt.id!r}, which is no text"
        )
    return answer


def bounds_of(env: Any, prompt: Prompt) -> tuple[float, float]:
    """Return the declared bounds of the reward; infinite where none are declared."""
    if isinstance(env, HasReward) and isinstance(env.reward, BaseReward):
        low, high = env.reward.bounds(prompt)
        return float(low), float(high)
    return (-np.inf, np.inf)
