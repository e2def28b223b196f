"""`textenvs sft`: supervised fine-tuning on an oracle's answers, a file, or instruction data."""

import dataclasses
import functools
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym

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
from agents.config import Adapter, SFTConfig
from agents.evaluation import Interval, summarise
from agents.fine_tuning import OracleExamples, sft
from agents.policy import CausalLMPolicy
from agents.publishing import ModelCard, check_repository, finish_stage
from agents.runs import RunFolder, free_folder, plain
from agents.supervision.examples import Example, ExampleSet, Window, context_window
from agents.supervision.likelihood import example_losses, perplexity_of
from agents.supervision.sources import (
    ChatTemplate,
    Columns,
    encode_demonstrations,
    load_demonstrations,
    split_demonstrations,
)
from textenvs.errors import ConfigError

ROWS = 64
"""Held-out prompts answered side by side."""

HELD_OUT_ANSWERS = "Held-out answers, 95% intervals over examples"
WINDOW = 1024
"""Tokens an example may have where the model's context allows it and nothing else is said."""


@dataclasses.dataclass(frozen=True)
class SFTSettings(EnvSettings):
    """Fine-tune a language model on an environment's right answers, or on those of a file.

    Attributes:
        model: "tiny-lm", "smollm2-135m", a run folder, a Hugging Face folder, a hub name.
        data: Learn the answers of this file in place of an environment's: CSV, TSV, JSON,
            JSON-lines or Parquet with the columns prompt and answer, Alpaca's
            instruction/input/output, or chat messages; or "chatterbot".
        prompt_column: Another name for the column of the prompts.
        answer_column: Another name for the column of the answers.
        chat_template: "auto" renders instruction data with the tokenizer's template if it
            has one; "required" insists, and renders plain prompts too; "none" renders none.
        max_tokens: Longer examples of a file (prompt and answer) are left out; by default
            1024, or the model's context if that is shorter.
        max_answer_tokens: Longer answers of a file are cut there.
        out: Run folder; by default runs/sft-SEED.
        lora: Train low-rank adapters; see --adapter.
        adapter: "merge" saves a plain model; "keep" the adapters alone, for peft, which name
            their base.
        seed: Decides the order of the examples.
        eval_prompts: Held-out prompts measured before and after; 0 evaluates nothing. Of a
            file, a fifth is held out, by prompt.
        push_to_hub: Also upload the model to this repository of the Hugging Face hub.
        sft: Settings of the training.
    """

    model: str = "tiny-lm"
    data: str | None = None
    prompt_column: str | None = None
    answer_column: str | None = None
    chat_template: ChatTemplate = "auto"
    max_tokens: int | None = None
    max_answer_tokens: int | None = None
    out: Path | None = None
    lora: bool = False
    adapter: Adapter = "merge"
    seed: int = 0
    eval_prompts: int = 100
    push_to_hub: str | None = None
    sft: SFTConfig = dataclasses.field(default_factory=SFTConfig)


@dataclasses.dataclass(frozen=True)
class Lesson:
    """What is learned, and how it is measured.

    Attributes:
        examples: For `agents.sft`.
        measure: Returns metrics with intervals on what is held out.
        data: What it is, in a sentence.
        title: Of the table of the metrics.
    """

    examples: ExampleSet | OracleExamples
    measure: Callable[[], dict[str, Interval]]
    data: str
    title: str


