"""`textenvs train`, `sft`, `evaluate` and `demo`: settings in, run folder out."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import tomli_w
from transformers.utils import logging as transformers_logging

from agents.baselines import Reference
from agents.command_line.catalogue import find_learner, takes_callback, takes_policy
from agents.command_line.console import Console, metrics_table
from agents.command_line.episode_sample import EpisodeSample
from agents.command_line.inspection import require_id
from agents.command_line.settings import (
    DemoSettings,
    EnvSettings,
    EvaluateSettings,
    SFTSettings,
    TrainSettings,
    read_settings,
)
from agents.command_line.training import held_out_options, make_agent, resolve
from agents.evaluation import Answer, answer_prompts, summarise
from agents.fine_tuning import sft
from agents.policy import CausalLMPolicy
from agents.runs import RunFolder, free_folder, plain, write_text
from textenvs.errors import ConfigError
from textenvs.models import model_folder

# The commands show their own progress; a library's bars would tear it.
transformers_logging.disable_progress_bar()

HELD_OUT = "Held-out prompts, greedy, 95% intervals"
SHOWN = {
    "timesteps": "tokens {:.0f}",
    "score": "score {:.3f}",
    "kl": "KL {:.2f}",
    "entropy": "entropy {:.2f}",
    "seconds_rollout": "seconds: rollout {:.2f},",
    "seconds_reference": "reference {:.2f},",
    "seconds_update": "update {:.2f}",
}
"""Metric -> how the line of an update shows it."""


def _resolved(settings: Any, dry_run: bool, console: Console) -> bool:
    """Print the settings if that is all that was asked for."""
    if dry_run:
        console.say(tomli_w.dumps(plain(settings)).rstrip())
    return dry_run


def _options(settings: EnvSettings, model: str) -> dict[str, Any]:
    """Return the environment's options, with the model's own tokenizer."""
    require_id(settings.env)
    return {"tokenizer": model_folder(model), **settings.options()}


def _held_out(
    agent: Any, settings: EnvSettings, options: Mapping[str, Any], n_prompts: int, rows: int
) -> list[Answer]:
    test = {"split": "test", **options}
    return answer_prompts(agent, settings.env, n_prompts, num_envs=rows, env_kwargs=test)


def train(arguments: Sequence[str], console: Console) -> int:
    """Train a model with the agent that was asked for, and keep a run folder."""
    settings, dry_run = read_settings(TrainSettings, arguments, command="train")
    learner = find_learner(settings.agent)
    settings = resolve(settings, learner)
    told = dataclasses.asdict(settings)
    if settings.agent_option or not takes_policy(learner):
        del told["ppo"]  # the settings of an agent that is not trained
    if _resolved(told, dry_run, console):
        return 0
    agent, venv = make_agent(settings, learner)
    run = RunFolder(settings.out or free_folder(f"train-{settings.seed}"), told)
    if settings.record_episodes and takes_policy(learner):
        agent.recorder = EpisodeSample(run.episodes, venv, settings.record_episodes)
    table = {}
    options = held_out_options(settings, learner)

    def judge(stage: str) -> None:
        if settings.eval_prompts:
            answers = _held_out(agent, settings, options, settings.eval_prompts, settings.num_envs)
            table[stage] = summarise(answers)

    judge("before")
    if takes_policy(learner):
        _learn(agent, settings, run, console)
        last = agent.save(run.checkpoint(agent.num_updates))
    else:
        last = _learn_own(agent, settings, run, console)
    judge("after")
    if table:
        console.print(metrics_table(HELD_OUT, table, _shown(table)))
    run.finish({stage: {n: list(v) for n, v in row.items()} for stage, row in table.items()})
    console.say(f"Run folder: {run.path}\nModel: {last}")
    return 0


def _learn(agent: Any, settings: TrainSettings, run: RunFolder, console: Console) -> None:
    """Train, one line an update: what was learned and where the time went."""

    def log(metrics: Mapping[str, float]) -> bool:
        run.log(metrics)
        console.say(_line(agent.num_updates, metrics))
        every = settings.save_every
        if every and agent.num_updates % every == 0:
            agent.save(run.checkpoint(agent.num_updates))
        return settings.updates is None or agent.num_updates < settings.updates

    agent.learn(settings.timesteps, log, reset_num_timesteps=settings.resume is None)


def _learn_own(agent: Any, settings: TrainSettings, run: RunFolder, console: Console) -> Path:
    """Train an agent that brings its own model; return where it saved itself.

    Its callback, if it takes one, is given a mapping of numbers and may answer False.
    """
    updates = 0

    def log(metrics: Mapping[str, float]) -> bool:
        nonlocal updates
        updates += 1
        run.log(metrics)
        console.say(_line(updates, metrics))
        if settings.save_every and updates % settings.save_every == 0:
            agent.save(str(run.checkpoint(updates)))
        return settings.updates is None or updates < settings.updates

    if takes_callback(type(agent)):
        agent.learn(settings.timesteps, log)
    else:
        agent.learn(settings.timesteps)
    path = run.path / "checkpoints" / "final"
    agent.save(str(path))
    return path


def _line(update: int, metrics: Mapping[str, float]) -> str:
    """Return the numbers of an update in one line; those that are missing are left out."""
    words = [f"update {update}"]
    for name, shown in SHOWN.items():
        if name in metrics:
            words.append(shown.format(metrics[name]))
    return "  ".join(words)


def fine_tune(arguments: Sequence[str], console: Console) -> int:
    """Fine-tune a model on an environment's right answers."""
    settings, dry_run = read_settings(SFTSettings, arguments, command="sft")
    if _resolved(settings, dry_run, console):
        return 0
    run = RunFolder(settings.out or free_folder(f"sft-{settings.seed}"), settings)
    options = _options(settings, settings.model)
    env = gym.make(settings.env, **options)
    policy = CausalLMPolicy.from_pretrained(settings.model, lora=settings.lora)
    table = {}
    if settings.eval_prompts:
        table["before"] = summarise(_held_out(policy, settings, options, settings.eval_prompts, 64))
    with console.progress("SFT", settings.sft.steps) as advance:

        def log(values: Mapping[str, Any]) -> None:
            run.log(values)
            advance(f"loss {values['loss']:.3f}")

        sft(policy, env, settings.sft, seed=settings.seed, log=log)
    last = policy.save_pretrained(run.checkpoint(settings.sft.steps))
    if settings.eval_prompts:
        table["after"] = summarise(_held_out(policy, settings, options, settings.eval_prompts, 64))
        console.print(metrics_table(HELD_OUT, table, _shown(table)))
    run.finish({stage: {n: list(v) for n, v in row.items()} for stage, row in table.items()})
    console.say(f"Run folder: {run.path}\nModel: {last}")
    return 0


