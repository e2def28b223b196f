"""The laws of `textenvs.audit.properties`, tried on a sample of answers."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from textenvs.audit import properties
from textenvs.audit.findings import Row
from textenvs.audit.properties import FREE_SECONDS, Change, PropertyError, drawn_answers
from textenvs.audit.reading import corrected
from textenvs.audit.subject import Attempt, Honest, Subject
from textenvs.audit.verdicts import MARGIN, measured, share_of
from textenvs.checker.report import Status
from textenvs.rewards.base import BaseReward
from textenvs.types import Prompt

EXAMPLES, PROMPTS = 40, 4
Law = Callable[["Sample"], None]
Teller = Callable[[str, Sequence["Sample"], np.random.Generator], Row]


@dataclass(frozen=True)
class Sample:
    """Answers to one prompt.

    Attributes:
        subject: The reward under audit.
        prompt: The task.
        texts: Answers on which the reward does not raise, the honest ones first.
        honest: The honest answers; none where no right answer is known.
    """

    subject: Subject
    prompt: Prompt
    texts: Sequence[str]
    honest: Sequence[Honest]

    @property
    def right_items(self) -> list[str]:
        """The lines of the right answer; [] where none is known."""
        if not self.honest:
            return []
        return [line for line in self.honest[0].text.splitlines() if line.strip()]


def property_rows(
    subject: Subject,
    generator: np.random.Generator,
    *,
    n_examples: int = EXAMPLES,
    n_prompts: int = PROMPTS,
    timed: bool = True,
) -> list[Row]:
    """Return one row a law: whether the reward keeps it, and an answer that breaks it.

    Args:
        subject: The reward under audit.
        generator: Draws the answers.
        n_examples: Answers drawn for each prompt.
        n_prompts: How many prompts of the sample to look at.
        timed: Whether to time long answers, the one thing that is not the same twice.
    """
    prompts = (*subject.measured, *(p for p in subject.prompts if p not in subject.measured))
    drawn = []
    for prompt in prompts[:n_prompts]:
        standard = subject.standards.get(prompt.id)
        honest = () if standard is None else standard.honest
        texts = [*(h.text for h in honest), *drawn_answers(prompt, generator, n_examples)]
        drawn.append(Sample(subject, prompt, list(dict.fromkeys(texts)), honest))
    rows = [_law_row("finite", drawn, _finite)]
    kept = [
        replace(s, texts=properties.survivors(subject.reward, s.prompt, s.texts)) for s in drawn
    ]
    for name, tell in TELLERS.items():
        if timed or name != TIME:
            rows.append(_told(name, tell, kept, generator))
    return rows


def _told(name: str, tell: Teller, kept: Sequence[Sample], generator: np.random.Generator) -> Row:
    """Return the row of a law; a reward that raises on the way is at fault."""
    try:
        return tell(name, kept, generator)
    except Exception as error:  # noqa: BLE001  a user's reward raises anything
        return _row(name, "fault", f"the reward raised {type(error).__name__}: {error}")


def _finite(sample: Sample) -> None:
    batch = sample.subject.env.batch
    unscored = batch.on_unscored != "raise"
    properties.finite(sample.subject.reward, sample.prompt, sample.texts, allow_unscored=unscored)


def _law_row(name: str, samples: Sequence[Sample], law: Law) -> Row:
    """Return a fault for the first answer that breaks a law, else an ok row."""
    for sample in samples:
        try:
            law(sample)
        except PropertyError as error:
            return _row(name, "fault", str(error), error.prompt.id, error.answer)
    return _row(name, "ok", f"holds for {_counted(samples)}")


def _bounded(name: str, samples: Sequence[Sample], generator: np.random.Generator) -> Row:
    reward = samples[0].subject.reward
    declared = isinstance(reward, BaseReward) and all(
        math.isfinite(bound) for s in samples for bound in reward.bounds(s.prompt)
    )
    if not declared:
        return _row(name, "note", "the reward declares no finite bounds")
    return _law_row(name, samples, lambda s: properties.bounded(reward, s.prompt, s.texts))


def _deterministic(name: str, samples: Sequence[Sample], generator: np.random.Generator) -> Row:
    reward = samples[0].subject.reward
    return _law_row(name, samples, lambda s: properties.deterministic(reward, s.prompt, s.texts))


def _independent(name: str, samples: Sequence[Sample], generator: np.random.Generator) -> Row:
    reward = samples[0].subject.reward
    return _law_row(name, samples, lambda s: properties.independent(reward, s.prompt, s.texts))


def _writing(name: str, samples: Sequence[Sample], generator: np.random.Generator) -> Row:
    """Other writings of an answer: a fault where they pay clearly more than the honest answer.

    Whether case or width matters is the task's to say, so a mere difference is a note.
    """
    found: dict[str, Change] = {}
    total = 0
    for sample in samples:
        changes = properties.rewritings(sample.subject.reward, sample.prompt, sample.texts)
        total += len(changes)
        for change in changes:
            if change.gains and _beyond(sample, change.after):
                words = f"an answer {change.words}, the honest one {sample.honest[0].reward:g}"
                return _row(name, "fault", words, sample.prompt.id, change.new)
            if change.differs:
                found.setdefault(change.kind, change)
    if found:
        first = next(iter(found.values()))
        return _row(
            name, "note", f"{', '.join(found)} can matter: {first.text!r:.60} {first.words}"
        )
    return _row(name, "ok", f"holds for {total} other writings of {_counted(samples)}")


def _beyond(sample: Sample, reward: float) -> bool:
    """Return whether a reward is above the honest answer's by more than the margin."""
    standard = sample.subject.standards.get(sample.prompt.id)
    if standard is None:
        return False
    return share_of(reward, standard.oracle.reward, standard.null) > 1.0 + MARGIN


