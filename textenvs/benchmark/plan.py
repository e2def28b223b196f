"""From a study to its cells: every combination resolved, hashed and in the order of running."""

import importlib
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from textenvs.benchmark import fingerprints
from textenvs.benchmark.cell import Cell
from textenvs.benchmark.reward_spec import make_reward
from textenvs.benchmark.study import AgentSpec, DesignSpec, Study, design_settings, reward_of
from textenvs.errors import ConfigError, UnknownNameError

RESOLVER = "resolve_cell"
Config = dict[str, Any]


def plan_cells(study: Study, runner: str) -> list[Cell]:
    """Return the cells of a study, seed by seed, each after the preparations it needs.

    With the seeds outermost, a grid that is stopped half-way has measured every design.

    Args:
        study: What is to be run.
        runner: `module:function` that runs a cell, where the study names none.

    Raises:
        ConfigError: if a setting has a wrong value.
        UnknownNameError: if a name in the study is unknown.
    """
    return Planner(study, study.runner or runner).cells()


def chosen(cells: Sequence[Cell], patterns: Sequence[str]) -> list[Cell]:
    """Return the cells that one of some patterns names, and the preparations they need.

    A pattern is the name of an environment, a design or an agent, or
    "environment/design/agent"; `*` and `?` stand for any text and any sign.

    Raises:
        UnknownNameError: if a pattern names no cell.
    """
    kept: dict[str, Cell] = {}
    for pattern in patterns:
        found = [cell for cell in cells if cell.kind == "cell" and _is_named(cell, pattern)]
        if not found:
            known = {name for cell in cells if cell.kind == "cell" for name in cell.names}
            raise UnknownNameError("part of the study", pattern, known)
        kept |= {cell.id: cell for cell in found}
    needed = {need for cell in kept.values() for need in cell.needs}
    return [cell for cell in cells if not patterns or cell.id in kept or cell.id in needed]


def _is_named(cell: Cell, pattern: str) -> bool:
    return any(fnmatchcase(name, pattern) for name in (*cell.names, "/".join(cell.names)))


class Planner:
    """Resolves the combinations of one study; what they share is hashed once."""

    def __init__(self, study: Study, runner: str) -> None:
        """Import the runner's module; modules of the current directory can be imported.

        Raises:
            ConfigError: if it cannot be imported, or lacks one of the two functions.
        """
        here = os.getcwd()
        if here not in sys.path:  # as `python -m` does; the installed command does not
            sys.path.insert(0, here)
        self._study, self._runner = study, runner
        self._resolve = find_resolver(runner)
        self._environments = {name: self._environment(name) for name in study.environments}
        self._designs = {name: self._design(name) for name in study.designs}

    def cells(self) -> list[Cell]:
        """Return the cells in the order of running; see `plan_cells`."""
        planned: dict[str, Cell] = {}
        for seed in self._study.seeds:
            assert isinstance(seed, int)
            for environment in self._study.environments:
                for agent in self._study.agents:
                    for cell in self._designs_of(environment, agent, seed):
                        planned.setdefault(cell.id, cell)
        return list(planned.values())

    def _designs_of(self, environment: str, agent: str, seed: int) -> Iterable[Cell]:
        """Return the cells of one environment, agent and seed, their preparation first."""
        spec = self._study.agents[agent]
        preparation = None
        if spec.sft is not None:
            preparation = self._resolved(self._preparation(environment, spec, seed))
            yield preparation
        for design in self._study.designs:
            config = self._cell(environment, design, agent, seed)
            if preparation is not None:
                config["agent"]["sft"] = preparation.config["agent"]["sft"]
                config["needs"] = [preparation.id]
            yield self._resolved(config)

    def _resolved(self, config: Config) -> Cell:
        return Cell.of(self._resolve(config))

    def _preparation(self, environment: str, agent: AgentSpec, seed: int) -> Config:
        """Return the config of a start model's training: no design and no learner in it."""
        place, hashes = self._environments[environment]
        return {
            "kind": "preparation",
            "runner": self._runner,
            "environment": place,
            "agent": {"model": agent.model, "sft": dict(agent.sft or {})},
            "seed": seed,
            "needs": [],
            "hashes": {**hashes, **_model(agent.model)},
        }

    def _cell(self, environment: str, design: str, agent: str, seed: int) -> Config:
        study = self._study
        place, data = self._environments[environment]
        spec, (settings, hashes) = study.agents[agent], self._designs[design]
        options = {**spec.options, **study.designs[design].agent_options}
        evaluation = study.evaluation
        return {
            "kind": "cell",
            "runner": self._runner,
            "environment": place,
            "gold": study.environments[environment].gold,
            "design": {"name": design, **settings},
            "agent": {"name": agent, **vars(spec), "options": options},
            "evaluation": dict(vars(evaluation)),
            "seed": seed,
            "needs": [],
            "hashes": {**data, **hashes, **_model(spec.model)},
        }

    def _environment(self, name: str) -> tuple[Config, dict[str, str]]:
        """Return an environment as cells hold it, and the hashes of its data."""
        spec = self._study.environments[name]
        hashes = fingerprints.file_hashes(spec.options)
        for split in ("train", self._study.evaluation.split):
            hashes[f"prompts/{split}"] = fingerprints.prompts_hash(spec.id, spec.options, split)
        return {"name": name, "id": spec.id, "options": spec.options}, hashes

    def _design(self, name: str) -> tuple[Config, dict[str, str]]:
        """Return a design as cells hold it, and the hashes of its source and its data."""
        spec: DesignSpec = self._study.designs[name]
        settings = design_settings(spec)
        reward = reward_of(settings)
        rest = {k: v for k, v in settings.items() if k not in (*reward, "agent_options")}
        hashes = {
            "reward": fingerprints.reward_hash(make_reward(reward)),
            **fingerprints.file_hashes(reward, [n.partition(":")[2] for n in spec.leaves()]),
        }
        return {"reward": reward, "kl_target": None, **rest}, hashes


def find_resolver(runner: str) -> Callable[[Mapping[str, Any]], Config]:
    """Return the function that fills in the defaults of a runner.

    Raises:
        ConfigError: if the module cannot be imported, or has no such function.
    """
    find_function(runner)
    return find_function(f"{runner.partition(':')[0]}:{RESOLVER}")


def find_function(name: str) -> Callable[..., Any]:
    """Return the function that `module:function` names.

    Raises:
        ConfigError: if the module cannot be imported, or has no such function.
    """
    module, _, function = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(
            f"the runner of the cells needs {name!r}, which cannot be imported: {error}"
        ) from error
    if not callable(found):
        raise ConfigError(f"the runner {name!r} is no function")
    return found


def _model(name: str) -> dict[str, str]:
    found = fingerprints.model_hash(name)
    return {} if found is None else {f"model/{name}": found}
