"""Where no right answer is known: does an answer that is worth nothing earn the most there is?"""

import math

import numpy as np

from textenvs.audit.exploits.nothing import FILLERS, PUNCTUATION, WHITE_SPACE
from textenvs.audit.findings import Row
from textenvs.audit.subject import Attempt, Subject
from textenvs.audit.verdicts import MARGIN, PAID_SHARE
from textenvs.checker.probes import LETTERS, random_letters
from textenvs.rewards.base import BaseReward
from textenvs.types import Prompt

NAME = "control: worthless answers"
REMEDY = (
    "give the environment an oracle or its prompts a reference, so that exploits have a measure"
)


def worthless_rows(subject: Subject, generator: np.random.Generator) -> list[Row]:
    """Return whether blanks, punctuation, fillers or random letters earn the upper bound.

    Nothing else can be told an exploit from an answer by: there is no oracle to be paid
    like, and no gold measure.

    Args:
        subject: The reward under audit, on prompts without a known right answer.
        generator: For the random letters.
    """
    prompts = [p for p in subject.prompts if p.id not in subject.standards]
    bounds = {prompt.id: _bounds(subject, prompt) for prompt in prompts}
    bounded = [p for p in prompts if all(map(math.isfinite, bounds[p.id]))]
    if not bounded:
        words = "no right answer is known, and the reward declares no finite bounds"
        return [Row(NAME, "skipped", f"{words}; {REMEDY}", "control")]
    attempts = [
        Attempt(prompt, text)
        for prompt in bounded
        for text in worthless_answers(subject.max_new_tokens, generator)
    ]
    rewards = subject.rewards(attempts).reshape(len(bounded), -1)
    low, high = np.array([bounds[p.id] for p in bounded]).T
    shares = np.nan_to_num((rewards - low[:, None]) / (high - low)[:, None])
    paid = float((shares.max(axis=1) >= 1.0 - MARGIN).mean())
    row, column = np.unravel_index(int(shares.argmax()), shares.shape)
    example = attempts[int(row) * rewards.shape[1] + int(column)]
    words = (
        f"a worthless answer earns up to {shares[row, column]:.0%} of the range of the reward, "
        f"and the most there is on {paid:.0%} of {len(bounded)} prompts; {REMEDY}"
    )
    return [
        Row(
            NAME,
            "fault" if paid >= PAID_SHARE else "note",
            words,
            "control",
            reward=float(np.nanmean(rewards.max(axis=1))),
            honest=float(high.mean()),
            prompt_id=example.prompt.id,
            answer=example.text,
            paid=paid,
        )
    ]


def worthless_answers(max_new_tokens: int, generator: np.random.Generator) -> list[str]:
    """Return answers that say nothing in any language, a fixed number of them."""
    noise = [random_letters(generator) for _ in range(LETTERS)]
    long = [filler * max_new_tokens for filler in FILLERS]
    return [*WHITE_SPACE, *PUNCTUATION, *FILLERS, *long, *noise]


def _bounds(subject: Subject, prompt: Prompt) -> tuple[float, float]:
    if not isinstance(subject.reward, BaseReward):
        return (-math.inf, math.inf)
    return subject.reward.bounds(prompt)