def fine_tune(arguments: Sequence[str], console: Console) -> int:
    """Fine-tune a model and keep a run folder."""
    settings, dry_run = read_settings(SFTSettings, arguments, command="sft")
    _check(settings)
    settings = dataclasses.replace(settings, model=named_model(settings.model))
    if print_resolved(settings, dry_run, console):
        return 0
    policy = CausalLMPolicy.from_pretrained(settings.model, lora=settings.lora)
    if settings.data is None:
        lesson = _lesson_of_environment(settings, policy)
    else:
        lesson = _lesson_of_file(settings, policy)
        console.say(f"{settings.data}: {lesson.examples.accounting}")
    run = RunFolder(settings.out or free_folder(f"sft-{settings.seed}"), settings)
    table = {"before": lesson.measure()} if settings.eval_prompts else {}
    with console.progress("SFT", settings.sft.steps) as advance:

        def log(values: Mapping[str, Any]) -> None:
            run.log(values)
            advance(f"loss {values['loss']:.3f}")

        sft(policy, lesson.examples, settings.sft, seed=settings.seed, log=log)
    last = policy.save_pretrained(run.checkpoint(settings.sft.steps), settings.adapter)
    if settings.eval_prompts:
        table["after"] = lesson.measure()
        console.print(metrics_table(lesson.title, table, metric_names(table)))
    accounting = lesson.examples.accounting
    if settings.data is None:
        console.say(f"Learned from: {accounting}")
    card = ModelCard(
        stage="sft",
        base_model=settings.model,
        data=f"{lesson.data} {accounting}.",
        command=shlex.join(["textenvs", "sft", *arguments]),
        settings=plain(settings),
        metrics=table.get("after", {}),
    )
    summary = {**as_lists(table), "examples": dataclasses.asdict(accounting)}
    pushed = finish_stage(run, last, card, summary, push_to_hub=settings.push_to_hub)
    console.say(f"Run folder: {run.path}\nModel: {last}")
    if pushed is not None:
        console.say(f"Pushed: {pushed}")
    return 0


OF_A_FILE = ("prompt_column", "answer_column", "chat_template", "max_tokens", "max_answer_tokens")


def _check(settings: SFTSettings) -> None:
    """Refuse settings that would be ignored."""
    if settings.push_to_hub is not None:
        check_repository(settings.push_to_hub)
    if settings.adapter == "keep" and not settings.lora:
        raise ConfigError("--adapter keep needs adapters; add --lora")
    default = SFTSettings()
    if settings.data is None:
        names = [n for n in OF_A_FILE if getattr(settings, n) != getattr(default, n)]
        why = "goes with --data FILE; an environment has options of its own (-o name=value)"
    else:
        fields = [field.name for field in dataclasses.fields(EnvSettings)]
        names = [n for n in fields if getattr(settings, n) != getattr(default, n)]
        why = "goes with an environment, but --data takes its examples from a file"
    if names:
        raise ConfigError(f"--{names[0].replace('_', '-')} {why}; leave out one of the two")


def _lesson_of_environment(settings: SFTSettings, policy: CausalLMPolicy) -> Lesson:
    options = model_options(settings, settings.model)
    env = gym.make(settings.env, **options)

    def measure() -> dict[str, Interval]:
        return summarise(answer_held_out(policy, settings, options, settings.eval_prompts, ROWS))

    data = f"The oracle's answers to prompts of {settings.env} ({', '.join(settings.option)})."
    return Lesson(OracleExamples(policy, env, seed=settings.seed), measure, data, TITLE)


def _lesson_of_file(settings: SFTSettings, policy: CausalLMPolicy) -> Lesson:
    if policy.tokenizer is None:
        raise ConfigError(f"{settings.model!r} has no tokenizer beside it, so it reads no text")
    policy.check_vocabulary(policy.tokenizer.vocab_size)
    context = context_window(policy.model)
    longest = WINDOW if context is None else min(WINDOW, context)
    if context is not None and (settings.max_tokens or 0) > context:
        raise ConfigError(
            f"max_tokens is {settings.max_tokens}, but the context of {settings.model!r} is "
            f"{context} tokens; lower it, or take a model with a longer context"
        )
    window = Window(settings.max_tokens or longest, settings.max_answer_tokens)
    columns = Columns(settings.prompt_column, settings.answer_column)
    rows = load_demonstrations(settings.data, columns)
    train, held_out = split_demonstrations(rows) if settings.eval_prompts else (rows, [])
    encode = functools.partial(
        encode_demonstrations,
        tokenizer=policy.tokenizer,
        window=window,
        chat_template=settings.chat_template,
    )
    examples = encode(train).require_some(f"{settings.data!r} to learn from", window)

    def measure() -> dict[str, Interval]:
        losses = example_losses(policy, judged, packing=settings.sft.packing)
        return {"answer_perplexity": perplexity_of(losses)}

    judged: list[Example] = []
    if settings.eval_prompts:
        kept = encode(held_out).require_some(
            f"{settings.data!r} to measure (a fifth of the prompts; --eval-prompts 0 holds out "
            "none)",
            window,
        )
        judged = kept.examples[: settings.eval_prompts]
    return Lesson(examples, measure, f"Answers of {settings.data}.", HELD_OUT_ANSWERS)
