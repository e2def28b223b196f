"""`textenvs preferences`: ranked answers in, statistics and a file of rankings out."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import gymnasium as gym
import numpy as np
import tyro

from agents.baselines import Reference
from agents.command_line.console import Console
from agents.command_line.held_out import model_options, named_model, print_resolved
from agents.command_line.settings import EnvSettings, Options, read_settings
from agents.preferences import (
    RankingSet,
    from_context,
    from_judge,
    from_samples,
    gold_metric,
    oracle_notes,
    read_rankings,
    remarks,
    sample_answers,
    statistics,
    statistics_table,
    write_rankings,
)
from agents.runs import free_folder
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.rewards import Judge, PairwiseJudge, resolve_reward
from textenvs.types import Episode

DEFAULT_GOLD = "correct"
"""The gold metric that rankings are compared with, where the environment has it."""


@dataclasses.dataclass(frozen=True)
class PreferenceSettings(EnvSettings):
    """Build ranked answers, print what they are worth, and keep them as JSON lines.

    Attributes:
        source: "context" (right answers above wrong ones), "samples" (of a model, ranked by
            a score), "judge" (samples ranked by an AI judge), or a file: rankings, or pairs
            in columns.
        model: Whose answers are sampled, and whose tokenizer the environment takes:
            "tiny-lm", "smollm2-135m", a run folder, a Hugging Face folder, a hub name.
        rank_by: Of samples: "reward" (the environment's), a gold metric of the environment,
            or a reward such as reward-model:FOLDER.
        judge: Of --source judge: judge:MODEL, pairwise-judge:MODEL, or another reward.
        prompts_asked: The first so many prompts.
        samples: Answers sampled to each prompt.
        rejected: Of --source context: a kind of rejected answers, "unlisted",
            "wrong-category" or "mixed"; may be repeated, the better kind first.
        per_prompt: Of --source context: rejected answers of each kind.
        part: Of --source context: choose some of the right titles rather than all.
        split: "train", "validation" or "test".
        gold: Metric of the environment that the pairs are compared with; by default
            "correct", where there is one.
        prompt_column: Of a file.
        chosen_column: Of a file of pairs.
        rejected_column: Of a file of pairs.
        group_column: Of a file: whose rows stay together when it is split.
        merge: Of a file: make one ranking of the rows of a prompt where they agree.
        seed: Of sampling and of the titles that are drawn.
        out: File to write (.jsonl); by default runs/preferences-SEED/rankings.jsonl.
    """

    source: str = "context"
    model: str = "tiny-lm"
    rank_by: str = "reward"
    judge: str | None = None
    prompts_asked: int = 300
    samples: int = 4
    rejected: Annotated[Options, tyro.conf.arg(aliases=["-r"])] = ()
    per_prompt: int = 1
    part: bool = False
    split: str = "train"
    gold: str | None = None
    prompt_column: str = "prompt"
    chosen_column: str = "chosen"
    rejected_column: str = "rejected"
    group_column: str = "group"
    merge: bool = True
    seed: int = 0
    out: Path | None = None


def build_preferences(arguments: Sequence[str], console: Console) -> int:
    """Build rankings, print their statistics and write them."""
    settings, dry_run = read_settings(PreferenceSettings, arguments, command="preferences")
    _check(settings)
    if print_resolved(settings, dry_run, console):
        return 0
    model = named_model(settings.model)
    options = {"split": settings.split, **model_options(settings, model)}
    env = gym.make(settings.env, **options)
    gold = _gold(settings, env)
    standard = None if gold is None else gold_metric(env, gold)
    rankings = SOURCES.get(settings.source, _from_file)(settings, env)
    told = statistics(rankings, gold=standard, seed=settings.seed)
    out = settings.out or free_folder(f"preferences-{settings.seed}") / "rankings.jsonl"
    write_rankings(out, rankings)
    title = f"Rankings from {settings.source}, 95% intervals"
    console.print(statistics_table(title if gold is None else f"{title}; gold: {gold}", told))
    for remark in remarks(rankings, told):
        console.say(remark)
    console.say(f"Rankings: {out}")
    return 0


def _from_context(settings: PreferenceSettings, env: Any) -> RankingSet:
    return from_context(
        env,
        settings.prompts_asked,
        per_prompt=settings.per_prompt,
        rejected=settings.rejected or ("unlisted",),
        part=settings.part,
        generator=np.random.default_rng(settings.seed),
    )


def _from_samples(settings: PreferenceSettings, env: Any) -> RankingSet:
    return from_samples(
        Reference(named_model(settings.model), settings.seed),
        env,
        settings.prompts_asked,
        samples_per_prompt=settings.samples,
        rank_by=settings.rank_by,
    )


def _from_judge(settings: PreferenceSettings, env: Any) -> RankingSet:
    judge = resolve_reward(settings.judge)
    if isinstance(judge, (Judge, PairwiseJudge)):
        judge.model.load()  # a wrong name is found before the answers are sampled
    agent = Reference(named_model(settings.model), settings.seed)
    sampled = sample_answers(
        agent, env, settings.prompts_asked, samples_per_prompt=settings.samples
    )
    answers = {
        asked.prompt.id: [episode.completion for episode in asked.episodes] for asked in sampled
    }
    return from_judge(env, answers, judge)


def _from_file(settings: PreferenceSettings, env: Any) -> RankingSet:
    found = read_rankings(
        settings.source,
        prompt_column=settings.prompt_column,
        chosen_column=settings.chosen_column,
        rejected_column=settings.rejected_column,
        group_column=settings.group_column,
        merge=settings.merge,
    )
    return dataclasses.replace(found, notes=(*found.notes, *oracle_notes(found, env)))


SOURCES: dict[str, Callable[[PreferenceSettings, Any], RankingSet]] = {
    "context": _from_context,
    "samples": _from_samples,
    "judge": _from_judge,
}
"""Source -> what builds the rankings; any other source is a file."""

GOES_WITH = {
    "rank_by": ("samples",),
    "judge": ("judge",),
    "prompts_asked": ("context", "samples", "judge"),
    "samples": ("samples", "judge"),
    "rejected": ("context",),
    "per_prompt": ("context",),
    "part": ("context",),
    "prompt_column": ("FILE",),
    "chosen_column": ("FILE",),
    "rejected_column": ("FILE",),
    "group_column": ("FILE",),
    "merge": ("FILE",),
}
"""Setting -> the sources that look at it."""


def _check(settings: PreferenceSettings) -> None:
    """Refuse a source that is none, and settings that would be ignored."""
    source = settings.source
    if source not in SOURCES and not Path(source).is_file():
        raise UnknownNameError("source", source, SOURCES, "Or give the path of a file.")
    kind = source if source in SOURCES else "FILE"
    default = PreferenceSettings()
    for name, kinds in GOES_WITH.items():
        if kind not in kinds and getattr(settings, name) != getattr(default, name):
            raise ConfigError(
                f"--{name.replace('_', '-')} goes with --source {' or '.join(kinds)}, but the "
                f"source is {source!r}; leave one of the two out"
            )
    if source == "judge" and settings.judge is None:
        raise ConfigError(
            "--source judge needs a judge: --judge pairwise-judge:MODEL or --judge judge:MODEL"
        )
    if settings.out is not None and settings.out.exists():
        raise ConfigError(f"{str(settings.out)!r} is there already; choose another with --out")


def _gold(settings: PreferenceSettings, env: Any) -> str | None:
    """Return the metric to compare with; the one that ranks the samples could only agree."""
    if settings.gold is not None:
        return settings.gold
    if settings.source == "samples" and settings.rank_by == DEFAULT_GOLD:
        return None
    batch = env.unwrapped.batch
    known = batch.metrics([Episode(batch.prompts[0], "")])
    return DEFAULT_GOLD if DEFAULT_GOLD in known else None
