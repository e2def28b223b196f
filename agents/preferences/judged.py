"""Ranked answers by an AI judge, as in RLAIF (Lee et al., arXiv:2309.00267)."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import numpy as np

from agents.preferences.collection import RankingCollector
from agents.preferences.rankings import RankingSet, places
from agents.preferences.samples import UNSCORED
from textenvs.rewards import PairwiseJudge
from textenvs.rewards.base import Reward, checked_result
from textenvs.types import Episode, Prompt

FLIPPED = "flipped by the order"
REMEDY = "give more prompts or more different answers, or ask another judge"
Asked = tuple[Prompt, list[str]]
"""A prompt and the different answers to it."""


def from_judge(
    env: Any, answers: Mapping[str, Sequence[str]], judge: PairwiseJudge | Reward
) -> RankingSet:
    """Rank the answers to each prompt by a judge.

    A `Judge` (or any reward) rates every answer; equal ratings tie. A `PairwiseJudge` reads
    all C(K, 2) pairs in both orders. An answer wins a pair if it is preferred in both, and
    gets half a win where the order decides (Zheng et al., arXiv:2306.05685, section 3.4);
    places are by wins. `measures["flipped by the order"]` is then the share of pairs whose
    verdict changes with the order: the position bias of the judge.

    Args:
        env: A text environment, single or vector, which knows the prompts.
        answers: Id of a prompt -> K answers to it.
        judge: Who ranks them.

    Raises:
        ConfigError: if no prompt has answers that the judge tells apart.
        UnknownNameError: if the environment has no prompt of an id.
    """
    collector = RankingCollector()
    batch = env.unwrapped.batch
    asked = [
        (batch.encoded(batch.prompts.index_of(prompt_id))[0], collector.distinct(texts))
        for prompt_id, texts in answers.items()
    ]
    if isinstance(judge, PairwiseJudge):
        scores, flipped = pair_wins(asked, judge)
        measures = {FLIPPED: flipped}
        remedy = f"{REMEDY}, since {flipped:.0%} of this one's verdicts change with the order"
    else:
        scores, measures, remedy = _ratings(asked, judge), {}, REMEDY
    for (prompt, texts), values in zip(asked, scores, strict=True):
        known = np.flatnonzero(~np.isnan(values))
        collector.count(UNSCORED, len(texts) - len(known))
        collector.add(
            prompt.text,
            [texts[i] for i in known],
            places(values[known].tolist()),
            group=prompt.group,
            prompt_id=prompt.id,
        )
    return collector.finish(remedy, measures=measures)


def pair_wins(asked: Sequence[Asked], judge: PairwiseJudge) -> tuple[list[np.ndarray], float]:
    """Return the wins of each answer over the others to its prompt, and the share of flips.

    Returns:
        float64 [K] a prompt, from 0 to K - 1, and the share of pairs in which the order
        decides; NaN if there is no pair.
    """
    pairs = [
        (row, i, j)
        for row, (_, texts) in enumerate(asked)
        for i, j in combinations(range(len(texts)), 2)
    ]
    wins = [np.zeros(len(texts)) for _, texts in asked]
    if not pairs:
        return wins, float("nan")
    verdicts = _both_orders(asked, pairs, judge)
    agreed = np.where(verdicts[0] == verdicts[1], verdicts[0], 0.5)
    for (row, i, j), won in zip(pairs, agreed.tolist(), strict=True):
        wins[row][i] += won
        wins[row][j] += 1.0 - won
    return wins, float((verdicts[0] != verdicts[1]).mean())


def _both_orders(
    asked: Sequence[Asked], pairs: Sequence[tuple[int, int, int]], judge: PairwiseJudge
) -> np.ndarray:
    """Return float64 [2, pairs], in each order 1 if the first answer is preferred, 0, or 1/2.

    The judge reports the mean of its two probabilities and how far they are apart, so both
    are known but for which order is which, and that makes no difference here.
    """
    # The second answer of a pair stands in for the reference that the judge compares with.
    comparer = copy.copy(judge)
    comparer.against = "reference"
    episodes = []
    for row, i, j in pairs:
        prompt, texts = asked[row]
        rival = dataclasses.replace(prompt, reference=texts[j])
        episodes.append(Episode(rival, texts[i]))
    result = checked_result(comparer, episodes)
    apart = result.terms[f"{comparer.name}:disagreement"].score / 2
    both = np.stack([result.scores - apart, result.scores + apart])
    # The sum and the difference of two numbers give them back to a rounding error.
    even = np.isclose(both, 0.5, rtol=0.0, atol=1e-12)
    return np.where(even, 0.5, (both > 0.5).astype(np.float64))


def _ratings(asked: Sequence[Asked], judge: Reward) -> list[np.ndarray]:
    episodes = [Episode(prompt, text) for prompt, texts in asked for text in texts]
    if not episodes:
        return [np.zeros(0) for _ in asked]
    scores = checked_result(judge, episodes).scores
    return list(np.split(scores, np.cumsum([len(texts) for _, texts in asked])[:-1]))
