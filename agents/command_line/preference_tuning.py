"""`textenvs dpo`: direct preference optimisation on a file of ranked answers."""

import dataclasses
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
from torch import Tensor

from agents.command_line.console import Console, metrics_table
from agents.command_line.held_out import (
    TITLE,
    answer_held_out,
    as_lists,
    metric_names,
    model_options,
    named_model,
    print_resolved,
)
from agents.command_line.settings import EnvSettings, read_settings
from agents.dpo import DPOConfig, dpo, preference_metrics
from agents.evaluation import Interval, summarise
from agents.modeling.adapter_folders import Adapter
from agents.policy import CausalLMPolicy
from agents.preference_pairs import OTHER_PROMPTS, PairSet, encode_pairs, fixed_logprobs
from agents.preferences import Ranking, read_rankings, split_by_group
from agents.publishing import ModelCard, check_repository, finish_stage
from agents.runs import RunFolder, free_folder, plain
from agents.validation import require
from textenvs.errors import ConfigError

NO_ENV = "none"
ROWS = 64
"""Held-out prompts answered side by side."""
HELD_OUT_PAIRS = "Held-out pairs, 95% intervals over prompts"


@dataclasses.dataclass(frozen=True)
class DPOSettings(EnvSettings):
    """Train a language model to prefer the better of two answers, without a reward model.

    Attributes:
        env: Id of the environment whose prompts were answered; "none" for rankings of other
            texts, which are then read with the model's tokenizer and not evaluated on prompts.
        rankings: File of rankings or of chosen and rejected answers, as `textenvs
            preferences` writes it.
        held_out_share: Share of the groups of prompts to judge on; 0 holds out none.
        model: The policy before training, and the reference: "tiny-lm", "smollm2-135m", a run
            folder of sft, a Hugging Face folder, a hub name.
        out: Run folder; by default runs/dpo-SEED.
        lora: Train low-rank adapters.
        adapter: How adapters are saved: "merge" writes a plain model, "keep" the adapters alone,
            for peft, with the name of their base.
        seed: Decides the split and the order of the pairs.
        eval_prompts: Held-out prompts answered before and after; 0 answers none.
        device: "cpu", "cuda", ...
        push_to_hub: Also upload the model to this repository of the Hugging Face hub.
        dpo: Settings of the training.
    """

    rankings: Path | None = None
    held_out_share: float = 0.1
    model: str = "tiny-lm"
    out: Path | None = None
    lora: bool = False
    adapter: Adapter = "merge"
    seed: int = 0
    eval_prompts: int = 100
    device: str = "cpu"
    push_to_hub: str | None = None
    dpo: DPOConfig = dataclasses.field(default_factory=DPOConfig)


def tune(arguments: Sequence[str], console: Console) -> int:
    """Train, judge before and after, and keep a run folder."""
    settings, dry_run = read_settings(DPOSettings, arguments, command="dpo")
    _check(settings)
    if print_resolved(settings, dry_run, console):
        return 0
    train, test = _rankings(settings, console)
    model = named_model(settings.model)
    policy = CausalLMPolicy.from_pretrained(model, lora=settings.lora, device=settings.device)
    options: dict[str, Any] = {}
    reader: Any = None
    if settings.env != NO_ENV:
        options = model_options(settings, model)
        reader = gym.make(settings.env, **options)
    learned = encode_pairs(policy, train, reader)
    held_out = encode_pairs(policy, test, reader) if test else None
    _say_counts(learned, console)
    run = RunFolder(settings.out or free_folder(f"dpo-{settings.seed}"), settings)

    def judge() -> dict[str, Interval]:
        if settings.env == NO_ENV or not settings.eval_prompts:
            return {}
        return summarise(answer_held_out(policy, settings, options, settings.eval_prompts, ROWS))

    table = {"before": judge()}
    before = _logprobs(policy, held_out, settings.dpo)
    _train(policy, learned, settings, run, console)
    last = policy.save_pretrained(run.checkpoint(settings.dpo.steps), settings.adapter)
    table["after"] = judge()
    if table["after"]:
        console.print(metrics_table(TITLE, table, metric_names(table)))
    if held_out is not None and before is not None:
        after = _logprobs(policy, held_out, settings.dpo)
        assert after is not None
        found = preference_metrics(
            held_out, before, after, beta=settings.dpo.beta, seed=settings.seed
        )
        console.print(metrics_table(HELD_OUT_PAIRS, {"after": found}, list(found)))
        table["after"] = {**table["after"], **found}
    card = _card(settings, arguments, learned, table["after"])
    pushed = finish_stage(run, last, card, as_lists(table), push_to_hub=settings.push_to_hub)
    console.say(f"Run folder: {run.path}\nModel: {last}")
    if pushed is not None:
        console.say(f"Pushed: {pushed}")
    return 0


