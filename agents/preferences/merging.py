"""Several rows about one prompt, merged into rankings of K answers where they agree."""

from collections.abc import Iterable, Sequence

import numpy as np

from agents.preferences.collection import CONTRADICTIONS
from agents.preferences.rankings import Ranking, places

DUPLICATES = "duplicate rows"
Preference = tuple[int, int]
"""Indices of two answers: the better one, the worse one."""


def merged(rankings: Iterable[Ranking]) -> tuple[list[Ranking], dict[str, int]]:
    """Merge the rankings of each prompt.

    A row that says what another one says is dropped. Preferences that contradict each other,
    directly (A over B, B over A) or around a circle, are dropped, all of them. Of the rest,
    answers that are linked by comparisons become one ranking if their preferences, with those
    that follow by transitivity, put every answer in a place. Where they leave open how two
    answers compare, one row a preference remains: no order is invented.

    Returns:
        The rankings, in the order in which their prompts first appear, and what was dropped.
    """
    rows: dict[tuple[str, str, str], list[Ranking]] = {}
    for ranking in rankings:
        rows.setdefault((ranking.prompt, ranking.group, ranking.prompt_id), []).append(ranking)
    found: list[Ranking] = []
    counts = {DUPLICATES: 0, CONTRADICTIONS: 0}
    for same in rows.values():
        different: dict[frozenset[tuple[str, int]], Ranking] = {}
        for ranking in same:
            places_of = frozenset(zip(ranking.answers, ranking.ranks, strict=True))
            different.setdefault(places_of, ranking)
        kept = list(different.values())
        counts[DUPLICATES] += len(same) - len(kept)
        if len(kept) == 1:
            found.append(kept[0])
            continue
        parts, dropped = _merge(kept)
        found += parts
        counts[CONTRADICTIONS] += dropped
    return found, {what: times for what, times in counts.items() if times}


def _merge(rankings: Sequence[Ranking]) -> tuple[list[Ranking], int]:
    """Return the rankings of one prompt, merged, and how many preferences were dropped."""
    answers = list(dict.fromkeys(text for ranking in rankings for text in ranking.answers))
    index = {text: i for i, text in enumerate(answers)}
    said: dict[Preference, None] = {}  # a set that keeps its order
    for ranking in rankings:
        placed = [(index[t], r) for t, r in zip(ranking.answers, ranking.ranks, strict=True)]
        said.update({(i, j): None for i, r in placed for j, worse in placed if r < worse})
    agreed: list[Preference] = []
    for linked in _linked(list(said)):
        members, reaches = _closure(linked)
        at = {answer: row for row, answer in enumerate(members)}
        agreed += [(i, j) for i, j in linked if not reaches[at[j], at[i]]]
    parts = []
    for linked in _linked(agreed):
        for ordered, ranks in _orders(linked):
            texts = tuple(answers[i] for i in ordered)
            first = rankings[0]
            parts.append(Ranking(first.prompt, texts, ranks, first.group, first.prompt_id))
    return parts, len(said) - len(agreed)


def _linked(preferences: Sequence[Preference]) -> list[list[Preference]]:
    """Return the preferences parted into those linked by common answers."""
    parent: dict[int, int] = {}

    def root(answer: int) -> int:
        while parent.setdefault(answer, answer) != answer:
            parent[answer] = answer = parent[parent[answer]]
        return answer

    for better, worse in preferences:
        parent[root(worse)] = root(better)
    parts: dict[int, list[Preference]] = {}
    for preference in preferences:
        parts.setdefault(root(preference[0]), []).append(preference)
    return list(parts.values())


def _closure(preferences: Sequence[Preference]) -> tuple[list[int], np.ndarray]:
    """Return the answers, and bool [K, K]: whether one is better than another by transitivity.

    Warshall's algorithm.
    """
    members = list(dict.fromkeys(answer for preference in preferences for answer in preference))
    at = {answer: row for row, answer in enumerate(members)}
    better = np.zeros((len(members), len(members)), bool)
    for i, j in preferences:
        better[at[i], at[j]] = True
    for k in range(len(members)):
        better |= better[:, k, None] & better[None, k]
    return members, better


def _orders(preferences: Sequence[Preference]) -> list[tuple[Sequence[int], tuple[int, ...]]]:
    """Return the one ranking that linked preferences make, or else one a preference."""
    members, better = _closure(preferences)
    above = better.sum(0)
    if np.array_equal(above[:, None] < above[None], better):
        return [(members, places((-above).tolist()))]
    return [(preference, (0, 1)) for preference in preferences]
