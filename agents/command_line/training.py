"""What `textenvs train` sets up: the settings made complete, the environment, the agent."""

import dataclasses
from typing import Any

import gymnasium as gym
from gymnasium.vector import VectorEnv

from agents.checkpoint import read_training_json
from agents.command_line.catalogue import make_own, takes_policy
from agents.command_line.held_out import named_model
from agents.command_line.inspection import require_id
from agents.command_line.settings import TrainSettings, parse_options, with_options, write_options
from agents.config import PPOConfig
from agents.policy import CausalLMPolicy
from agents.pretraining_mix import PretrainingMix
from agents.pretraining_texts import pretraining_texts
from textenvs.errors import ConfigError
from textenvs.kl import KLCoefficient
from textenvs.models import model_folder
from textenvs.wrappers.reference_kl import VectorReferenceKL

SAMPLES = "samples_per_prompt"
GROUP_SIZES = (8, 4, 2)
"""Answers to a prompt, for agents that compare them; the first that divides `num_envs`."""

OF_OUR_POLICY = (
    "model",
    "kl_coef",
    "kl_target",
    "kl_timing",
    "critic",
    "lora",
    "temperature",
    "pretraining",
)
"""Settings that mean nothing to an agent that brings its own model."""


def resolve(settings: TrainSettings, learner: type[Any]) -> TrainSettings:
    """Return the settings with everything said that the agent leaves open.

    The group size is added to the options of the environment, and the settings of the agent
    are complete: those of PPO in `ppo`, those of any other in `agent_option`.

    Raises:
        ConfigError: if a setting has a wrong value, or is one of another agent.
        UnknownNameError: if the agent has no such setting.
    """
    if not takes_policy(learner):
        _refuse(settings, ("ppo", *OF_OUR_POLICY), f"{learner.__name__} brings its own model")
        if settings.eval_prompts and not callable(getattr(learner, "predict", None)):
            raise ConfigError(
                f"{learner.__name__} has no predict(observation, state, episode_start, "
                "deterministic), so it cannot be evaluated; give it one, or say --eval-prompts 0"
            )
        return settings
    settings = dataclasses.replace(settings, model=named_model(settings.model))
    if learner.needs_groups and SAMPLES not in settings.options():
        added = (*settings.option, f"{SAMPLES}={group_size(settings.num_envs, learner)}")
        settings = dataclasses.replace(settings, option=added)
    given = parse_options(settings.agent_option)
    if learner.config_class is PPOConfig:
        config: Any = with_options(settings.ppo, given, learner.__name__)
        return dataclasses.replace(settings, ppo=config, agent_option=())
    _refuse(settings, ("ppo",), f"{learner.__name__} is set with -a name=value")
    config = with_options(learner.config_class(), given, learner.__name__)
    return dataclasses.replace(settings, agent_option=write_options(config))


def agent_config(settings: TrainSettings, learner: type[Any]) -> Any:
    """Return the agent's settings, an instance of its `config_class`."""
    if learner.config_class is PPOConfig:
        return settings.ppo
    options = parse_options(settings.agent_option)
    return with_options(learner.config_class(), options, learner.__name__)


def make_agent(settings: TrainSettings, learner: type[Any]) -> tuple[Any, VectorEnv]:
    """Return the agent of complete settings, new or resumed, and its environment.

    Raises:
        ConfigError: if the settings do not go together, or not with the checkpoint.
    """
    require_id(settings.env)
    options = {**_own_tokenizer(settings, learner), **settings.options()}
    venv = gym.make_vec(settings.env, num_envs=settings.num_envs, **options)
    if not takes_policy(learner):
        if settings.resume is None:
            given = parse_options(settings.agent_option)
            return make_own(learner, venv, settings.seed, given), venv
        return _load_own(learner, settings, venv), venv
    policy = CausalLMPolicy.from_pretrained(
        settings.model,
        critic=settings.critic,
        lora=settings.lora,
        temperature=settings.temperature,
    )
    if settings.kl_coef > 0:
        coefficient = KLCoefficient(settings.kl_coef, target=settings.kl_target)
        venv = VectorReferenceKL(venv, policy.reference(), coefficient, timing=settings.kl_timing)
    if settings.resume is None:
        config = agent_config(settings, learner)
        mix = _pretraining_mix(settings, policy, config.ptx_coef)
        return learner(policy, venv, config, seed=settings.seed, pretraining=mix), venv
    return _load(settings, learner, venv, policy), venv


def _own_tokenizer(settings: TrainSettings, learner: type[Any]) -> dict[str, Any]:
    """Return the option that gives the environment the tokenizer of the model, if we bring it."""
    return {"tokenizer": model_folder(settings.model)} if takes_policy(learner) else {}


def _pretraining_mix(
    settings: TrainSettings, policy: CausalLMPolicy, coefficient: float
) -> PretrainingMix | None:
    """Return the text to mix in; none where it is only measured."""
    if settings.pretraining is None or not coefficient:
        return None
    assert policy.tokenizer is not None, "a model by name comes with its tokenizer"
    texts = pretraining_texts(settings.pretraining)
    return PretrainingMix(texts, policy.tokenizer, seed=settings.seed)


def _load(
    settings: TrainSettings, learner: type[Any], venv: VectorEnv, policy: CausalLMPolicy
) -> Any:
    path, name = settings.resume, learner.__name__
    assert path is not None
    saved = read_training_json(path)
    if saved["algorithm"] != name:
        wrote = saved["algorithm"]
        raise ConfigError(f"{path} was saved by {wrote}, not by {name}; add --agent {wrote}")
    mix = _pretraining_mix(settings, policy, saved["config"]["ptx_coef"])
    agent = learner.load(path, venv, pretraining=mix)
    asked = agent_config(settings, learner)
    if asked not in (learner.config_class(), agent.config):
        raise ConfigError(
            f"{path} goes on with the settings it was saved with; leave out those of {name}, or "
            f"begin anew from its weights with --model {path}"
        )
    return agent


def held_out_options(settings: TrainSettings, learner: type[Any]) -> dict[str, Any]:
    """Return the options of the environment to evaluate in: one answer a prompt."""
    options = {k: v for k, v in settings.options().items() if k != SAMPLES}
    return {**_own_tokenizer(settings, learner), **options}


def _load_own(learner: type[Any], settings: TrainSettings, venv: VectorEnv) -> Any:
    if not callable(getattr(learner, "load", None)):
        raise ConfigError(f"{learner.__name__} has no load(path, env), which --resume needs")
    return learner.load(str(settings.resume), venv)


def group_size(num_envs: int, learner: type[Any]) -> int:
    """Return how many answers to a prompt a learner compares where nothing else is said.

    Args:
        num_envs: Completions sampled side by side.
        learner: One that `needs_groups`.

    Raises:
        ConfigError: if no group size divides `num_envs`.
    """
    for size in GROUP_SIZES:
        if num_envs % size == 0:
            return size
    raise ConfigError(
        f"{learner.__name__} compares several answers to one prompt, so num_envs must be a "
        f"multiple of {GROUP_SIZES[-1]}, got {num_envs}; or say -o {SAMPLES}=N, which divides it"
    )


def _refuse(settings: TrainSettings, names: tuple[str, ...], why: str) -> None:
    """Refuse settings that would be ignored."""
    default = TrainSettings()
    given = [name for name in names if getattr(settings, name) != getattr(default, name)]
    if given:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ConfigError(f"{why}; leave out {flags}")
