"""`textenvs/Dates-v0`: write a date given in words as ISO 8601.

After the synthetic date task of RL4LMs (Ramamurthy et al., arXiv:2210.01241), whose reward is
1 for any text in which four, two and two digits stand between hyphens. Here the date must be
one of the calendar, and that of the prompt.
"""

import math
import re
from collections.abc import Sequence
from datetime import date
from typing import Any

import numpy as np

from textenvs.errors import ConfigError, PromptError
from textenvs.options import checked_integer
from textenvs.prompts import SPLITS, GeneratedPrompts, checked_split, split_of
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.task_env import TaskEnv
from textenvs.tokenization import TINY_LM
from textenvs.types import Episode, Prompt, Split

# Spelled out, since those of the standard library follow the locale.
MONTHS = (
    *("January", "February", "March", "April", "May", "June"),
    *("July", "August", "September", "October", "November", "December"),
)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
WORDINGS = (
    "{day} {month} {year}",
    "{month} {day}, {year}",
    "{weekday}, {day} {month} {year}",
    "the {ordinal} of {month} {year}",
)
TEMPLATE = "Write as YYYY-MM-DD: {words}\n"
PROMPTS_PER_SPLIT: dict[Split, int] = {"train": 2_000, "validation": 500, "test": 500}
ISO_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})")
PUBLISHED = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
VALID_SHARE, FIELD_SHARES = 0.1, (0.1, 0.4, 0.4)
"""What any date of the calendar pays, and what a right year, month and day add: the year,
which the prompt shows as it is to be written, the least."""


