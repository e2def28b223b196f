"""The settings of a cell: read from its `cell.json`, completed, refused where they are wrong."""

import dataclasses
import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import gymnasium as gym

from agents.command_line.catalogue import find_learner, takes_policy
from agents.command_line.inspection import require_id
from agents.command_line.settings import with_options
from agents.command_line.training import OF_OUR_POLICY, group_size
from agents.config import SFTConfig
from textenvs.benchmark.measures import SELF_BLEU_TEXTS
from textenvs.benchmark.reward_spec import make_reward
from textenvs.benchmark.study import AgentSpec, EvaluationSpec
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.models import model_folder
from textenvs.typed_tables import from_table
from textenvs.types import Episode

PREPARATION = "preparation"
"""Kind of a cell that makes a start model."""


@dataclasses.dataclass(frozen=True)
class MeasureSettings:
    """What `[evaluation.options]` of a study may say.

    Attributes:
        self_bleu_texts: Answers of each checkpoint that self-BLEU compares, at least 2.
    """

    self_bleu_texts: int = SELF_BLEU_TEXTS

    def __post_init__(self) -> None:
        """Refuse a number that compares nothing."""
        if self.self_bleu_texts < 2:
            raise ConfigError(f"self_bleu_texts must be at least 2, got {self.self_bleu_texts}")


def agent_spec(cell: Mapping[str, Any]) -> AgentSpec:
    """Return the agent of a cell."""
    return from_table(AgentSpec, _unnamed(cell["agent"]), "the agent")


def evaluation_spec(cell: Mapping[str, Any]) -> EvaluationSpec:
    """Return how a cell is evaluated."""
    return from_table(EvaluationSpec, cell["evaluation"], "the evaluation")


def measure_settings(cell: Mapping[str, Any]) -> MeasureSettings:
    """Return the settings of the measures of a cell."""
    return from_table(MeasureSettings, evaluation_spec(cell).options, "evaluation.options")


def agent_config(cell: Mapping[str, Any]) -> Any:
    """Return the settings of one of our agents, an instance of its `config_class`."""
    spec = agent_spec(cell)
    return with_options(find_learner(spec.agent).config_class(), spec.options, spec.agent)


def sft_config(cell: Mapping[str, Any]) -> SFTConfig:
    """Return the settings of the fine-tuning that a preparation does."""
    return with_options(SFTConfig(), agent_spec(cell).sft or {}, "sft")


def resolve_cell(cell: Mapping[str, Any]) -> dict[str, Any]:
    """Return a cell with every default of its agent said, so that a changed one changes its id.

    Resolving what is resolved changes nothing.

    Args:
        cell: As in its `cell.json`: `kind`, `environment`, `agent`, and of a "cell"
            `design`, `gold` and `evaluation`.

    Raises:
        UnknownNameError: if an environment, an option, an agent, a setting of it, or the gold
            metric is unknown.
        ConfigError: if a value cannot work.
    """
    resolved = {**cell, "agent": dict(cell["agent"])}
    agent, spec = resolved["agent"], agent_spec(cell)
    learner = find_learner(spec.agent)
    ours = takes_policy(learner)
    if agent.get("sft") is not None:
        if not ours:
            raise ConfigError(f"{spec.agent} brings its own model, which sft cannot prepare")
        agent["sft"] = _table(sft_config(cell))
    metrics = metric_names(
        json.dumps(cell["environment"], sort_keys=True), spec.model if ours else None
    )
    if cell["kind"] == PREPARATION:
        return resolved
    gold = cell["gold"]
    if gold is not None and gold not in metrics:
        raise UnknownNameError(f"metric of {cell['environment']['id']}", gold, metrics)
    make_reward(cell["design"]["reward"])
    if ours:
        if learner.needs_groups and spec.samples_per_prompt is None:
            agent["samples_per_prompt"] = group_size(spec.num_envs, learner)
        agent["options"] = _table(agent_config(cell))
    else:
        _refuse_policy_settings(spec, cell["design"])
    evaluation = _table(evaluation_spec(cell))
    resolved["evaluation"] = {**evaluation, "options": _table(measure_settings(cell))}
    return resolved


@lru_cache(maxsize=64)
def metric_names(environment: str, model: str | None) -> tuple[str, ...]:
    """Return the gold metrics of an environment, having made it once to see that it can be.

    Args:
        environment: The `environment` of a cell, as JSON.
        model: Whose tokenizer it uses; None for the environment's own.
    """
    env = gym.make(**_arguments(json.loads(environment), model, "train"))
    batch: Any = env.unwrapped.batch  # type: ignore[attr-defined]
    return tuple(batch.metrics([Episode(batch.prompts[0], "")]))


def vector_env(
    cell: Mapping[str, Any], split: str, num_envs: int, *, tokenizer: str | None, **options: Any
) -> Any:
    """Return the native vector environment of a cell.

    Args:
        cell: Says which.
        split: Of the prompts.
        num_envs: Rows.
        tokenizer: Model whose tokenizer it uses; None for the environment's own.
        **options: As `gym.make_vec` takes them.
    """
    arguments = _arguments(cell["environment"], tokenizer, split)
    return gym.make_vec(num_envs=num_envs, **{**arguments, **options})


def single_env(cell: Mapping[str, Any], model: str) -> Any:
    """Return the training environment of a cell, for one answer at a time."""
    return gym.make(**_arguments(cell["environment"], model, "train"))


def _arguments(environment: Mapping[str, Any], model: str | None, split: str) -> dict[str, Any]:
    require_id(environment["id"])
    tokenizer = {} if model is None else {"tokenizer": model_folder(model)}
    options = environment.get("options", {})
    return {"id": environment["id"], "split": split, **tokenizer, **options}


def _refuse_policy_settings(spec: AgentSpec, design: Mapping[str, Any]) -> None:
    """Refuse what would be ignored by an agent that brings its own model."""
    default = AgentSpec()
    given = [
        name
        for name in OF_OUR_POLICY
        if name in vars(default) and getattr(spec, name) != getattr(default, name)
    ]
    if design["kl_coef"]:
        given.append("kl_coef")
    if given:
        raise ConfigError(
            f"{spec.agent} brings its own model, for which {', '.join(given)} means nothing; "
            "leave it out (kl_coef = 0 in the design)"
        )


def _unnamed(table: Mapping[str, Any]) -> dict[str, Any]:
    """Return a table less its name in the study file."""
    return {key: value for key, value in table.items() if key != "name"}


def _table(settings: Any) -> dict[str, Any]:
    """Return a dataclass as JSON holds it."""
    return json.loads(json.dumps(dataclasses.asdict(settings)))
