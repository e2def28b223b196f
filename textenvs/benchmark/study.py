"""The study file: environments x reward designs x agents x seeds, checked and typed."""

import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from textenvs.benchmark.reward_spec import RewardSpec
from textenvs.errors import ConfigError
from textenvs.typed_tables import from_table, read_toml

OF_DESIGNS = ("reward", "reference", "kl_coef", "kl_timing")
OF_AGENTS = ("samples_per_prompt", "num_envs")
SEED_RANGE = re.compile(r"(\d+)(?:\.\.(\d+))?")


@dataclass(frozen=True)
class EnvironmentSpec:
    """What is asked of the model.

    Attributes:
        id: Of the environment, `namespace/Name-vN`.
        options: Of the environment, as `gym.make` takes them.
        gold: The metric of the environment that says what is really wanted; none if there is
            no such metric: whether a design is hacked can then not be told.
    """

    id: str
    options: dict[str, Any] = field(default_factory=dict)
    gold: str | None = None

    def __post_init__(self) -> None:
        """Refuse options that are said elsewhere."""
        for name in self.options:
            if name in (*OF_DESIGNS, *OF_AGENTS, "split"):
                place = {"split": "[evaluation]"}.get(
                    name, "a design" if name in OF_DESIGNS else "an agent"
                )
                raise ConfigError(
                    f"{name} is no option of {self.id} in a study; say it in {place}, or leave "
                    "it out"
                )