def _check(settings: DPOSettings) -> None:
    """Refuse settings that cannot work."""
    require(settings, "held_out_share", "at least 0 and below 1", lambda value: 0 <= value < 1)
    if settings.rankings is None:
        raise ConfigError(
            "--rankings FILE is needed: ranked answers, as `textenvs preferences` writes them"
        )
    if settings.adapter == "keep" and not settings.lora:
        raise ConfigError("--adapter keep goes with --lora; there are no adapters to keep without")
    if settings.push_to_hub is not None:
        check_repository(settings.push_to_hub)


def _rankings(
    settings: DPOSettings, console: Console
) -> tuple[Sequence[Ranking], Sequence[Ranking]]:
    """Return what to learn from and what to judge on; print what was left out."""
    assert settings.rankings is not None, "checked before"
    found = read_rankings(settings.rankings)
    for what, number in found.counts.items():
        if number:
            console.say(f"left out or merged: {number} {what}")
    for note in found.notes:
        console.say(f"note: {note}")
    return split_by_group(found.rankings, held_out=settings.held_out_share, seed=settings.seed)


def _say_counts(pairs: PairSet, console: Console) -> None:
    answered = len(set(pairs.prompts))
    console.say(f"{len(pairs)} pairs of {len(pairs.answers)} answers to {answered} prompts")
    for what, number in pairs.counts.items():
        remark = "; they are read as plain text" if what == OTHER_PROMPTS else ", left out"
        console.say(f"{number} {what}{remark}")


def _logprobs(policy: CausalLMPolicy, pairs: PairSet | None, config: DPOConfig) -> Tensor | None:
    if pairs is None:
        return None
    return fixed_logprobs(policy, pairs, micro_batch_tokens=config.micro_batch_tokens)


def _train(
    policy: CausalLMPolicy,
    pairs: PairSet,
    settings: DPOSettings,
    run: RunFolder,
    console: Console,
) -> None:
    with console.progress("DPO", settings.dpo.steps) as advance:

        def log(values: Mapping[str, Any]) -> None:
            run.log(values)
            advance(
                f"loss {values['loss']:.3f}  accuracy {values['accuracy']:.2f}  "
                f"margin {values['margin']:.2f}  chosen {values['chosen_logprob']:.1f} nats"
            )

        dpo(policy, pairs, settings.dpo, seed=settings.seed, log=log)


def _card(
    settings: DPOSettings,
    arguments: Sequence[str],
    learned: PairSet,
    metrics: Mapping[str, Interval],
) -> ModelCard:
    return ModelCard(
        stage="dpo",
        base_model=settings.model,
        data=f"{len(learned)} pairs of answers of {settings.rankings}; "
        f"{settings.held_out_share:.0%} of the groups of prompts were held out.",
        command=shlex.join(["textenvs", "dpo", *arguments]),
        settings=plain(settings),
        metrics=metrics,
        notes=(
            "The reference is the model it began as. Preference metrics are of the implicit "
            "reward beta * log(pi / pi_ref) (arXiv:2305.18290, section 5).",
        ),
    )
