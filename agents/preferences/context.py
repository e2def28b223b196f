"""Ranked answers from what stands in a prompt, and what does not: no model is asked."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from agents.preferences.collection import RankingCollector
from agents.preferences.rankings import RankingSet
from textenvs.checker.probes import context_copies
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.options import checked_integer
from textenvs.prompts import PromptSource, normalise
from textenvs.rewards.grounding.context_match import targets_of
from textenvs.rewards.grounding.title_match import title_key
from textenvs.types import Item, Prompt

TRIES = 64
"""Draws of another prompt before a rejected answer is given up."""
NO_ANSWER = "rejected answers not found"


@dataclass(frozen=True)
class Draw:
    """What a rejected answer is drawn from.

    Attributes:
        prompt: The prompt it answers, wrongly.
        lines: How many titles it names: as many as the chosen answer.
        source: All prompts.
        generator: Decides.
    """

    prompt: Prompt
    lines: int
    source: PromptSource
    generator: np.random.Generator

    def other_prompt(self) -> Prompt:
        """Return another prompt, or this one where it is the only one."""
        prompt: Prompt = self.source[int(self.generator.integers(len(self.source)))]
        return prompt

    def some(self, titles: Sequence[str]) -> str | None:
        """Return some of the titles, one a line; None where there are too few."""
        if len(titles) < self.lines:
            return None
        chosen = self.generator.choice(len(titles), self.lines, replace=False)
        return "\n".join(titles[i] for i in chosen)


def unlisted(draw: Draw) -> str | None:
    """Return titles from the lists of other prompts that are not in this one's."""
    listed = {title_key(item.title) for item in draw.prompt.context}
    found: dict[str, str] = {}
    for _ in range(TRIES):
        context = draw.other_prompt().context
        item = context[int(draw.generator.integers(len(context)))]
        if title_key(item.title) not in listed:
            found.setdefault(title_key(item.title), item.title)
        if len(found) == draw.lines:
            return "\n".join(found.values())
    return None


def wrong_category(draw: Draw) -> str | None:
    """Return titles of the list whose category is not the one asked for."""
    return draw.some(_titles(draw.prompt, asked=False))