def evaluate_model(arguments: Sequence[str], console: Console) -> int:
    """Answer held-out prompts, greedily, by sampling, or both."""
    settings, dry_run = read_settings(EvaluateSettings, arguments, command="evaluate")
    if _resolved(settings, dry_run, console):
        return 0
    options = {"split": settings.split, **_options(settings, settings.model)}
    agent = Reference(settings.model, settings.seed)
    ways = ("greedy", "sampled") if settings.decoding == "both" else (settings.decoding,)
    table = {}
    for way in ways:
        answers = answer_prompts(
            agent,
            settings.env,
            settings.prompts_asked,
            way == "greedy",
            num_envs=settings.num_envs,
            env_kwargs=options,
        )
        table[way] = summarise(answers, seed=settings.seed)
        for answer in answers[: settings.samples]:
            console.say(f"[{way}] {answer.prompt_id}: {answer.completion!r}")
    title = f"{settings.prompts_asked} prompts of {settings.split}, 95% intervals"
    console.print(metrics_table(title, table, _shown(table)))
    if settings.json is not None:
        values = {way: {n: list(v) for n, v in row.items()} for way, row in table.items()}
        write_text(settings.json, json.dumps(values, indent=2) + "\n")
    return 0


def demo(arguments: Sequence[str], console: Console) -> int:
    """Run the demonstration."""
    from agents.demo import run_demo

    settings, dry_run = read_settings(DemoSettings, arguments, command="demo")
    if settings.n_items < 2 or min(settings.prompts_asked, settings.ppo_updates) < 1:
        raise ConfigError("n_items must be at least 2, prompts_asked and ppo_updates at least 1")
    if not _resolved(settings, dry_run, console):
        run_demo(settings, console)
    return 0


def _shown(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in table.values() for name in row))