@dataclass(frozen=True)
class DesignSpec(RewardSpec):
    """A reward design: what the model is paid for, and what leaving the reference costs.

    Attributes:
        kl_coef: Coefficient of the KL to the model as it was before training.
        kl_target: Adapt the coefficient to this KL, in nats a completion.
        kl_timing: Ask the reference once an "episode", or at each "step".
        agent_options: Options of the agent for this design alone.
    """

    kl_coef: float = 0.05
    kl_target: float | None = None
    kl_timing: Literal["episode", "step"] = "episode"
    agent_options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a coefficient below 0."""
        super().__post_init__()
        if not 0 <= self.kl_coef < float("inf"):
            raise ConfigError(f"kl_coef must be at least 0, got {self.kl_coef}; 0.05 is usual")


@dataclass(frozen=True)
class AgentSpec:
    """What is trained, and how long.

    Attributes:
        agent: PPO, GRPO, RLOO, ..., or `module:Class`.
        model: "tiny-lm", a Hugging Face folder, a hub name.
        updates: Updates of the agent.
        num_envs: Completions sampled side by side.
        samples_per_prompt: Answers to each prompt; none for what the agent needs.
        options: Settings of the agent.
        critic: Value head on the policy's trunk ("shared") or on its own ("separate").
        lora: Train low-rank adapters.
        temperature: Of sampling.
        sft: Settings of the supervised fine-tuning that makes the start model, done once for
            each seed and shared by the designs; none to start from `model` itself.
    """

    agent: str = "PPO"
    model: str = "tiny-lm"
    updates: int = 40
    num_envs: int = 64
    samples_per_prompt: int | None = None
    options: dict[str, Any] = field(default_factory=dict)
    critic: Literal["shared", "separate"] = "shared"
    lora: bool = False
    temperature: float = 1.0
    sft: dict[str, Any] | None = None

    def __post_init__(self) -> None:
        """Refuse counts below 1."""
        for name in ("updates", "num_envs"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class EvaluationSpec:
    """How a cell is measured along the way.

    Attributes:
        every: Updates between evaluations; the first is before training, one is at the end.
        prompts: Held-out prompts answered each time, the same for every cell.
        decoding: "greedy" or "sampled".
        split: The split they are of.
        options: Anything else that the runner of the cells knows.
    """

    every: int = 10
    prompts: int = 100
    decoding: Literal["greedy", "sampled"] = "greedy"
    split: Literal["validation", "test"] = "test"
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse counts below 1."""
        for name in ("every", "prompts"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, got {getattr(self, name)}")


@dataclass(frozen=True)
class Study:
    """A study: every environment x design x agent x seed is one cell.

    Attributes:
        name: For people.
        environments: Name -> environment.
        designs: Name -> reward design.
        agents: Name -> agent.
        seeds: From 0; a list, or a text such as "0..9" (both ends are meant).
        evaluation: How cells are measured.
        runner: What runs a cell, `module:function`; none for the one that is built in. Its
            module has a function `resolve_cell` too; see docs/benchmark.md.
    """

    name: str
    environments: dict[str, EnvironmentSpec]
    designs: dict[str, DesignSpec]
    agents: dict[str, AgentSpec]
    seeds: tuple[int, ...] | str = "0..4"
    evaluation: EvaluationSpec = field(default_factory=EvaluationSpec)
    runner: str | None = None

    def __post_init__(self) -> None:
        """Refuse an empty grid; read seeds that are a text."""
        for name in ("environments", "designs", "agents"):
            if not getattr(self, name):
                raise ConfigError(f"the study {self.name!r} has no {name}; give at least one")
        seeds = parse_seeds(self.seeds) if isinstance(self.seeds, str) else self.seeds
        if not seeds or min(seeds) < 0 or len(set(seeds)) < len(seeds):
            raise ConfigError(f"seeds must be different integers from 0, got {list(seeds)}")
        object.__setattr__(self, "seeds", seeds)

    @classmethod
    def from_toml(cls, path: str | Path) -> "Study":
        """Return the study that a TOML file describes.

        Raises:
            ConfigError: if the file cannot be read, or a value is wrong.
            UnknownNameError: if a key is no setting.
        """
        return from_table(cls, read_toml(Path(path), "study file"), str(path))

    def with_seeds(self, seeds: tuple[int, ...]) -> "Study":
        """Return the study with other seeds."""
        return dataclasses.replace(self, seeds=seeds)

    def written(self) -> dict[str, Any]:
        """Return the study with every default filled in, as TOML holds it; none is left out."""
        parts = {
            "environments": {n: _settings(e) for n, e in self.environments.items()},
            "designs": {n: design_settings(d) for n, d in self.designs.items()},
            "agents": {n: _settings(a) for n, a in self.agents.items()},
        }
        head = {"name": self.name, "seeds": list(self.seeds)}
        if self.runner is not None:
            head["runner"] = self.runner
        return {**head, **parts, "evaluation": _settings(self.evaluation)}


def design_settings(design: DesignSpec) -> dict[str, Any]:
    """Return a design as a mapping: the reward, and what else the design says."""
    own = {field.name for field in dataclasses.fields(DesignSpec)}
    own -= {field.name for field in dataclasses.fields(RewardSpec)}
    return {**design.written(), **{k: v for k, v in _settings(design).items() if k in own}}


def parse_seeds(text: str) -> tuple[int, ...]:
    """Return the seeds of a text such as "0..4,7"; both ends of a range are meant.

    >>> parse_seeds("0..2,7")
    (0, 1, 2, 7)

    Raises:
        ConfigError: if the text is none such.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = SEED_RANGE.fullmatch(part.strip())
        if match is None:
            raise ConfigError(f"seeds are numbers and ranges, such as 0..9 or 0,3,5; got {text!r}")
        first = int(match[1])
        seeds.extend(range(first, int(match[2] or first) + 1))
    return tuple(seeds)


def _settings(spec: Any) -> dict[str, Any]:
    """Return the fields of a spec that have a value."""
    values = {f.name: getattr(spec, f.name) for f in dataclasses.fields(spec)}
    return {name: value for name, value in values.items() if value is not None}


def reward_of(design: Mapping[str, Any]) -> dict[str, Any]:
    """Return the reward of a design's mapping, as `make_reward` reads it."""
    names = {field.name for field in dataclasses.fields(RewardSpec)}
    return {name: value for name, value in design.items() if name in names}
