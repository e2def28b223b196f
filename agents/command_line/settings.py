"""The settings of each command, and how they are read: TOML file first, flags over it."""

import dataclasses
import tomllib
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tomli_w
import tyro

from agents.config import Critic, PPOConfig
from textenvs.errors import ConfigError
from textenvs.typed_tables import NONE, from_table, read_toml, table_values

Settings = TypeVar("Settings")
Options = Annotated[tuple[str, ...], tyro.conf.UseAppendAction]

DEFAULT_ENV = "textenvs/ContextSelect-v0"
REWARD_MODEL = "reward-model:"


@dataclasses.dataclass(frozen=True)
class EnvSettings:
    """Which environment, with which options.

    Attributes:
        env: Id of the environment.
        prompts: Corpus or file of prompts; short for -o corpus=... (ContextSelect).
        option: An option of the environment as name=value, e.g. -o n_items=8; may be
            repeated. See `textenvs info ID`.
    """

    env: str = DEFAULT_ENV
    prompts: str | None = None
    option: Annotated[Options, tyro.conf.arg(aliases=["-o"])] = ()

    def options(self) -> dict[str, Any]:
        """Return the options as keyword arguments; values are read as TOML, else as text.

        A reward model may be named by the run folder of `textenvs rm`.
        """
        parsed = parse_options(self.option)
        named = parsed.get("reward")
        if isinstance(named, str) and named.startswith(REWARD_MODEL):
            parsed["reward"] = _stage_reward(named)
        return parsed if self.prompts is None else {"corpus": self.prompts, **parsed}


@dataclasses.dataclass(frozen=True)
class TrainSettings(EnvSettings):
    """Train a language model against an environment, by PPO or any other agent.

    Attributes:
        agent: PPO, GRPO, RLOO, REINFORCE, A2C, NLPO, ExpertIteration, OnlineDPO, or a class
            of your own as module:Class. Agents that compare several answers to a prompt
            draw 8 of each, or as many as -o samples_per_prompt=N says.
        agent_option: A setting of the agent as name=value, e.g. -a learning_rate=1e-5; may
            be repeated. PPO has --ppo.* as well.
        model: "tiny-lm", "smollm2-135m", a Hugging Face folder, a hub name.
        out: Run folder; by default runs/train-SEED.
        timesteps: Tokens to act in all.
        updates: Stop after so many updates instead.
        num_envs: Completions sampled side by side.
        kl_coef: Coefficient of the KL to the model as it was before training.
        kl_target: Adapt the coefficient to this KL, in nats a completion.
        kl_timing: Ask the reference once an "episode", or at each "step".
        critic: Value head on the policy's trunk ("shared") or on its own ("separate").
        lora: Train low-rank adapters; the reference is then the model without them.
        temperature: Of sampling.
        pretraining: Text as in `textenvs pretrain --data`. Its held-out part is read before
            and after, so that forgetting shows as perplexity; with --ppo.ptx-coef (other
            agents: -a ptx_coef=...) the rest is mixed into every update, against it.
        seed: Decides prompts, tokens and batches.
        eval_prompts: Held-out prompts answered before and after; 0 evaluates nothing.
        save_every: Updates between checkpoints; 0 saves at the end alone.
        record_episodes: Episodes of each update kept in episodes.jsonl; 0 keeps none.
        track: Show the metrics in a tracker as well: "tensorboard", "trackio" or "wandb"; may
            be repeated. Nothing leaves this machine unless you have told the tracker to.
        resume: A checkpoint to go on from, exactly.
        push_to_hub: Also upload the model to this repository of the Hugging Face hub.
        ppo: Settings of PPO.
    """

    agent: str = "PPO"
    agent_option: Annotated[Options, tyro.conf.arg(aliases=["-a"])] = ()
    model: str = "tiny-lm"
    out: Path | None = None
    timesteps: int = 200_000
    updates: int | None = None
    num_envs: int = 64
    kl_coef: float = 0.05
    kl_target: float | None = None
    kl_timing: str = "episode"
    critic: Critic = "shared"
    lora: bool = False
    temperature: float = 1.0
    pretraining: str | None = None
    seed: int = 0
    eval_prompts: int = 100
    save_every: int = 0
    record_episodes: int = 4
    track: Options = ()
    resume: Path | None = None
    push_to_hub: str | None = None
    ppo: PPOConfig = dataclasses.field(default_factory=PPOConfig)


