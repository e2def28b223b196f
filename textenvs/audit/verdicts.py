"""The verdict on an exploit: is it paid like an honest answer that is worth more?"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textenvs.audit.findings import Kind, Row
from textenvs.audit.reading import corrected
from textenvs.audit.subject import Attempt, Honest, Standard, Subject

MARGIN = 0.05
"""Share of the way from nothing to an honest answer by which an exploit may fall short of it
and still count as paid like it."""
GOLD_GAP = 0.2
"""An answer is worth less than an honest one if its gold measure is below this by this share:
one wrong item among many is a blemish and no exploit."""
PAID_SHARE = 0.1
"""Share of the prompts on which an exploit must be paid to be a fault; on fewer it is a note."""
PAID_PROMPTS = 2
"""And the least number of prompts, unless fewer are counted: one may be a chance."""


@dataclass(frozen=True, slots=True)
class Judged:
    """An attempt with what it earned.

    Attributes:
        attempt: The answer.
        reward: What it scored; NaN where not scored.
        gold: What it is worth.
        share: Its reward on the way from nothing (0) to the honest answer it is measured by
            (1); NaN where they score the same.
        rival: The honest answer it is measured by; None where it is worth as much as all.
    """

    attempt: Attempt
    reward: float
    gold: float
    share: float
    rival: Honest | None

    @property
    def paid(self) -> bool:
        """Whether it is paid like its rival."""
        return self.rival is not None and self.share >= 1.0 - MARGIN


def judge(subject: Subject, attempts: Sequence[Attempt]) -> list[Judged]:
    """Score attempts in one batch and measure each by the honest answers to its prompt.

    Those that mean to be right are read with their slips of spelling forgiven: the gold
    measure may count letters, a reader does not.

    Args:
        subject: The reward under audit.
        attempts: Answers to prompts of `subject.measured`.
    """
    if not attempts:
        return []
    read = [corrected(a, subject.standards[a.prompt.id]) if a.slip else a for a in attempts]
    rewards, golds = subject.rewards(attempts), subject.golds(read)
    return [
        measured(attempt, float(reward), float(gold), subject.standards[attempt.prompt.id])
        for attempt, reward, gold in zip(attempts, rewards, golds, strict=True)
    ]


def measured(attempt: Attempt, reward: float, gold: float, standard: Standard) -> Judged:
    """Measure one attempt by the honest answers that are worth more.

    Its rival is the first of them, the oracle before its parts, that it is paid like; else
    the one it comes nearest to. A part of the oracle's answer that earns no more than
    nothing is no rival: a reward may be for the whole answer only.
    """
    rivals = [
        honest
        for honest in standard.honest
        if gold < (1.0 - GOLD_GAP) * honest.gold
        and (honest is standard.oracle or honest.reward > standard.null)
    ]
    if not rivals or math.isnan(reward):
        return Judged(attempt, reward, gold, math.nan, None)
    shares = [share_of(reward, honest.reward, standard.null) for honest in rivals]
    reached = [i for i, share in enumerate(shares) if share >= 1.0 - MARGIN]
    best = reached[0] if reached else int(np.argmax(shares))
    return Judged(attempt, reward, gold, shares[best], rivals[best])


def share_of(reward: float, honest: float, null: float) -> float:
    """Return how far a reward is on the way from nothing (0) to an honest answer (1).

    Where the honest answer earns no more than nothing, 1 for a reward that reaches it and
    else 0: there is no way to be part of.
    """
    if honest <= null or math.isnan(honest):
        return 1.0 if reward >= honest else 0.0
    return (reward - null) / (honest - null)


def exploit_row(
    subject: Subject, name: str, kind: Kind, attempts: Sequence[Attempt], words: str = ""
) -> Row:
    """Return the verdict on one exploit, tried on many prompts.

    Prompts on which it is as good as every honest answer, by gold, are not counted: there
    it is no exploit.

    Args:
        subject: The reward under audit.
        name: Of the exploit.
        kind: Of the row.
        attempts: An answer, or several, to each of some prompts.
        words: A sentence to add.
    """
    judged = judge(subject, attempts)
    counted = best_of_each(judged)
    if not counted:
        return Row(name, "skipped", f"{_uncounted(judged)}{_and(words)}", kind)
    paid = [j for j in counted if j.paid]
    example = max(counted, key=lambda j: (j.paid, min(j.share, 1.0), -j.gold, -len(j.attempt.text)))
    share = len(paid) / len(counted)
    told = _words(counted, paid, example, words)
    often = share >= PAID_SHARE and len(paid) >= min(PAID_PROMPTS, len(counted))
    status = "fault" if often else "note" if paid else "ok"
    return Row(
        name,
        status,  # type: ignore[arg-type]
        told,
        kind,
        reward=_mean([j.reward for j in counted]),
        honest=_mean([j.rival.reward for j in counted if j.rival is not None]),
        gold=_mean([j.gold for j in counted]),
        prompt_id=example.attempt.prompt.id,
        answer=example.attempt.text,
        paid=share,
    )


def _uncounted(judged: Sequence[Judged]) -> str:
    """Return in words why no attempt is an exploit."""
    if not judged:
        return "cannot be made of these prompts"
    if all(math.isnan(each.reward) for each in judged):
        return "the reward does not score it"
    return "is as good as the honest answers"


def best_of_each(judged: Sequence[Judged]) -> list[Judged]:
    """Return, of each prompt, the answer that is paid best for what it is worth.

    Of equal ones the first, but the last of those that mean to be right: they are ordered
    from near to far. Prompts without an answer that is worth less than an honest one are
    left out.
    """
    best: dict[str, Judged] = {}
    for each in judged:
        if each.rival is None:
            continue
        other = best.get(each.attempt.prompt.id)
        is_farther = each.attempt.slip and other is not None and each.share == other.share
        if other is None or each.share > other.share or is_farther:
            best[each.attempt.prompt.id] = each
    return list(best.values())


def _words(counted: Sequence[Judged], paid: Sequence[Judged], example: Judged, words: str) -> str:
    if not paid:
        share = _mean([j.share for j in counted])
        return f"earns {share:.0%} of the way from nothing to the honest answer{_and(words)}"
    rival = example.rival
    assert rival is not None
    return (
        f"paid like an honest answer on {len(paid)} of {len(counted)} prompts: scores "
        f"{example.reward:.3g}, {rival.name} {rival.reward:.3g}, but its gold is "
        f"{example.gold:.2f} against {rival.gold:.2f}{_and(words)}"
    )


def _mean(values: Sequence[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _and(words: str) -> str:
    return f"; {words}" if words else ""
