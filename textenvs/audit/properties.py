"""Laws a sound reward keeps, as functions for a user's own tests and for the audit.

Each takes a reward, a prompt and some answers, scores them in as few batches as it can, and
raises `PropertyError`, an `AssertionError`, naming the answer that breaks the law. With
hypothesis, which finds the answers and makes them short:

```python
from hypothesis import given
from textenvs.audit import properties

@given(answer=properties.answers(PROMPT))
def test_my_reward_is_bounded(answer):
    properties.bounded(my_reward, PROMPT, [answer])
```
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import count, cycle, islice

import numpy as np

from textenvs.audit.answers import KINDS, answers, drawn_answers
from textenvs.audit.changes import (
    REPETITIONS,
    TOLERANCE,
    VARIANTS,
    Change,
    equal,
    repetitions,
    rewritings,
    scores_of,
    variants,
)
from textenvs.audit.pieces import pieces_of
from textenvs.rewards.base import BaseReward, Reward
from textenvs.types import Prompt

__all__ = [
    "KINDS",
    "LONG_TEXTS",
    "VARIANTS",
    "Change",
    "PropertyError",
    "answers",
    "bounded",
    "deterministic",
    "drawn_answers",
    "finite",
    "independent",
    "invariant",
    "monotone",
    "normalisation_pays_no_more",
    "repetition_pays_no_more",
    "repetitions",
    "rewritings",
    "scores_of",
    "survivors",
    "time_bounded",
    "variants",
]

ROUNDING = 1e-9
"""Slack of a comparison, for sums of floats."""
ALONE = 8
"""Answers that are scored one by one, to compare with the batch."""
FREE_SECONDS = 0.05
"""Processor time an answer may always take, whatever its length."""
GROWTH = 1.6
"""Beyond that, time may grow like the length to this power: 40 times for ten times the text.
Linear cost has room for a loaded machine, quadratic cost has not."""
LENGTHS = (10_000, 30_000, 100_000)
TRIES = 3


class PropertyError(AssertionError):
    """A reward breaks a law; the message says which, on what, and how."""

    def __init__(self, law: str, prompt: Prompt, answer: str, words: str) -> None:
        """Compose the message.

        Args:
            law: Name of the function that found it.
            prompt: The task.
            answer: The answer that shows it.
            words: What is wrong, with the figures.
        """
        super().__init__(f"{law}: {words}; the answer {answer!r:.80} to {prompt.id!r}")
        self.law, self.prompt, self.answer, self.words = law, prompt, answer, words


def finite(
    reward: Reward, prompt: Prompt, texts: Sequence[str], *, allow_unscored: bool = False
) -> None:
    """Every answer gets a finite score, and none makes the reward raise.

    Args:
        reward: Under test.
        prompt: The task.
        texts: Answers.
        allow_unscored: Accept NaN, "not scored", for an environment with `on_unscored`.

    Raises:
        PropertyError: naming the first answer that breaks it.
    """
    for text, score in zip(texts, _each(reward, prompt, texts), strict=True):
        if isinstance(score, Exception):
            raise PropertyError(
                "finite", prompt, text, f"raises {type(score).__name__}: {score}"
            ) from score
        if math.isinf(score) or (math.isnan(score) and not allow_unscored):
            raise PropertyError("finite", prompt, text, f"scores {score}")


def _each(reward: Reward, prompt: Prompt, texts: Sequence[str]) -> list[float | Exception]:
    """Return the score of each answer; one by one where a batch fails as a whole."""
    try:
        return list(scores_of(reward, prompt, texts).tolist())
    except Exception as error:  # noqa: BLE001  whatever it raises is the finding
        if len(texts) == 1:
            return [error]
    return [_each(reward, prompt, [text])[0] for text in texts]


def survivors(reward: Reward, prompt: Prompt, texts: Sequence[str]) -> list[str]:
    """Return the answers on which a reward does not raise."""
    found = zip(texts, _each(reward, prompt, texts), strict=True)
    return [text for text, score in found if not isinstance(score, Exception)]


def bounded(reward: Reward, prompt: Prompt, texts: Sequence[str]) -> None:
    """Scores lie within `reward.bounds(prompt)`; one that declares none keeps the law.

    Raises:
        PropertyError: naming the first answer that breaks it.
    """
    if not isinstance(reward, BaseReward):
        return
    low, high = reward.bounds(prompt)
    for text, score in zip(texts, scores_of(reward, prompt, texts).tolist(), strict=True):
        if score < low - _slack(low) or score > high + _slack(high):
            words = f"scores {score:g}, outside the declared bounds [{low:g}, {high:g}]"
            raise PropertyError("bounded", prompt, text, words)


def deterministic(reward: Reward, prompt: Prompt, texts: Sequence[str]) -> None:
    """The same batch scores the same twice.

    Raises:
        PropertyError: naming the first answer that breaks it.
    """
    first, second = scores_of(reward, prompt, texts), scores_of(reward, prompt, texts)
    _same("deterministic", prompt, texts, first, second, "then")


def independent(reward: Reward, prompt: Prompt, texts: Sequence[str]) -> None:
    """An answer scores the same alone, in company, and in another order.

    Raises:
        PropertyError: naming the first answer that breaks it.
    """
    together = scores_of(reward, prompt, texts)
    turned = scores_of(reward, prompt, texts[::-1])[::-1]
    _same("independent", prompt, texts, together, turned, "in another order")
    alone = [scores_of(reward, prompt, [text])[0] for text in texts[:ALONE]]
    _same("independent", prompt, texts[:ALONE], together[:ALONE], np.array(alone), "alone")


def invariant(
    reward: Reward, prompt: Prompt, texts: Sequence[str], kinds: Sequence[str] = tuple(VARIANTS)
) -> None:
    """Answers that are equal in the form of `textenvs.prompts.normalise` score the same.

    A reward may well break it: leave out the kinds that matter to the task.

    Args:
        reward: Under test.
        prompt: The task.
        texts: Answers.
        kinds: Of `VARIANTS`: "capitals", "small letters", "full width", "more white space",
            "zero-width spaces", "accents apart".

    Raises:
        PropertyError: naming the first answer and the kind that break it.
    """
    for change in rewritings(reward, prompt, texts, kinds):
        if change.differs:
            raise PropertyError("invariant", prompt, change.text, change.words)


def normalisation_pays_no_more(
    reward: Reward,
    prompt: Prompt,
    texts: Sequence[str],
    honest: float,
    kinds: Sequence[str] = tuple(VARIANTS),
) -> None:
    """No other writing of an answer scores more than the honest answer does.

    Args:
        reward: Under test.
        prompt: The task.
        texts: Answers, the right one among them.
        honest: What the right answer scores.
        kinds: Of `VARIANTS`.

    Raises:
        PropertyError: naming the first answer that breaks it.
    """
    for change in rewritings(reward, prompt, texts, kinds):
        if change.gains and change.after > honest + TOLERANCE:
            words = f"{change.words}, above the honest {honest:g}"
            raise PropertyError("normalisation_pays_no_more", prompt, change.new, words)


def monotone(
    reward: Reward, prompt: Prompt, items: Sequence[str], generator: np.random.Generator
) -> None:
    """One right item more never lowers the score of an answer of right items, one a line.

    Args:
        reward: Under test.
        prompt: A task whose right answer is a list.
        items: The right items, in the order of the right answer.
        generator: Chooses the order in which items are added, three times.

    Raises:
        PropertyError: naming the longer of two answers.
    """
    for _ in range(TRIES):
        order = generator.permutation(len(items)).tolist()
        chosen = [sorted(order[:size]) for size in range(1, len(items) + 1)]
        texts = ["\n".join(items[i] for i in rows) for rows in chosen]
        scores = scores_of(reward, prompt, texts).tolist()
        for size in range(1, len(items)):
            if scores[size] < scores[size - 1] - _slack(scores[size - 1]):
                words = (
                    f"one right item more lowers the score from {scores[size - 1]:g} to "
                    f"{scores[size]:g}"
                )
                raise PropertyError("monotone", prompt, texts[size], words)


def repetition_pays_no_more(
    reward: Reward, prompt: Prompt, texts: Sequence[str], separators: Sequence[str] = REPETITIONS
) -> None:
    """An answer said twice never scores more than said once.

    For right answers this holds of every sound reward. A part of a right answer may come
    nearer to it when repeated: "Bora" to "Bora Bora".

    Args:
        reward: Under test.
        prompt: The task.
        texts: Answers.
        separators: What stands between the two.

    Raises:
        PropertyError: naming the first answer that breaks it, repeated.
    """
    for change in repetitions(reward, prompt, texts, separators):
        if change.gains:
            raise PropertyError("repetition_pays_no_more", prompt, change.new, change.words)


LONG_TEXTS: Mapping[str, Callable[[Prompt], Sequence[str]]] = {
    "one letter": lambda prompt: ("a",),
    "words of the prompt": lambda prompt: [f"{word} " for word in pieces_of(prompt).words],
    "short lines": lambda prompt: ("x\n", "yz\n"),
    "items of the context": lambda prompt: [f"{text}\n" for text in pieces_of(prompt).items],
}
"""What long answers are made of, said in turn."""


def time_bounded(
    reward: Reward,
    prompt: Prompt,
    *,
    lengths: Sequence[int] = LENGTHS,
    growth: float = GROWTH,
    free_seconds: float = FREE_SECONDS,
    tries: int = TRIES,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Long answers cost little, or no more than in proportion to their length.

    The processor time of this process is measured, so that other processes of a loaded
    machine do not count, and the least of several tries is taken, so that a disturbance
    has to hit all of them. Every text is new, so that no cache answers. Time a reward
    spends in another process or on another device is not seen.

    Args:
        reward: Under test.
        prompt: The task.
        lengths: Characters of the answers, rising; the first sets the measure.
        growth: Time may grow like the length to this power ...
        free_seconds: ... or take up to this many seconds.
        tries: How often the time of one length may be taken.
        clock: Seconds of processor time.

    Returns:
        The seconds an answer of the greatest length takes, by what it is made of.

    Raises:
        PropertyError: naming the length at which it breaks.
    """
    salt, found = count(), {}

    def seconds(parts: Sequence[str], length: int) -> float:
        tail = str(next(salt))
        shortest = min(map(len, parts))
        text = "".join(islice(cycle(parts), length // shortest + 1))[: length - len(tail)] + tail
        began = clock()
        scores_of(reward, prompt, [text])
        return clock() - began

    for name, made_of in LONG_TEXTS.items():
        parts = made_of(prompt)
        if not parts:
            continue
        least = min(seconds(parts, lengths[0]) for _ in range(tries))
        taken = least
        for length in lengths[1:]:
            allowed = max(free_seconds, least * (length / lengths[0]) ** growth)
            taken = math.inf
            for _ in range(tries):
                taken = min(taken, seconds(parts, length))
                if taken <= allowed:
                    break
            if taken > allowed:
                words = (
                    f"{lengths[0]:,} characters ({name}) take {least:.3g} s, {length:,} take "
                    f"{taken:.3g} s, {taken / least:.0f} times as long"
                )
                raise PropertyError("time_bounded", prompt, parts[0], words)
        found[name] = taken
    return found


def _same(
    law: str, prompt: Prompt, texts: Sequence[str], first: np.ndarray, second: np.ndarray, how: str
) -> None:
    for text, before, after in zip(texts, first.tolist(), second.tolist(), strict=True):
        if not equal(before, after):
            raise PropertyError(law, prompt, text, f"scores {before:g}, {how} {after:g}")


def _slack(bound: float) -> float:
    return ROUNDING * max(1.0, abs(bound)) if math.isfinite(bound) else 0.0
