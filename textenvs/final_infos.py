"""What `info` says of an episode that has ended."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from textenvs.rewards.results import SCORED, RewardResult, Term
from textenvs.types import Episode


def final_infos(
    episodes: Sequence[Episode],
    result: RewardResult,
    rewards: np.ndarray,
    metrics: Mapping[str, np.ndarray],
) -> list[dict[str, Any]]:
    """Return the infos of finished episodes: plain data that JSON holds, without NaN.

    Args:
        episodes: B of them.
        result: Their scores; NaN where there is none.
        rewards: float64 [B], what is paid, a substitute where there is no score.
        metrics: Gold metrics, float64 [B] each.

    Returns:
        One a episode, with fresh objects. A term that has no number for an episode, because
        its gate was shut or it could not score it, is absent from `reward_terms` (weighted)
        and `reward_raw`.
    """
    failures = result.failures
    scored = (~np.isnan(result.scores)).tolist()
    # By column first: a numpy scalar at a time is what costs.
    weighted = {name: term.weighted.tolist() for name, term in result.terms.items()}
    raw = {name: term.score.tolist() for name, term in result.terms.items()}
    gold = {name: np.asarray(values, np.float64).tolist() for name, values in metrics.items()}
    infos: list[dict[str, Any]] = []
    for i, episode in enumerate(episodes):
        info = {
            "completion": episode.completion,
            "completion_ids": list(episode.completion_ids),
            "finish_reason": episode.finish_reason,
            "reward_terms": _of_row(weighted, result.terms, i),
            "reward_raw": _of_row(raw, result.terms, i),
            "metrics": {name: values[i] for name, values in gold.items()},
            "scored": scored[i],
            "task_reward": float(rewards[i]),
        }
        if i in failures:
            info["reward_failure"] = failures[i]
        if result.per_token is not None and scored[i]:
            info["reward_per_token"] = [float(share) for share in result.per_token[i]]
        infos.append(info)
    return infos


def _of_row(
    columns: Mapping[str, list[float]], terms: Mapping[str, Term], row: int
) -> dict[str, float]:
    """Return the numbers of one episode: those of the terms that scored it."""
    return {
        name: values[row] for name, values in columns.items() if terms[name].status[row] == SCORED
    }
