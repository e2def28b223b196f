"""`textenvs train`, `evaluate` and `demo`: settings in, run folder out."""

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agents.baselines import Reference
from agents.command_line.catalogue import find_learner, takes_callback, takes_policy
from agents.command_line.console import Console, metrics_table
from agents.command_line.episode_sample import EpisodeSample
from agents.command_line.held_out import (
    TITLE,
    answer_held_out,
    as_lists,
    metric_names,
    model_options,
    named_model,
    print_resolved,
)
from agents.command_line.settings import (
    DemoSettings,
    EvaluateSettings,
    TrainSettings,
    read_settings,
)
from agents.command_line.training import held_out_options, make_agent, resolve
from agents.evaluation import Interval, answer_prompts, summarise
from agents.perplexity import perplexity
from agents.pretraining_texts import pretraining_texts
from agents.publishing import ModelCard, check_repository, finish_stage
from agents.runs import RunFolder, free_folder, plain, write_text
from agents.trackers import Trackers, check_trackers, open_trackers
from textenvs.errors import ConfigError
from textenvs.options import checked_integer

MEASURED_TEXTS = 200
"""Held-out pretraining texts whose perplexity is measured, as in `textenvs pretrain`."""
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


def train(arguments: Sequence[str], console: Console) -> int:
    """Train a model with the agent that was asked for, and keep a run folder."""
    settings, dry_run = read_settings(TrainSettings, arguments, command="train")
    learner = find_learner(settings.agent)
    settings = resolve(settings, learner)
    _check_push(settings, learner)
    check_trackers(settings.track)
    told = dataclasses.asdict(settings)
    if settings.agent_option or not takes_policy(learner):
        del told["ppo"]  # the settings of an agent that is not trained
    if print_resolved(told, dry_run, console):
        return 0
    agent, venv = make_agent(settings, learner)
    run = RunFolder(settings.out or free_folder(f"train-{settings.seed}"), told)
    if settings.record_episodes and takes_policy(learner):
        agent.recorder = EpisodeSample(run.episodes, venv, settings.record_episodes)
    table = {}
    options = held_out_options(settings, learner)
    held_out_texts = _held_out_texts(settings.pretraining)

    def judge(stage: str) -> None:
        if settings.eval_prompts:
            answers = answer_held_out(
                agent, settings, options, settings.eval_prompts, settings.num_envs
            )
            table[stage] = summarise(answers)
        if settings.pretraining is not None:
            forgotten = perplexity(agent.policy, agent.policy.tokenizer, held_out_texts)
            table[stage] = {**table.get(stage, {}), "perplexity": forgotten}

    with open_trackers(settings.track, run.path, plain(told), console.say) as trackers:
        judge("before")
        if takes_policy(learner):
            _learn(agent, settings, run, trackers, console)
            last = Path(agent.save(run.checkpoint(agent.num_updates)))
        else:
            last = _learn_own(agent, settings, run, trackers, console)
        judge("after")
    if table:
        console.print(metrics_table(TITLE, table, metric_names(table)))
    pushed = None
    if takes_policy(learner):
        card = _card(settings, learner, arguments, told, table.get("after", {}))
        pushed = finish_stage(run, last, card, as_lists(table), push_to_hub=settings.push_to_hub)
    else:
        run.finish(as_lists(table))
    console.say(f"Run folder: {run.path}\nModel: {last}")
    if pushed is not None:
        console.say(f"Pushed: {pushed}")
    return 0


def _check_push(settings: TrainSettings, learner: type[Any]) -> None:
    """Refuse a push that could not work, before anything is trained."""
    if settings.push_to_hub is None:
        return
    check_repository(settings.push_to_hub)
    if not takes_policy(learner):
        raise ConfigError(
            f"--push-to-hub needs a Hugging Face model, but {learner.__name__} saves itself in a "
            "way of its own; push its folder with `hf upload`"
        )


def _card(
    settings: TrainSettings,
    learner: type[Any],
    arguments: Sequence[str],
    told: Mapping[str, Any],
    metrics: Mapping[str, Interval],
) -> ModelCard:
    options = f" ({', '.join(settings.option)})" if settings.option else ""
    return ModelCard(
        stage=learner.__name__.lower(),
        base_model=settings.model,
        data=f"Prompts of {settings.env}{options}, answered by the model itself.",
        command=shlex.join(["textenvs", "train", *arguments]),
        settings=told,
        metrics=metrics,
    )


def _held_out_texts(source: str | None) -> list[str]:
    """Return the pretraining texts that forgetting is measured on."""
    return [] if source is None else pretraining_texts(source, "held-out")[:MEASURED_TEXTS]


def _learn(
    agent: Any, settings: TrainSettings, run: RunFolder, trackers: Trackers, console: Console
) -> None:
    """Train, one line an update: what was learned and where the time went."""

    def log(metrics: Mapping[str, float]) -> bool:
        run.log(metrics)
        trackers.log(metrics, agent.num_updates)
        console.say(_line(agent.num_updates, metrics))
        every = settings.save_every
        if every and agent.num_updates % every == 0:
            agent.save(run.checkpoint(agent.num_updates))
        return settings.updates is None or agent.num_updates < settings.updates

    agent.learn(settings.timesteps, log, reset_num_timesteps=settings.resume is None)


def _learn_own(
    agent: Any, settings: TrainSettings, run: RunFolder, trackers: Trackers, console: Console
) -> Path:
    """Train an agent that brings its own model; return where it saved itself.

    Its callback, if it takes one, is given a mapping of numbers and may answer False.
    """
    updates = 0

    def log(metrics: Mapping[str, float]) -> bool:
        nonlocal updates
        updates += 1
        run.log(metrics)
        trackers.log(metrics, updates)
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


def evaluate_model(arguments: Sequence[str], console: Console) -> int:
    """Answer held-out prompts, greedily, by sampling, or both."""
    settings, dry_run = read_settings(EvaluateSettings, arguments, command="evaluate")
    settings = dataclasses.replace(settings, model=named_model(settings.model))
    if print_resolved(settings, dry_run, console):
        return 0
    options = {"split": settings.split, **model_options(settings, settings.model)}
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
    console.print(metrics_table(title, table, metric_names(table)))
    if settings.json is not None:
        write_text(settings.json, json.dumps(as_lists(table), indent=2) + "\n")
    return 0


def demo(arguments: Sequence[str], console: Console) -> int:
    """Run the demonstration."""
    from agents.demo import Demonstration

    settings, dry_run = read_settings(DemoSettings, arguments, command="demo")
    default = DemoSettings()
    counts = ("prompts_asked", "pretrain_steps", "sft_steps", "ranked_prompts", "ppo_updates")
    for name in counts:
        checked_integer(name, getattr(settings, name), 1, getattr(default, name))
    checked_integer("n_items", settings.n_items, 2, default.n_items, 30)
    if not print_resolved(settings, dry_run, console):
        Demonstration(settings, console).play()
    return 0