class DateMatch(BaseReward):
    """The fields of one date that are right.

    The answer, white space around it dropped, must be four, two and two digits 0-9 between
    hyphens and a date of the calendar; anything else pays 0. A date pays 0.1, and more for
    each field that is the prompt's: year 0.1, month 0.4, day 0.4. Range [0, 1].
    """

    name = "date_match"

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        return RewardResult.from_scores(self.name, [self._score(e) for e in episodes])

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return 0 and 1."""
        return (0.0, 1.0)

    def _score(self, episode: Episode) -> float:
        said = date_of(episode.completion)
        if said is None:
            return 0.0
        right = fields_right(said, asked_of(episode.prompt))
        shares = [share for share, is_right in zip(FIELD_SHARES, right, strict=True) if is_right]
        return math.fsum([VALID_SHARE, *shares])


def date_of(text: str) -> date | None:
    """Return the date a text is, or None."""
    match = ISO_DATE.fullmatch(text.strip())
    if match is None:
        return None
    try:
        return date(*map(int, match.groups()))
    except ValueError:  # the 30th of February
        return None


def asked_of(prompt: Prompt) -> date:
    """Return the date a prompt asks for."""
    return date.fromisoformat(prompt.metadata["date"])


def fields_right(said: date, asked: date) -> tuple[bool, bool, bool]:
    """Return whether year, month and day are right."""
    return (said.year == asked.year, said.month == asked.month, said.day == asked.day)


def gold_metrics(episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """Return what a policy is judged by, float64 [B] each, 0 or 1.

    - `exact`: the date asked for, and nothing else.
    - `valid`: a date of the calendar, and nothing else.
    - `year`, `month`, `day`: that field is right.
    - `published`: the score of the published task, any text with the shape of a date in it.
    """
    said = [date_of(e.completion) for e in episodes]
    rows = [
        (False,) * 3 if day is None else fields_right(day, asked_of(e.prompt))
        for day, e in zip(said, episodes, strict=True)
    ]
    fields = np.array(rows, np.float64).reshape(len(rows), 3)
    shapes = [PUBLISHED.search(e.completion) is not None for e in episodes]
    return {
        "exact": fields.min(axis=1, initial=1.0),
        "valid": np.array([day is not None for day in said], np.float64),
        "year": fields[:, 0].copy(),
        "month": fields[:, 1].copy(),
        "day": fields[:, 2].copy(),
        "published": np.array(shapes, np.float64),
    }


def probes(prompt: Prompt) -> dict[str, str]:
    """Return answers that only look right."""
    asked = asked_of(prompt)
    return {
        "fixed_date": "2000-01-01",
        "first_of_the_year": f"{asked.year:04}-01-01",
        "thirteenth_month": f"{asked.year:04}-13-{asked.day:02}",
        "day_first": f"{asked.day:02}-{asked.month:02}-{asked.year:04}",
        "with_words": f"The date is {asked.isoformat()}.",
    }


def in_words(day: date, wording: str) -> str:
    """Return a date in words."""
    suffix = (
        "th" if day.day in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(day.day % 10, "th")
    )
    return wording.format(
        day=day.day,
        ordinal=f"{day.day}{suffix}",
        month=MONTHS[day.month - 1],
        year=day.year,
        weekday=WEEKDAYS[day.weekday()],
    )


class DatePrompts(GeneratedPrompts):
    """Dates of one split in one of four wordings, drawn by index and seed."""

    def __init__(
        self, *, split: Split, first_year: int, last_year: int, size: int, seed: int
    ) -> None:
        """Keep the range of years."""
        super().__init__(self._draw, size, seed=(seed, SPLITS.index(split)))
        self.split, self.seed = split, seed
        self._first = date(first_year, 1, 1).toordinal()
        self._last = date(last_year, 12, 31).toordinal()

    def _draw(self, index: int, generator: np.random.Generator) -> Prompt:
        while True:
            day = date.fromordinal(int(generator.integers(self._first, self._last + 1)))
            if split_of(day.isoformat()) == self.split:
                break
        wording = WORDINGS[int(generator.integers(len(WORDINGS)))]
        return Prompt(
            id=f"{self.split}-{self.seed}-{index}",
            text=TEMPLATE.format(words=in_words(day, wording)),
            reference=day.isoformat(),
            group=day.isoformat(),
            metadata={"date": day.isoformat(), "wording": wording},
        )


def dates_task(
    *,
    first_year: int = 1900,
    last_year: int = 2099,
    split: Split = "train",
    n_prompts: int | None = None,
    prompt_seed: int = 0,
) -> dict[str, Any]:
    """Return the arguments of `TextEnv` for this task.

    Args:
        first_year: From 1000, so that a year has four digits.
        last_year: Not before `first_year`, up to 9999.
        split: "train", "validation" or "test", by the date.
        n_prompts: Prompts of the split; None means 2,000 for training, 500 elsewhere.
        prompt_seed: Chooses another sequence of dates of the same split.

    Raises:
        ConfigError: if an option is out of range.
        PromptError: if `n_prompts` is no count.
        UnknownNameError: if there is no such split.
    """
    checked_split(split)
    checked_integer("first_year", first_year, 1000, 1900, 9999)
    checked_integer("last_year", last_year, 1000, 2099, 9999)
    if first_year > last_year:
        raise ConfigError(f"first_year {first_year} is after last_year {last_year}")
    if n_prompts is not None and (isinstance(n_prompts, bool) or not isinstance(n_prompts, int)):
        raise PromptError(f"n_prompts must be at least 1, got {n_prompts!r}")
    prompts = DatePrompts(
        split=split,
        first_year=first_year,
        last_year=last_year,
        size=PROMPTS_PER_SPLIT[split] if n_prompts is None else n_prompts,
        seed=checked_integer("prompt_seed", prompt_seed, 0, 0),
    )
    return {
        "prompts": prompts,
        "reward": DateMatch(),
        "tokenizer": TINY_LM,
        "max_prompt_tokens": 40,
        "max_new_tokens": 16,
        "metrics": gold_metrics,
        "probes": probes,
    }


class DatesEnv(TaskEnv):
    """Write a date given in words as ISO 8601.

    Observation and action: as in `TextEnv`. Reward: `DateMatch`, 0.1 for a date of the
    calendar and the rest for right fields, in [0, 1]. Ends at EOS or when the token budget
    is spent, always `terminated`. Gold metrics: `exact`, `valid`, `year`, `month`, `day`,
    `published`. Options: see `dates_task`.

    Version history: v0, first version.
    """

    task = staticmethod(dates_task)


make_vec = DatesEnv.make_vec
