"""Ranked answers to one prompt, the pairs they say something about, and splits by group."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any, NamedTuple, overload

from textenvs.errors import ConfigError
from textenvs.prompts import normalise


@dataclass(frozen=True)
class Ranking:
    """Several answers to a prompt and the place of each.

    Attributes:
        prompt: The text that was answered.
        answers: At least two, none empty, no two the same; in any order.
        ranks: The place of each answer: 0 is best, equal places are ties. At least two
            places differ.
        group: The unit of splitting: rankings of a group stand in one split.
        prompt_id: Of the environment's prompt, where there is one.
    """

    prompt: str
    answers: tuple[str, ...]
    ranks: tuple[int, ...]
    group: str
    prompt_id: str = ""

    def __post_init__(self) -> None:
        """Refuse what is no ranking.

        Raises:
            ConfigError: with the value, the rule and the remedy.
        """
        fault = ranking_fault(self.answers, self.ranks)
        if fault is not None:
            raise ConfigError(f"prompt {self.prompt!r:.60}: {fault[1]}")


class Pair(NamedTuple):
    """Two answers to a prompt, of which one is better.

    Attributes:
        prompt: The text that was answered.
        chosen: The better answer.
        rejected: The worse one.
        group: As in `Ranking`.
    """

    prompt: str
    chosen: str
    rejected: str
    group: str


@dataclass(frozen=True)
class RankingSet(Sequence[Ranking]):
    """Rankings, and what was left out on the way to them.

    Attributes:
        rankings: In the order of the prompts.
        counts: What was dropped or merged -> how often, e.g. `{"all ties": 12}`.
        notes: What a reader should know of the data, one sentence each.
        measures: What was measured on the way, e.g. how often a judge's verdict depends on
            the order in which it reads two answers.
    """

    rankings: tuple[Ranking, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    measures: Mapping[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of rankings."""
        return len(self.rankings)

    @overload
    def __getitem__(self, index: int) -> Ranking: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Ranking, ...]: ...
    def __getitem__(self, index: Any) -> Any:
        """Return one ranking, or a tuple of some."""
        return self.rankings[index]


def pairs(rankings: Iterable[Ranking]) -> list[Pair]:
    """Return every pair of answers with different places, the better one as chosen.

    A ranking of K answers without ties gives C(K, 2) pairs; tied answers give none.
    """
    found = []
    for ranking in rankings:
        for i, j in combinations(range(len(ranking.answers)), 2):
            if ranking.ranks[i] != ranking.ranks[j]:
                better, worse = (i, j) if ranking.ranks[i] < ranking.ranks[j] else (j, i)
                chosen, rejected = ranking.answers[better], ranking.answers[worse]
                found.append(Pair(ranking.prompt, chosen, rejected, ranking.group))
    return found


def places(scores: Sequence[float]) -> tuple[int, ...]:
    """Return the place of each score without gaps: 0 for the highest, equal scores tie."""
    order = {score: place for place, score in enumerate(sorted(set(scores), reverse=True))}
    return tuple(order[score] for score in scores)


def ranking_fault(answers: Sequence[str], ranks: Sequence[int]) -> tuple[str, str] | None:
    """Return why answers and places are no ranking, None if they are one.

    Returns:
        The kind of fault, as it is counted, and a sentence: the value, the rule, the remedy.
    """
    if len(answers) < 2:
        return (
            "rankings of one",
            f"a ranking needs at least two answers, got {len(answers)}; add an answer to "
            "compare with, or leave the prompt out",
        )
    if len(ranks) != len(answers):
        return (
            "ranks of another length",
            f"{len(answers)} answers have {len(ranks)} ranks; give one rank an answer",
        )
    if not all(isinstance(text, str) for text in answers):
        return ("answers that are no texts", f"answers must be texts, got {answers!r:.80}")
    if not all(type(rank) is int and rank >= 0 for rank in ranks):
        return (
            "ranks that are no places",
            f"ranks must be whole numbers from 0 (best), got {ranks!r:.80}",
        )
    if not all(text.strip() for text in answers):
        where = next(i for i, text in enumerate(answers) if not text.strip())
        return (
            "empty answers",
            f"answer {where} is {answers[where]!r}; an answer needs a visible character: "
            "leave it out of the ranking",
        )
    if len(set(answers)) != len(answers):
        twice = next(text for i, text in enumerate(answers) if text in answers[:i])
        return (
            "repeated answers",
            f"the answer {twice!r:.60} stands twice in a ranking; merge the two",
        )
    if len(set(ranks)) < 2:
        return (
            "all ties",
            f"all {len(answers)} answers have the rank {ranks[0]}, which prefers none; leave "
            "the prompt out",
        )
    return None


def split_by_group(
    rankings: Sequence[Ranking], *, held_out: float, seed: int
) -> tuple[list[Ranking], list[Ranking]]:
    """Return (train, test) with no group in both (the InstructGPT rule, arXiv:2203.02155, A.3).

    The groups with the lowest hashes of seed and group are held out, so that adding data
    moves few of them. Two groups of one comparison form (`textenvs.prompts.normalise`) are one.

    Args:
        rankings: To split; the order is kept within each part.
        held_out: Share of the groups that are tested on, at least 0 and below 1; above 0 it
            is rounded to at least one group, and to at most all but one.
        seed: Chooses the groups.

    Raises:
        ConfigError: if the share is out of range, or there is only one group to split.
    """
    if isinstance(held_out, bool) or not 0 <= held_out < 1:
        raise ConfigError(
            f"held_out must be at least 0 and below 1, got {held_out!r}; 0.1 is usual"
        )
    groups = {normalise(ranking.group) for ranking in rankings}
    if held_out == 0:
        return list(rankings), []
    if len(groups) < 2:
        raise ConfigError(
            f"{len(rankings)} rankings have {len(groups)} group(s), and a split keeps groups "
            "whole; give rankings of at least two groups, or held_out=0"
        )
    count = min(len(groups) - 1, max(1, round(held_out * len(groups))))
    tested = set(sorted(groups, key=lambda group: _digest(seed, group))[:count])
    parts: tuple[list[Ranking], list[Ranking]] = ([], [])
    for ranking in rankings:
        parts[normalise(ranking.group) in tested].append(ranking)
    return parts


def _digest(seed: int, group: str) -> bytes:
    text = f"{seed}\n{group}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16).digest()
