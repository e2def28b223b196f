"""Null controls: what policies earn that have not solved anything, and what length explains."""

from typing import Any

import numpy as np

from textenvs.audit.exploits.nothing import with_instruction
from textenvs.audit.findings import Row
from textenvs.audit.sampling import model_samples
from textenvs.audit.subject import Attempt, Standard, Subject
from textenvs.audit.verdicts import MARGIN, PAID_SHARE, exploit_row
from textenvs.checker.probes import context_copies, random_letters
from textenvs.checker.report import Skipped
from textenvs.errors import MissingDependencyError

SAMPLES = 4
"""Answers of a random policy to each prompt."""
SAMPLED_PROMPTS = 16
"""Prompts a language model answers."""
RULED_BY_LENGTH = 0.8
"""Rank correlation of reward and length from which a reward is called a ruler."""
HONEST_SHARE = 0.9
"""Share of the prompts on which the right answer must earn more than nothing."""
RULER_LENGTHS = (1, 2, 4, 8, 16, 32)


def control_rows(subject: Subject, generator: np.random.Generator) -> list[Row]:
    """Return what null policies earn beside the honest answers.

    Args:
        subject: The reward under audit.
        generator: For the random answers.
    """
    return [
        honest_row(subject),
        injected_row(subject),
        length_row(subject, generator),
        random_row(subject, generator),
        exploit_row(
            subject,
            "control: a copy of the context",
            "control",
            [Attempt(p, _copy(p.text, p.context)) for p in subject.measured],
        ),
    ]


def _copy(text: str, context: Any) -> str:
    return next(iter(context_copies(context).values()), text)


def honest_row(subject: Subject) -> Row:
    """Ask whether the right answer earns more than nothing: else there is nothing to learn."""
    name = "control: the right answer"
    standards = list(subject.standards.values())
    unpaid = [s for s in standards if not s.oracle.reward > s.null]
    null = float(np.mean([s.null for s in standards]))
    honest = float(np.mean([s.oracle.reward for s in standards]))
    if len(unpaid) > (1 - HONEST_SHARE) * len(standards):
        first = unpaid[0]
        words = (
            f"earns no more than nothing on {len(unpaid)} of {len(standards)} prompts: "
            f"{first.oracle.reward:.3g} on {first.prompt.id!r}, where an empty answer or random "
            f"letters earn {first.null:.3g}"
        )
        paid = len(unpaid) / len(standards)
        where = (first.prompt.id, first.oracle.text)
        return Row(name, "fault", words, "control", null, honest, None, *where, paid)
    words = f"earns more than nothing on {len(standards) - len(unpaid)} of {len(standards)} prompts"
    return Row(name, "ok", words, "control", null, honest)


def injected_row(subject: Subject) -> Row:
    """Ask whether an instruction in the context moves what the right answer earns."""
    name = "control: the right answer, an instruction in the context"
    standards = [s for s in subject.standards.values() if s.prompt.context is not None]
    if not standards:
        return Row(name, "skipped", "the prompts have no context", "control")
    attempts = [
        Attempt(with_instruction(s.prompt, unlike=s.oracle.text.splitlines()), s.oracle.text)
        for s in standards
    ]
    rewards = subject.rewards(attempts)
    pairs = zip(standards, rewards.tolist(), strict=True)
    moved = [
        (s, reward)
        for s, reward in pairs
        if abs(reward - s.oracle.reward) > MARGIN * abs(s.oracle.reward - s.null)
    ]
    honest = float(np.mean([s.oracle.reward for s in standards]))
    if len(moved) < PAID_SHARE * len(standards):
        words = f"scores the same on {len(standards) - len(moved)} of {len(standards)} prompts"
        return Row(name, "ok", words, "control", float(np.mean(rewards)), honest)
    first, reward = moved[0]
    words = (
        f"scores {reward:.3g} instead of {first.oracle.reward:.3g} on {first.prompt.id!r}, and "
        f"otherwise on {len(moved)} of {len(standards)} prompts"
    )
    where = (first.prompt.id, first.oracle.text)
    share = len(moved) / len(standards)
    return Row(
        name, "fault", words, "control", float(np.mean(rewards)), honest, None, *where, share
    )


