"""What a caller is given is the caller's: no array, list or dict is shared between calls."""

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from textenvs.checker.play import (
    Event,
    copied,
    differing,
    first_difference,
    global_randomness,
    plain,
    random_actions,
    reset_event,
    step_event,
)
from textenvs.checker.report import Rows
from textenvs.checker.study import Study, verdict
from textenvs.checker.subject import HasPrompts, prompt_named, shown

STEPS = 48
SENTINEL = "written by the checker"


def check_sharing(study: Study) -> Rows:
    """Writing to what was returned changes nothing, and nothing changes it later."""
    generator = study.generator("sharing")
    actions = random_actions(study.subject.fresh(), generator, STEPS)
    yield verdict(
        "sharing/later calls",
        _changed_later(study, actions),
        "what was returned earlier never changes",
    )
    yield verdict(
        "sharing/writing",
        _reached_by_writing(study, actions),
        "writing to what was returned changes nothing",
    )


def _calls(study: Study, actions: Iterable[int]) -> Iterator[tuple[Any, Any, Event]]:
    """Yield what each call of a play returned, as it is and copied."""
    env = study.subject.fresh()
    over = True
    seed: int | None = study.seed
    for action in actions:
        if over:
            observation, info = env.reset(seed=seed)
            seed = None
            yield observation, info, reset_event(observation, info)
        returned = env.step(int(action))
        over = returned[2] or returned[3]
        yield returned[0], returned[4], step_event(*returned)


def _changed_later(study: Study, actions: Iterable[int]) -> str | None:
    kept = list(_calls(study, actions))
    for observation, info, event in kept:
        for what, now, then in (
            ("observation", plain(copied(observation)), plain(event.observation)),
            ("info", plain(info), dict(event.info)),
        ):
            where = differing(then, now, what)
            if where is not None:
                return f"what an earlier {event.call} returned has changed since: {where}"
    return None


def _reached_by_writing(study: Study, actions: Iterable[int]) -> str | None:
    with global_randomness(study.seed):
        untouched = [event for _, _, event in _calls(study, actions)]
    with global_randomness(study.seed):
        again = [event for _, _, event in _calls(study, actions)]
    before, once_more = _prompts_of_play(study, untouched), _prompts_of_play(study, untouched)
    written: list[Event] = []
    with global_randomness(study.seed):
        for observation, info, event in _calls(study, actions):
            written.append(event)
            write_over(observation)
            write_over(info)
    for event in written:
        for what, value in (("observation", event.observation), ("info", event.info)):
            if SENTINEL in json.dumps(plain(value), default=repr):
                return (
                    f"what a caller wrote to an earlier {what} came back with a {event.call}; "
                    "return fresh objects"
                )
    if before == once_more != _prompts_of_play(study, untouched):
        return "writing to what was returned changed a prompt; return copies"
    if first_difference(untouched, again) is not None:
        return None  # no play equals another here, so a difference would say nothing
    where = first_difference(untouched, written)
    return None if where is None else f"writing to what was returned changes later calls: {where}"


def _prompts_of_play(study: Study, events: Sequence[Event]) -> str:
    """Return the prompts of a play as text; "" where the environment does not show them."""
    env = study.subject.given or study.subject.fresh()
    if not isinstance(env, HasPrompts):
        return ""
    told = {event.info["prompt_id"] for event in events if "prompt_id" in event.info}
    return " ".join(shown(prompt_named(env, prompt_id)) for prompt_id in sorted(told))


def write_over(value: Any) -> None:
    """Write to every array, list and dict inside a value."""
    if isinstance(value, dict):
        for item in list(value.values()):
            write_over(item)
        value[SENTINEL] = SENTINEL
    elif isinstance(value, list):
        for item in value:
            write_over(item)
        value.append(SENTINEL)
    elif isinstance(value, tuple):
        for item in value:
            write_over(item)
    elif isinstance(value, np.ndarray) and value.flags.writeable and value.dtype.kind in "biuf":
        value[...] = ~value if value.dtype.kind == "b" else value + 1
