"""Reading an answer with its slips of spelling forgiven, as a person would."""

import dataclasses

from rapidfuzz import fuzz

from textenvs.audit.subject import Attempt, Standard
from textenvs.prompts import normalise
from textenvs.rewards.classic.words import words_of
from textenvs.rewards.grounding.context_match import LISTED_THRESHOLD
from textenvs.rewards.grounding.plain_text import visible
from textenvs.rewards.grounding.title_match import digits_of
from textenvs.rewards.grounding.weighty_words import NEGATIONS


def corrected(attempt: Attempt, standard: Standard) -> Attempt:
    """Return an attempt with each line that is a right line but for slips put right.

    A search finds misspelt right answers by the hundred wherever a reward forgives a slip.
    They are no exploits, but a metric that reads letter for letter cannot tell.
    """
    right = standard.oracle.text.splitlines()
    lines = [_meant(line, right) for line in attempt.text.splitlines()]
    return dataclasses.replace(attempt, text="\n".join(lines))


def _meant(line: str, right: list[str]) -> str:
    """Return the right line that a line misspells, or the line itself."""
    return next((text for text in right if is_slip(line, text)), line)


def is_slip(said: str, meant: str) -> bool:
    """Return whether a text says another but for slips of spelling.

    They have a fuzzy ratio of at least 90, as in the metric `listed` of
    `textenvs.rewards.grounding.context_match.gold_metrics`, as they stand, as words or as
    letters; they have the same digits; and no negation is added. Invisible characters do not
    count.
    """
    said, meant = normalise(visible(said)), normalise(visible(meant))
    words, wanted = words_of(said), words_of(meant)
    if not wanted or digits_of(said) != digits_of(meant):
        return said == meant
    if NEGATIONS.intersection(words) - set(wanted):
        return False
    forms = ((said, meant), (" ".join(words), " ".join(wanted)), ("".join(words), "".join(wanted)))
    return max(fuzz.ratio(*form) for form in forms) >= LISTED_THRESHOLD
