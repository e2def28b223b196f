"""Info: the keys every reader relies on, as plain data, agreeing with tokens and reward."""

import json
import math
from collections.abc import Sequence
from typing import Any, get_args

from textenvs.checker.observations import episodes
from textenvs.checker.play import Event
from textenvs.checker.report import Rows
from textenvs.checker.study import Study, note, verdict
from textenvs.checker.subject import HasPrompts, HasTokenizer, prompt_named
from textenvs.types import FinishReason

RESET_KEYS = ("prompt_id", "prompt")
END_KEYS = ("completion", "completion_ids", "finish_reason", "reward_terms", "metrics")
SUM_TOLERANCE = 1e-6
"""Between the reward and the sum of its terms, which may be added up in another order."""


def check_info(study: Study) -> Rows:
    """The info of a reset and of an end: complete, JSON-able, true to the tokens."""
    env = study.subject.fresh()
    played = episodes(study, env, "info")
    every = [event for _, events in played for event in events]
    missing = next((w for event in every if (w := _missing(event))), None)
    yield verdict(
        "info/keys", missing, f"{', '.join(RESET_KEYS)}; at the end {', '.join(END_KEYS)}"
    )
    yield verdict("info/json", next((w for e in every if (w := _unplain(e))), None), "plain data")
    if missing is not None:
        return
    if isinstance(env, HasPrompts):
        wrong = next((w for _, events in played if (w := _other_prompt(env, events[0]))), None)
        yield verdict("info/prompt", wrong, "the text told is that of the prompt id")
    ends = [(actions, events[-1]) for actions, events in played]
    wrong = next((w for _, end in ends if (w := _unended(end))), None)
    yield verdict("info/end", wrong, "EOS, a stop string and the token budget terminate")
    wrong = next((w for actions, end in ends if (w := _untrue(env, actions, end))), None)
    yield verdict("info/completion", wrong, "ids, text and finish_reason say what was acted")
    wrong = next((w for _, end in ends if (w := _unsummed(end))), None)
    yield verdict("info/terms", wrong, "finite, and they add up to the reward")
    odd = sorted(
        {name for _, end in ends for name, x in end.info["metrics"].items() if not math.isfinite(x)}
    )
    if odd:
        yield note("info/metrics", f"not finite at some ends: {', '.join(odd)}")


def _missing(event: Event) -> str | None:
    wanted = RESET_KEYS if event.call == "reset" else END_KEYS if event.over else ()
    for key in wanted:
        if key not in event.info:
            when = "a reset" if event.call == "reset" else "an end"
            return f"the info of {when} lacks {key!r}; it has {sorted(event.info)}"
    return None


def _unplain(event: Event) -> str | None:
    try:
        json.dumps(event.info)
    except (TypeError, ValueError) as error:
        return f"the info of a {event.call} is not plain data: {error}"
    return None


def _other_prompt(env: Any, begun: Event) -> str | None:
    prompt = prompt_named(env, begun.info["prompt_id"])
    if begun.info["prompt"] == prompt.text:
        return None
    return (
        f"the info tells of the prompt {begun.info['prompt']!r:.60}, but the prompt of its id, "
        f"{prompt.id!r}, reads {prompt.text!r:.60}"
    )


def _unended(end: Event) -> str | None:
    if end.terminated and not end.truncated:
        return None
    return (
        f"an episode with the finish_reason {end.info['finish_reason']!r} was truncated; the token "
        "budget is part of the task, so its end is `terminated`"
    )


def _untrue(env: Any, actions: Sequence[int], end: Event) -> str | None:
    info = end.info
    ids, reason, text = info["completion_ids"], info["finish_reason"], info["completion"]
    if list(ids) != list(actions):
        return f"completion_ids is {str(ids):.60}, but {str(list(actions)):.60} were acted"
    if reason not in get_args(FinishReason):
        return f"finish_reason is {reason!r}; it must be one of {get_args(FinishReason)}"
    if not isinstance(env, HasTokenizer):
        return None
    at_eos = ids[-1] == env.tokenizer.eos_id
    if at_eos != (reason == "eos"):
        return f"finish_reason is {reason!r}, but the last token {'is' if at_eos else 'is not'} EOS"
    decoded = env.tokenizer.decode(ids[:-1] if at_eos else ids)
    if decoded != text and not (reason == "stop" and decoded.startswith(text)):
        return f"the completion is {text!r:.60}, but its tokens say {decoded!r:.60}"
    return None


def _unsummed(end: Event) -> str | None:
    terms = end.info["reward_terms"]
    if not end.info.get("scored", True):
        return None  # the reward is then the stated substitute
    numbers = {"reward": end.reward, **terms}
    for name, value in numbers.items():
        if not math.isfinite(value):
            return f"{name} is {value}"
    total = sum(terms.values())
    if not math.isclose(total, end.reward, rel_tol=SUM_TOLERANCE, abs_tol=SUM_TOLERANCE):
        return f"the terms {terms} add up to {total:g}, but the reward is {end.reward:g}"
    return None
