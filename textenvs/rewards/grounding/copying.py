"""Copying: how much of a context an answer repeats word for word."""

from collections.abc import Iterable, Sequence

from textenvs.rewards.classic.words import ngrams
from textenvs.rewards.grounding.claims import RUN, Statement

WHOLE = 0.8
"""A sentence is copied if this share of its runs of words stands in the answer."""
FEW = 2
"""Sentences or items anyone may repeat."""


def copied_units(answer: Sequence[str], statements: Sequence[Statement]) -> tuple[int, float]:
    """Return how many statements an answer repeats, and their share of all words.

    Args:
        answer: Its words.
        statements: Of the context.
    """
    said = {n: frozenset(ngrams(list(answer), n)) for n in range(1, RUN + 1)}
    lengths = [len(s.words) for s in statements if s.words and _is_copied(s, said)]
    total = sum(len(s.words) for s in statements)
    return len(lengths), sum(lengths) / total if total else 0.0


def _is_copied(statement: Statement, said: dict[int, frozenset[tuple[str, ...]]]) -> bool:
    known = said[min(RUN, len(statement.words))]
    return len(statement.runs & known) >= WHOLE * len(statement.runs)


def longest_run(answer: Sequence[str], context: Iterable[tuple[str, ...]]) -> int:
    """Return the words of the longest stretch of an answer all of whose runs a context has.

    Args:
        answer: Its words.
        context: The runs of `RUN` words of the context.

    Returns:
        0 if there is none.
    """
    known = frozenset(context)
    longest = current = 0
    for run in ngrams(list(answer), RUN):
        current = current + 1 if run in known else 0
        longest = max(longest, current)
    return longest + RUN - 1 if longest else 0