def random_row(subject: Subject, generator: np.random.Generator) -> Row:
    """Answer with random tokens, up to the budget."""
    tokenizer = subject.tokenizer
    attempts = []
    for prompt in subject.measured:
        for _ in range(SAMPLES):
            size = int(generator.integers(1, subject.max_new_tokens + 1))
            ids = generator.integers(tokenizer.vocab_size, size=size).tolist()
            attempts.append(Attempt(prompt, tokenizer.decode(ids)))
    return exploit_row(subject, "control: random tokens", "control", attempts)


def length_row(subject: Subject, generator: np.random.Generator) -> Row:
    """Ask how much of a reward its answers' length explains, by rank correlation.

    On each prompt: the honest answers, random letters and words of the prompt, few and
    many. Correlations are Spearman's, averaged over prompts; gold's is that of reward with
    the gold measure on the same answers.
    """
    name = "control: length"
    by_length, by_gold = [], []
    attempts = [_of_many_lengths(s, generator) for s in subject.standards.values()]
    flat = [attempt for answers in attempts for attempt in answers]
    rewards, golds = subject.rewards(flat), subject.golds(flat)
    start = 0
    for answers in attempts:
        stop = start + len(answers)
        lengths = np.array([len(a.text) for a in answers], float)
        by_length.append(rank_correlation(rewards[start:stop], lengths))
        by_gold.append(rank_correlation(rewards[start:stop], golds[start:stop]))
        start = stop
    explained, right = float(np.mean(by_length)), float(np.mean(by_gold))
    words = (
        f"rank correlation of reward and length {explained:.2f}, of reward and gold {right:.2f}, "
        f"over answers of {min(RULER_LENGTHS)} to {max(RULER_LENGTHS)} words"
    )
    ruled = abs(explained) >= RULED_BY_LENGTH and abs(explained) > right
    return Row(name, "fault" if ruled else "ok", words, "control")


def _of_many_lengths(standard: Standard, generator: np.random.Generator) -> list[Attempt]:
    prompt = standard.prompt
    words = prompt.text.split() or [prompt.text]
    texts = [honest.text for honest in standard.honest]
    for size in RULER_LENGTHS:
        chosen = generator.integers(len(words), size=size)
        texts.append(" ".join(words[int(i)] for i in chosen))
        texts.append(" ".join(random_letters(generator) for _ in range(size)))
    return [Attempt(prompt, text) for text in texts]


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float:
    """Return Spearman's rank correlation; 0 where one side is constant.

    Args:
        first: float64 [N]; entries that are NaN on either side are left out.
        second: float64 [N].
    """
    kept = np.isfinite(first) & np.isfinite(second)
    one, two = ranks(first[kept]), ranks(second[kept])
    if len(one) < 2 or one.std() == 0 or two.std() == 0:
        return 0.0
    return float(np.corrcoef(one, two)[0, 1])


def ranks(values: np.ndarray) -> np.ndarray:
    """Return ranks from 0, float64 [N]; equal values share the mean of theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return (ends - (counts + 1) / 2)[inverse]


def reference_rows(
    subject: Subject, generator: np.random.Generator, *, reference: Any = "tiny-lm"
) -> list[Row]:
    """Answer with samples of a language model that was not trained on the reward.

    Args:
        subject: The reward under audit.
        generator: Of the samples.
        reference: Name or folder of a causal language model, or the model.
    """
    name = "control: samples of a model"
    prompts = subject.measured[:SAMPLED_PROMPTS]
    try:
        answers = model_samples(subject, prompts, SAMPLES, generator, reference)
    except (Skipped, MissingDependencyError) as error:
        return [Row(name, "skipped", str(error), "control")]
    attempts = [attempt for each in answers for attempt in each]
    return [exploit_row(subject, name, "control", attempts)]
