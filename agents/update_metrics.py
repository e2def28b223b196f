"""The metrics of an update, each explained in docs/metrics.md."""

from collections.abc import Sequence

import numpy as np
from torch import Tensor

from agents.advantages import masked_mean
from agents.batch import Batch
from agents.rollout import Rollout
from agents.rollout_metrics import failure_counts, term_metrics
from agents.token_rewards import TokenRewards
from textenvs.wrappers.reference_kl import KLShaping


def rollout_metrics(
    rollout: Rollout, earned: TokenRewards, shaping: KLShaping | None
) -> dict[str, float]:
    """Return what the policy did: scores, terms, gold metrics, lengths and KL."""
    infos = [info for info in rollout.infos if info["scored"]]
    finished = [info["finish_reason"] == "eos" for info in rollout.infos]
    metrics = {
        "episodes": float(len(rollout.infos)),
        "unscored": float(len(rollout.infos) - len(infos)),
        "episode_return": float(earned.rewards.sum(1).mean()),
        "length": float(rollout.lengths.mean()),
        "finished_by_eos": float(np.mean(finished)),
        **failure_counts(rollout.infos),
    }
    if infos:
        metrics["score"] = float(np.mean([sum(info["reward_terms"].values()) for info in infos]))
        metrics |= term_metrics(infos)
        for name in infos[0]["metrics"]:
            metrics[f"gold/{name}"] = float(np.mean([info["metrics"][name] for info in infos]))
    if earned.sequence_kl is not None and shaping is not None:
        metrics["kl"] = float(earned.sequence_kl.mean())
        metrics["kl_coef"] = shaping.coef
        metrics["kl_reward"] = float((earned.rewards.sum(1) - earned.scores).mean())
    return metrics


def batch_metrics(batch: Batch, entropy: Tensor, *, with_critic: bool) -> dict[str, float]:
    """Return the mean entropy and, with a critic, how much of the returns it explains."""
    metrics = {"entropy": masked_mean(entropy, batch.mask).item()}
    if with_critic:
        metrics["values"] = masked_mean(batch.values, batch.mask).item()
        metrics["returns"] = masked_mean(batch.returns, batch.mask).item()
        spread = masked_variance(batch.returns, batch.mask)
        residual = masked_variance(batch.returns - batch.values, batch.mask)
        metrics["explained_variance"] = float("nan") if spread == 0 else 1.0 - residual / spread
    return metrics


def masked_variance(values: Tensor, mask: Tensor) -> float:
    """Return the variance over the true entries of `mask`."""
    return masked_mean((values - masked_mean(values, mask)) ** 2, mask).item()


def means(history: Sequence[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each diagnostic over the optimiser steps, and their number."""
    names = history[0] if history else ()
    averages = {name: float(np.mean([step[name] for step in history])) for name in names}
    return {**averages, "optimizer_steps": float(len(history))}