@dataclasses.dataclass(frozen=True)
class EvaluateSettings(EnvSettings):
    """Answer held-out prompts and print the gold metrics with 95% intervals.

    Attributes:
        model: "tiny-lm", "smollm2-135m", a Hugging Face folder, a hub name.
        prompts_asked: Prompts to answer.
        split: "train", "validation" or "test".
        decoding: "greedy", "sampled", or "both".
        num_envs: Prompts answered side by side.
        seed: Of sampling and of the bootstrap.
        samples: Answers to print.
        json: Write the metrics to this file too.
    """

    model: str = "tiny-lm"
    prompts_asked: int = 200
    split: str = "test"
    decoding: typing.Literal["greedy", "sampled", "both"] = "both"
    num_envs: int = 64
    seed: int = 0
    samples: int = 3
    json: Path | None = None


@dataclasses.dataclass(frozen=True)
class DemoSettings:
    """Watch a small language model take the whole road: pretraining, SFT, reward model, PPO.

    Attributes:
        out: Run folder; by default runs/demo-SEED.
        seed: Decides everything that is random.
        corpus: Titles with categories: "films", "bbc-news", a file.
        n_items: Titles in each list.
        prompts_asked: Held-out prompts for each row of the table.
        pretrain_steps: Steps of pretraining on the titles of the corpus.
        sft_steps: Steps of supervised fine-tuning.
        ranked_prompts: Prompts whose answers are ranked, for the reward model and DPO.
        ppo_updates: Updates of each PPO.
    """

    out: Path | None = None
    seed: int = 0
    corpus: str = "films"
    n_items: int = 8
    prompts_asked: int = 300
    pretrain_steps: int = 40
    sft_steps: int = 60
    ranked_prompts: int = 2000
    ppo_updates: int = 40


def _stage_reward(name: str) -> str:
    """Return the name of a reward model with its run folder resolved, if it is one."""
    path, mark, label = name.removeprefix(REWARD_MODEL).partition("#")
    if not Path(path).is_dir():
        return name
    from agents.publishing import stage_model  # imports torch, which not every command needs

    return f"{REWARD_MODEL}{stage_model(path, wants='reward-model')}{mark}{label}"


def read_settings(
    kind: type[Settings], arguments: Sequence[str], *, command: str
) -> tuple[Settings, bool]:
    """Return the settings of a command, and whether only to print them.

    `--config FILE.toml` gives defaults, `--dry-run` prints; every other flag overrides.

    Raises:
        ConfigError: if the file cannot be read or holds a wrong value.
        SystemExit: with code 2 on a wrong flag, 0 after --help.
    """
    rest, file, dry_run = [], None, False
    given = iter(arguments)
    for word in given:
        if word == "--dry-run":
            dry_run = True
        elif word == "--config":
            file = next(given, None)
            if file is None:
                raise ConfigError("--config needs the path of a TOML file")
        elif word.startswith("--config="):
            file = word.partition("=")[2]
        else:
            rest.append(word)
    default = kind() if file is None else from_toml(kind, Path(file))
    note = "Also: --config FILE.toml (defaults for every flag), --dry-run (print the settings)."
    settings = tyro.cli(
        kind,
        prog=f"textenvs {command}",
        description=f"{(kind.__doc__ or '').splitlines()[0]} {note}",
        args=rest,
        default=default,
    )
    return settings, dry_run


def from_toml(kind: type[Settings], path: Path) -> Settings:
    """Return settings read from a TOML file.

    Raises:
        ConfigError: if there is no such file, or it is no TOML.
        UnknownNameError: if a key is no setting.
    """
    return from_table(kind, read_toml(path), str(path))


def with_options(config: Any, options: Mapping[str, Any], where: str) -> Any:
    """Return a settings dataclass with some values replaced, checked like those of a file.

    Args:
        config: The dataclass.
        options: Name -> value, as `parse_options` reads them.
        where: What the options are of, for messages.

    Raises:
        ConfigError: if a value is of a wrong type or out of range.
        UnknownNameError: if a name is no setting.
    """
    return dataclasses.replace(config, **table_values(type(config), options, where))


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """Return the values of `name=value` texts; they are read as TOML, else as text.

    Raises:
        ConfigError: if a text has no name or no "=".
    """
    return dict(_parse_option(text) for text in texts)


def write_options(config: Any) -> tuple[str, ...]:
    """Return all settings of a dataclass as `name=value`, as `with_options` reads them."""
    return tuple(
        f"{field.name}={_option_text(getattr(config, field.name))}"
        for field in dataclasses.fields(config)
    )


def _option_text(value: Any) -> str:
    return NONE if value is None else tomli_w.dumps({"v": value}).partition("=")[2].strip()


def _parse_option(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise ConfigError(f"an option is name=value, got {text!r}; e.g. -o n_items=8")
    try:
        return name.strip().replace("-", "_"), tomllib.loads(f"v = {value}")["v"]
    except tomllib.TOMLDecodeError:
        return name.strip().replace("-", "_"), value
