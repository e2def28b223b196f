"""From what the environment paid to what each token earned: score, penalties and KL."""

from typing import NamedTuple

import numpy as np

from agents.config import OnPolicyConfig
from agents.rollout import Rollout
from textenvs.kl import kl_estimate
from textenvs.wrappers.reference_kl import KLShaping


class TokenRewards(NamedTuple):
    """N episodes, T tokens.

    Attributes:
        rewards: float64 [N, T], what each token earned.
        scores: float64 [N], the score of each episode, clipped and charged for a missing EOS.
        sequence_kl: float64 [N], k1 summed over each episode, in nats; None without a
            reference.
        reference_logprobs: float64 [N, T]; None without a reference.
    """

    rewards: np.ndarray
    scores: np.ndarray
    sequence_kl: np.ndarray | None
    reference_logprobs: np.ndarray | None


def token_rewards(
    rollout: Rollout,
    logprobs: np.ndarray,
    shaping: KLShaping | None,
    config: OnPolicyConfig,
    full_kl: np.ndarray | None = None,
) -> TokenRewards:
    """Return what each token of a rollout earned.

    A task's reward is paid with the last token (EOS, where there is one), or where a reward
    that spreads over the tokens says it was earned. The environment may have paid the
    reference's half of the KL; that half is taken back, and the whole term charged token by
    token with the estimator of the settings, unless it belongs to the loss.

    Args:
        rollout: Whole episodes.
        logprobs: float [N, T], log pi of their tokens.
        shaping: Of the environment; None where it charges no KL.
        config: Penalties, clips and the place of the KL.
        full_kl: float [N, T], the exact KL before each token, for the estimator "full".
    """
    paid = rollout.credited
    rewards = paid.copy()
    last = rollout.lengths - 1
    scores = np.zeros(len(rewards))
    for row, info in enumerate(rollout.infos):
        earned = sum(info["reward_terms"].values()) if info["scored"] else 0.0
        scores[row] = _charged(earned, info["finish_reason"], config)
        rewards[row, last[row]] += scores[row] - earned
    if shaping is None:
        return TokenRewards(rewards, scores, None, None)
    sequence_kl = np.zeros(len(rewards))
    reference = np.zeros_like(rewards)
    for row, info in enumerate(rollout.infos):
        kl, length = info["kl"], last[row] + 1
        terms = np.array(kl["terms"])
        if shaping.timing == "episode":
            rewards[row, last[row]] -= terms.sum()
        else:
            rewards[row, :length] -= terms
        reference[row, :length] = kl["reference_logprob"]
        ours, theirs = logprobs[row, :length].astype(np.float64), reference[row, :length]
        sequence_kl[row] = (ours - theirs).sum()
        if shaping.policy_logprob:  # the environment charged the whole term
            rewards[row, :length] += terms
        elif config.kl_in == "reward":
            if full_kl is not None:
                estimate = full_kl[row, :length].astype(np.float64)
            else:
                estimate = kl_estimate(ours, theirs, config.kl_estimator)
            if config.kl_clip is not None:
                estimate = estimate.clip(-config.kl_clip, config.kl_clip)
            rewards[row, :length] -= kl["coef"] * estimate
    return TokenRewards(rewards, scores, sequence_kl, reference)


def _charged(score: float, finish_reason: str, config: OnPolicyConfig) -> float:
    """Return a score clipped, and charged if the token budget was spent."""
    if config.reward_clip is not None:
        score = float(np.clip(score, -config.reward_clip, config.reward_clip))
    if finish_reason != "length":
        return score
    penalty = config.missing_eos_penalty
    return -penalty if config.missing_eos == "replace" and penalty else score - penalty