def _monotone(name: str, samples: Sequence[Sample], generator: np.random.Generator) -> Row:
    lists = [sample for sample in samples if len(sample.right_items) > 1]
    if not lists:
        return _row(name, "skipped", "no right answer is a list of lines")
    reward = samples[0].subject.reward
    return _law_row(
        name, lists, lambda s: properties.monotone(reward, s.prompt, s.right_items, generator)
    )


def _repetition(name: str, samples: Sequence[Sample], generator: np.random.Generator) -> Row:
    """Repeated answers: a fault where the right one gains, or one that is then paid like it.

    Another answer may gain where repeating it comes nearer to the right one, so that is a note.
    """
    gained: tuple[Sample, Change] | None = None
    for sample in samples:
        right = sample.honest[0].text if sample.honest else None
        for change in properties.repetitions(sample.subject.reward, sample.prompt, sample.texts):
            if not change.gains:
                continue
            words = f"{change.text!r:.60} {change.words}"
            if change.text == right or _paid(sample, change.new, change.after):
                return _row(name, "fault", words, sample.prompt.id, change.new)
            gained = gained or (sample, change)
    if gained is not None:
        sample, change = gained
        words = f"wrong answers can gain: {change.text!r:.60} {change.words}"
        return _row(name, "note", words, sample.prompt.id, change.new)
    return _row(name, "ok", f"holds for {_counted(samples)}")


def _paid(sample: Sample, text: str, reward: float) -> bool:
    """Return whether an answer is paid like an honest one that is worth more."""
    standard = sample.subject.standards.get(sample.prompt.id)
    if standard is None:
        return False
    attempt = Attempt(sample.prompt, text, slip=True)
    gold = float(sample.subject.golds([corrected(attempt, standard)])[0])
    return measured(attempt, reward, gold, standard).paid


def _timed(name: str, samples: Sequence[Sample], generator: np.random.Generator) -> Row:
    sample = samples[0]
    try:
        seconds = properties.time_bounded(sample.subject.reward, sample.prompt)
    except PropertyError as error:
        return _row(name, "fault", error.words, sample.prompt.id)
    slowest = max(seconds, key=seconds.__getitem__)
    if seconds[slowest] > FREE_SECONDS:
        words = (
            f"100,000 characters ({slowest}) take {seconds[slowest]:.2g} s of processor time, "
            "in proportion to their length"
        )
        return _row(name, "note", words, sample.prompt.id)
    return _row(name, "ok", f"100,000 characters take at most {FREE_SECONDS:g} s")


TIME = "time bounded"
TELLERS: dict[str, Teller] = {
    "bounded": _bounded,
    "deterministic": _deterministic,
    "independent of the batch": _independent,
    "invariant under normalisation": _writing,
    "monotone in right items": _monotone,
    "not increased by repetition": _repetition,
    TIME: _timed,
}
"""Each law by name, with what tells its row."""


def _row(
    name: str, status: Status, words: str, prompt_id: str | None = None, answer: str | None = None
) -> Row:
    return Row(f"property: {name}", status, words, "property", prompt_id=prompt_id, answer=answer)


def _counted(samples: Sequence[Sample]) -> str:
    return f"{sum(len(s.texts) for s in samples)} answers to {len(samples)} prompts"
