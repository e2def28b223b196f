"""How far rankings agree with a gold metric or with a second set of rankings."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from agents.evaluation import Interval, clustered_mean
from agents.preferences.rankings import Ranking, pairs
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.types import Prompt

SCANNED = 300
"""Prompts of an environment that are read to find one by its text."""
Gold = Callable[[Ranking], Sequence[float] | None]
"""From a ranking to the score of each of its answers, the higher the better; None where the
prompt is not known."""


class KnownPrompts:
    """Finds the prompts of an environment that rankings are about."""

    def __init__(self, env: Any) -> None:
        """Keep the environment, single or vector."""
        self.batch = env.unwrapped.batch
        self._by_text: dict[str, Prompt] | None = None

    def find(self, ranking: Ranking) -> Prompt | None:
        """Return the prompt of a ranking, None if it is of elsewhere.

        By its id where the ranking has one, else by its text among the first 300 prompts.
        """
        if not ranking.prompt_id:
            return self._texts().get(ranking.prompt)
        try:
            index = self.batch.prompts.index_of(ranking.prompt_id)
        except UnknownNameError:
            return None
        prompt: Prompt = self.batch.encoded(index)[0]
        return prompt if prompt.text == ranking.prompt else None

    def _texts(self) -> dict[str, Prompt]:
        if self._by_text is None:
            count = min(SCANNED, len(self.batch.prompts))
            prompts = [self.batch.prompts[index] for index in range(count)]
            self._by_text = {prompt.text: prompt for prompt in prompts}
        return self._by_text


def gold_metric(env: Any, name: str) -> Gold:
    """Return a gold metric of an environment as a standard to compare rankings with.

    Args:
        env: A text environment, single or vector.
        name: Of the metric.

    Raises:
        UnknownNameError: if the environment has no such metric.
    """
    known = KnownPrompts(env)
    batch = known.batch
    metrics = batch.metrics(batch.episodes([batch.prompts[0]], [""]))
    if name not in metrics:
        raise UnknownNameError("gold metric of the environment", name, metrics)

    def scores(ranking: Ranking) -> Sequence[float] | None:
        prompt = known.find(ranking)
        if prompt is None:
            return None
        episodes = batch.episodes([prompt] * len(ranking.answers), ranking.answers)
        values: list[float] = np.asarray(batch.metrics(episodes)[name], float).tolist()
        return values

    return scores


def agreement(
    rankings: Sequence[Ranking], gold: Gold | Sequence[Ranking], *, seed: int = 0
) -> tuple[int, Interval | None]:
    """Return in how many pairs a gold standard prefers one answer, and how often that is chosen.

    Args:
        rankings: Whose pairs are looked at.
        gold: Scores of answers, or a second set of rankings, which is asked about the pairs
            that both hold.
        seed: Of the bootstrap.

    Returns:
        The number of pairs, and the share of them with its 95% interval; None without a pair.
    """
    verdicts = _by_score(rankings, gold) if callable(gold) else _by_pair(rankings, gold)
    if not verdicts:
        return 0, None
    hits, groups = zip(*verdicts, strict=True)
    return len(hits), clustered_mean(hits, groups, seed=seed)


def _by_score(rankings: Sequence[Ranking], gold: Gold) -> list[tuple[float, str]]:
    """Return, for each pair whose scores differ, 1 if the chosen one is higher; and its group."""
    verdicts = []
    for ranking in rankings:
        scores = gold(ranking)
        if scores is None:
            continue
        score = dict(zip(ranking.answers, scores, strict=True))
        for pair in pairs([ranking]):
            chosen, rejected = score[pair.chosen], score[pair.rejected]
            if chosen < rejected or chosen > rejected:  # neither where one is NaN
                verdicts.append((float(chosen > rejected), pair.group))
    return verdicts


def _by_pair(rankings: Sequence[Ranking], others: Sequence[Ranking]) -> list[tuple[float, str]]:
    """Return the same for pairs that the other rankings hold, one way round or the other."""
    said = {(pair.prompt, pair.chosen, pair.rejected) for pair in pairs(others)}
    verdicts = []
    for pair in pairs(rankings):
        agrees = (pair.prompt, pair.chosen, pair.rejected) in said
        opposes = (pair.prompt, pair.rejected, pair.chosen) in said
        if agrees != opposes:
            verdicts.append((float(agrees), pair.group))
    return verdicts


def oracle_notes(rankings: Sequence[Ranking], env: Any) -> tuple[str, ...]:
    """Say so if an environment's right answers are rejected more often than chosen.

    That is what swapped columns look like. Rankings of other prompts, and an environment
    that knows no right answer, give no note.
    """
    known = KnownPrompts(env)
    first = last = 0
    for ranking in rankings:
        prompt = known.find(ranking)
        if prompt is None:
            continue
        try:
            right = known.batch.oracle(prompt)
        except ConfigError:
            return ()
        if right in ranking.answers:
            place = ranking.ranks[ranking.answers.index(right)]
            first += place == min(ranking.ranks)
            last += place == max(ranking.ranks)
    if last <= first:
        return ()
    return (
        f"the environment's right answer stands last in {last} rankings and first in {first}, "
        "so the chosen and the rejected answers look swapped",
    )
