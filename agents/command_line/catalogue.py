"""Learners by name: the built-in ones, and a user's own as `module:Class`.

A learner of one's own is one of two things. A subclass of `OnPolicyAgent` is made as the
built-in ones are, `Class(policy, env, config, seed=...)`. Any other class brings its own
model and is made as `Class(env, seed=..., **options)`; it has `learn(total_timesteps)`, which
may take `callback=None` too, `save(path)`, and, to be evaluated, `predict`.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Mapping
from typing import Any

from textenvs.errors import ConfigError, UnknownNameError

LEARNERS = {
    "PPO": "agents.ppo",
    "GRPO": "agents.grpo",
    "RLOO": "agents.rloo",
    "REINFORCE": "agents.reinforce",
    "A2C": "agents.a2c",
    "NLPO": "agents.nlpo",
    "ExpertIteration": "agents.expert_iteration",
    "OnlineDPO": "agents.online_dpo",
}
"""Name -> home module; imported when asked for."""

OWN = "An agent of your own is given as module:Class, e.g. my_agent:MyAgent."
NEEDED = ("learn", "save")


def find_learner(name: str) -> type[Any]:
    """Return the class of a learner.

    Args:
        name: A name of `LEARNERS`, or `module:Class`; modules of the current directory
            can be imported.

    Raises:
        UnknownNameError: if there is no such learner, or no such class in the module.
        ConfigError: if the module cannot be imported, or the class is no learner.
    """
    if ":" in name:
        return _own_class(name)
    if name not in LEARNERS:
        raise UnknownNameError("agent", name, LEARNERS, OWN)
    return _class_in(importlib.import_module(LEARNERS[name]), name)


def takes_policy(learner: type[Any]) -> bool:
    """Return whether a learner trains our `CausalLMPolicy`, rather than a model of its own."""
    from agents.on_policy import OnPolicyAgent

    return issubclass(learner, OnPolicyAgent)


def make_own(learner: type[Any], env: Any, seed: int, options: Mapping[str, Any]) -> Any:
    """Return `learner(env, seed=seed, **options)`.

    Raises:
        UnknownNameError: if an option is no argument of the class.
        ConfigError: if the class cannot be made so.
    """
    parameters = inspect.signature(learner).parameters
    free = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    for name in options:
        if name not in parameters and not free:
            known = [*parameters][1:]
            raise UnknownNameError(f"option of {learner.__name__}", name, known)
    try:
        inspect.signature(learner).bind(env, seed=seed, **options)
    except TypeError as error:
        raise ConfigError(
            f"{learner.__name__} cannot be made as {learner.__name__}(env, seed=..., **options): "
            f"{error}. Give it these arguments, or make it a subclass of OnPolicyAgent"
        ) from error
    return learner(env, seed=seed, **options)


def takes_callback(learner: type[Any]) -> bool:
    """Return whether `learn` has a second argument `callback`."""
    return "callback" in inspect.signature(learner.learn).parameters


def _own_class(name: str) -> type[Any]:
    module_name, _, class_name = name.partition(":")
    if not all(part.isidentifier() for part in [*module_name.split("."), class_name]):
        raise ConfigError(f"{name!r} is no module:Class with a dotted module. {OWN}")
    here = os.getcwd()
    if here not in sys.path:  # as `python -m` does; the installed command does not
        sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise ConfigError(f"{module_name} cannot be imported: {error}") from error
        raise ConfigError(
            f"there is no module {error.name!r}, neither installed nor in {here}. {OWN}"
        ) from error
    except Exception as error:  # whatever a user's module does when it is imported
        raise ConfigError(
            f"{module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from error
    learner = _class_in(module, class_name)
    missing = [method for method in NEEDED if not callable(getattr(learner, method, None))]
    if missing:
        raise ConfigError(
            f"{name} has no {' and no '.join(missing)}; a learner has learn(total_timesteps), "
            "save(path) and, to be evaluated, predict(observation, state, episode_start, "
            "deterministic)"
        )
    return learner


def _class_in(module: Any, name: str) -> type[Any]:
    found = getattr(module, name, None)
    if isinstance(found, type):
        return found
    if found is not None:
        raise ConfigError(f"{module.__name__}:{name} is a {type(found).__name__}, not a class")
    classes = [key for key, value in vars(module).items() if isinstance(value, type)]
    raise UnknownNameError(f"class in {module.__name__}", name, classes)
