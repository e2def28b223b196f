"""The state of one run of the checker: the subject, the seed, the sample sizes."""

import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from textenvs.checker.report import Row, Rows
from textenvs.checker.subject import Subject, prompts_of
from textenvs.types import Prompt


@dataclass(frozen=True)
class Study:
    """What every check is given.

    Attributes:
        subject: The environment.
        seed: Of every random choice.
        sampled_prompts: How many prompts the checks of the reward look at.
    """

    subject: Subject
    seed: int
    sampled_prompts: int

    def generator(self, name: str) -> np.random.Generator:
        """Return a generator for one use; the same whatever other checks draw."""
        return np.random.default_rng((self.seed, zlib.crc32(name.encode())))

    def sample(self, env: Any) -> list[Prompt]:
        """Return a seeded sample of the environment's prompts, the same at each call."""
        prompts = prompts_of(env)
        size = min(self.sampled_prompts, len(prompts))
        chosen = self.generator("prompts").choice(len(prompts), size, replace=False)
        return [prompts[int(i)] for i in np.sort(chosen)]


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: In the report.
        run: Yields rows; raises `Fault` or `Skipped` to end early.
        needs: Checks without which its findings would say nothing new; it is skipped where
            one of them found a fault.
    """

    name: str
    run: Callable[[Study], Rows]
    needs: tuple[str, ...] = ()


def ok(name: str, words: str) -> Row:
    """Return a row for what is as it should be."""
    return Row(name, "ok", words)


def fault(name: str, words: str) -> Row:
    """Return a row for what is wrong."""
    return Row(name, "fault", words)


def note(name: str, words: str) -> Row:
    """Return a row for what is worth knowing."""
    return Row(name, "note", words)


def skipped(name: str, words: str) -> Row:
    """Return a row for what could not be checked."""
    return Row(name, "skipped", words)


def verdict(name: str, wrong: str | None, right: str) -> Row:
    """Return a fault with the words of `wrong`, or, where it is None, an ok row."""
    return ok(name, right) if wrong is None else fault(name, wrong)