def mixed(draw: Draw) -> str | None:
    """Return invented titles: the beginning of one listed title and the end of another."""
    titles = [item.title for item in draw.prompt.context]
    known = {title_key(title) for title in titles}
    found: dict[str, str] = {}
    for _ in range(TRIES):
        first, second = draw.generator.choice(len(titles), 2, replace=False)
        head, tail = titles[first].split(), titles[second].split()
        title = " ".join(head[: (len(head) + 1) // 2] + tail[len(tail) // 2 :])
        if title_key(title) not in known:
            found.setdefault(title_key(title), title)
        if len(found) == draw.lines:
            return "\n".join(found.values())
    return None


REJECTED: dict[str, Callable[[Draw], str | None]] = {
    "unlisted": unlisted,
    "wrong-category": wrong_category,
    "mixed": mixed,
}
"""Kinds of rejected answers where the context is a list of titles with categories."""


def from_context(
    env: Any,
    n_prompts: int,
    *,
    per_prompt: int = 1,
    rejected: Sequence[str] = ("unlisted",),
    part: bool = False,
    generator: np.random.Generator,
) -> RankingSet:
    """Return a ranking of each of the first prompts: a right answer, and wrong ones below it.

    Where the context is a list of titles with categories (`ContextSelect-v0`), the chosen
    answer is the oracle's and the rejected ones name as many titles, so that the number of
    lines tells nothing. Elsewhere the rejected answers are the oracle's to other prompts that
    do not stand in this prompt's context.

    Args:
        env: A text environment, single or vector.
        n_prompts: The first so many prompts of its split.
        per_prompt: Rejected answers of each kind; they tie.
        rejected: Kinds of `REJECTED`, the better first: ("wrong-category", "unlisted") ranks
            right, listed but wrong, not listed. Other contexts know "unlisted" alone.
        part: Choose a random part of the right titles rather than all of them.
        generator: Decides the titles.

    Raises:
        ConfigError: if the environment has no context or no right answer, or a number is out
            of range.
        UnknownNameError: if a kind is unknown.
    """
    batch = env.unwrapped.batch
    checked_integer("n_prompts", n_prompts, 1, 300)
    checked_integer("per_prompt", per_prompt, 1, 1)
    _check_kinds(rejected)
    collector = RankingCollector()
    for index in range(min(n_prompts, len(batch.prompts))):
        prompt = batch.encoded(index)[0]
        chosen, made = (_from_list if _is_list(prompt) else _from_others)(
            batch, prompt, per_prompt, rejected, part, generator
        )
        collector.count(NO_ANSWER, sum(text is None for _, text in made))
        answers = [chosen, *(text for _, text in made if text is not None)]
        ranks = [0, *(rank for rank, text in made if text is not None)]
        collector.add(prompt.text, answers, ranks, group=prompt.group, prompt_id=prompt.id)
    return collector.finish("ask for more prompts, or for another kind of rejected answers")


def _is_list(prompt: Prompt) -> bool:
    context = prompt.context
    return isinstance(context, tuple) and all(isinstance(item, Item) for item in context)


def _from_list(
    batch: Any,
    prompt: Prompt,
    per_prompt: int,
    rejected: Sequence[str],
    part: bool,
    generator: np.random.Generator,
) -> tuple[str, list[tuple[int, str | None]]]:
    """Return the chosen answer, and (rank, answer) of the rejected; None where there is none."""
    right = _titles(prompt, asked=True)
    chosen = batch.oracle(prompt)
    if part:
        kept = generator.choice(len(right), int(generator.integers(1, len(right) + 1)), False)
        chosen = "\n".join(right[i] for i in sorted(kept))
    draw = Draw(prompt, len(chosen.splitlines()), batch.prompts, generator)
    made = [
        (rank, REJECTED[kind](draw))
        for rank, kind in enumerate(rejected, start=1)
        for _ in range(per_prompt)
    ]
    return chosen, made


def _from_others(
    batch: Any,
    prompt: Prompt,
    per_prompt: int,
    rejected: Sequence[str],
    part: bool,
    generator: np.random.Generator,
) -> tuple[str, list[tuple[int, str | None]]]:
    """Return the same where the context is no list of titles."""
    if prompt.context is None:
        raise ConfigError(
            f"the prompt {prompt.id!r} has no context to choose an answer from; sample answers "
            "and rank them instead (from_samples, --source samples), or give the environment's "
            "prompts a context"
        )
    if tuple(rejected) != ("unlisted",) or part:
        raise ConfigError(
            f"the prompt {prompt.id!r} has no list of titles with categories, so its rejected "
            f'answers are of the kind "unlisted" and its chosen answer is whole; got '
            f"rejected={tuple(rejected)!r}, part={part}"
        )
    chosen: str = batch.oracle(prompt)
    draw = Draw(prompt, 1, batch.prompts, generator)
    return chosen, [(1, _answer_elsewhere(batch, draw, chosen)) for _ in range(per_prompt)]


def _answer_elsewhere(batch: Any, draw: Draw, chosen: str) -> str | None:
    """Return another prompt's right answer, which is not this one's nor in its context."""
    held = normalise("\n".join(context_copies(draw.prompt.context).values()))
    for _ in range(TRIES):
        answer: str = batch.oracle(draw.other_prompt())
        key = normalise(answer)
        if key and key != normalise(chosen) and key not in held:
            return answer
    return None


def _titles(prompt: Prompt, *, asked: bool) -> list[str]:
    """Return the different titles of the asked category, or those of none such."""
    flags = targets_of(prompt)
    wanted = {
        title_key(i.title) for i, is_target in zip(prompt.context, flags, strict=True) if is_target
    }
    by_key = {title_key(item.title): item.title for item in prompt.context}
    return [title for key, title in by_key.items() if (key in wanted) == asked]


def _check_kinds(rejected: Sequence[str]) -> None:
    if isinstance(rejected, str) or not rejected or len(set(rejected)) != len(rejected):
        raise ConfigError(
            f"rejected must be different kinds of {sorted(REJECTED)}, the better first, got "
            f"{rejected!r}"
        )
    for kind in rejected:
        if kind not in REJECTED:
            raise UnknownNameError("kind of rejected answers", kind, REJECTED)
