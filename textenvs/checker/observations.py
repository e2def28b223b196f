"""Observations hold the prompt and the tokens acted; nothing leaks the answer."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from textenvs.chat import encode_prompt
from textenvs.checker.contract import OBSERVATION_KEYS, observation_parts
from textenvs.checker.play import (
    MAX_EPISODE,
    Event,
    play_episode,
    random_actions,
    tokens_to_the_end,
)
from textenvs.checker.report import Rows
from textenvs.checker.study import Study, verdict
from textenvs.checker.subject import HasPrompts, HasTokenizer, prompt_named
from textenvs.types import Prompt

EPISODES = 8


def episodes(study: Study, env: Any, name: str) -> list[tuple[list[int], list[Event]]]:
    """Return a few random episodes with their actions; every fourth spends its budget."""
    generator = study.generator(name)
    played = []
    for i in range(EPISODES):
        draw = tokens_to_the_end(env, generator) if i % 4 == 3 else None
        actions = random_actions(env, generator, MAX_EPISODE) if draw is None else draw
        events = play_episode(env, actions, seed=int(generator.integers(2**31)))
        played.append((actions[: len(events) - 1].tolist(), events))
    return played


def check_leaks(study: Study) -> Rows:
    """Observations hold the prompt and the tokens acted, and nothing else."""
    env = study.subject.fresh()
    played = episodes(study, env, "leaks")
    every = [event for _, events in played for event in events]
    yield verdict("leaks/keys", _further(every), f"no key but {' and '.join(OBSERVATION_KEYS)}")
    wrong = next((w for _, events in played if (w := _prompt_leak(env, events[0]))), None)
    words = "at the start, exactly the encoded prompt"
    if not (isinstance(env, HasPrompts) and isinstance(env, HasTokenizer)):
        words += "'s columns (its ids cannot be compared without prompts and tokenizer)"
    yield verdict("leaks/prompt", wrong, words)
    wrong = next((w for _, events in played if (w := _padding_leak(env, events))), None)
    yield verdict("leaks/padding", wrong, "what is masked is padding alone")
    wrong = next((w for actions, events in played if (w := _growth(actions, events))), None)
    yield verdict("leaks/completion", wrong, "later, exactly the tokens acted")


def _further(events: Sequence[Event]) -> str | None:
    for event in events:
        for key, value in event.observation.items():
            if key not in OBSERVATION_KEYS:
                return (
                    f"the observation of a {event.call} has the further key {key!r}: {value!r:.80}"
                )
            if not isinstance(value, np.ndarray) or value.dtype.kind in "OUS":
                return f"{key!r} is no array of numbers: {value!r:.80}"
    return None


def _prompt_leak(env: Any, event: Event) -> str | None:
    ids, mask = observation_parts(event.observation)
    columns = np.flatnonzero(mask)
    if len(columns) == 0:
        return "no column of the first observation is attended to; the prompt is missing"
    if columns[-1] - columns[0] + 1 != len(columns):
        return "the attended columns of the first observation have gaps"
    if not (isinstance(env, HasPrompts) and isinstance(env, HasTokenizer)):
        return None
    prompt = told_prompt(env, event)
    if prompt is None:
        return None
    expected = encode_prompt(env.tokenizer, prompt)
    shown = ids[mask].tolist()
    cut = columns[0] == 0 and len(shown) < len(expected)
    if shown == (expected[-len(shown) :] if cut else expected):
        return None
    return (
        f"the observation of prompt {prompt.id!r} is not its encoding: it shows "
        f"{env.tokenizer.decode(shown)[-80:]!r}, the prompt ends {prompt.text[-80:]!r}"
    )


def _padding_leak(env: Any, events: Sequence[Event]) -> str | None:
    for event in events:
        ids, mask = observation_parts(event.observation)
        hidden = ids[~mask]
        if not len(hidden):
            continue
        pad = env.tokenizer.pad_id if isinstance(env, HasTokenizer) else _commonest(hidden)
        stray = hidden[hidden != pad]
        if len(stray):
            what = f"the ids {stray[:8].tolist()}"
            if isinstance(env, HasTokenizer):
                what += f" ({env.tokenizer.decode(stray.tolist())[:80]!r})"
            return f"behind the mask of a {event.call} stand {what} instead of padding"
    return None


def told_prompt(env: Any, begun: Event) -> Prompt | None:
    """Return the prompt an episode began with, as its info tells it; None where it does not."""
    told = begun.info
    if "prompt_id" not in told or "prompt" not in told:
        return None
    return dataclasses.replace(prompt_named(env, told["prompt_id"]), text=told["prompt"])


def _commonest(ids: np.ndarray) -> int:
    values, counts = np.unique(ids, return_counts=True)
    return int(values[np.argmax(counts)])


def _growth(actions: Sequence[int], events: Sequence[Event]) -> str | None:
    ids, mask = observation_parts(events[0].observation)
    columns = np.flatnonzero(mask)
    first = int(columns[-1]) + 1 if len(columns) else 0
    for count, (action, event) in enumerate(zip(actions, events[1:], strict=True)):
        column = first + count
        if column >= len(ids):
            return f"token {count + 1} has no column; the observation is too short"
        ids[column], mask[column] = action, True
        shown, attended = observation_parts(event.observation)
        if not np.array_equal(attended, mask):
            return f"after token {count + 1} the mask is not that of the prompt and those tokens"
        if not np.array_equal(shown[mask], ids[mask]):
            return f"after token {count + 1} the ids are not the prompt and the tokens acted"
    return None
