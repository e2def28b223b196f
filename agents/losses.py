"""Losses: pure functions of tensors, all sums over tokens divided by a given count.

The count is an argument because a batch may be cut into micro-batches: dividing each by
the tokens of the whole batch makes accumulated gradients equal to those of one pass.
"""

from typing import NamedTuple

import torch
from torch import Tensor

LOG_RATIO_BOUND = 20.0
"""Log-ratios are clamped to this before exp, which would overflow (verl, OpenRLHF)."""


class PolicyLoss(NamedTuple):
    """The clipped surrogate and what it says of the step.

    Attributes:
        loss: scalar.
        clip_fraction: Share of tokens whose ratio was clipped, times tokens / count.
        approx_kl: Mean k3 estimate of KL(old || new) a token, times tokens / count.
        ratio: Mean ratio, times tokens / count.
    """

    loss: Tensor
    clip_fraction: Tensor
    approx_kl: Tensor
    ratio: Tensor


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_range: float,
    count: Tensor,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """The clipped surrogate objective (Schulman et al., arXiv:1707.06347, eq. 7), negated.

    Args:
        logprobs: float [B, T], log pi of the tokens now, with gradient.
        old_logprobs: float [B, T], when they were sampled.
        advantages: float [B, T].
        mask: bool [B, T], the tokens that were acted.
        clip_range: epsilon; the ratio is clipped to [1 - epsilon, 1 + epsilon].
        count: Number of tokens to divide by.
        dual_clip: c > 1 bounds the loss of a negative advantage by c times its size
            (Ye et al., arXiv:1912.09729, eq. 5).
    """
    log_ratio = (logprobs - old_logprobs).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND) * mask
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + clip_range)
    losses = torch.maximum(-advantages * ratio, -advantages * clipped)
    if dual_clip is not None:
        bounded = torch.minimum(losses, -dual_clip * advantages)
        losses = torch.where(advantages < 0, bounded, losses)
    with torch.no_grad():
        outside = ((ratio - 1.0).abs() > clip_range) & mask
        approx_kl = ((ratio - 1.0 - log_ratio) * mask).sum() / count
        mean_ratio = (ratio * mask).sum() / count
    return PolicyLoss((losses * mask).sum() / count, outside.sum() / count, approx_kl, mean_ratio)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    returns: Tensor,
    mask: Tensor,
    *,
    clip_range: float | None,
    count: Tensor,
) -> tuple[Tensor, Tensor]:
    """Half the squared error, pessimistic under clipping (OpenAI, lm-human-preferences).

    Args:
        values: float [B, T], with gradient.
        old_values: float [B, T], at the rollout.
        returns: float [B, T].
        mask: bool [B, T].
        clip_range: Bound on the move away from the old value; None does not clip.
        count: Number of tokens to divide by.

    Returns:
        The loss, and the share of tokens where the clipped error was the larger one.
    """
    errors = (values - returns) ** 2
    clipped_share = torch.zeros((), device=values.device)
    if clip_range is not None:
        near = old_values + (values - old_values).clamp(-clip_range, clip_range)
        clipped = (near - returns) ** 2
        clipped_share = ((clipped > errors) & mask).sum() / count
        errors = torch.maximum(errors, clipped)
    return 0.5 * (errors * mask).sum() / count, clipped_share


def answer_loss(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Mean negative log-likelihood of the answer tokens, in nats a token."""
    return -(logprobs * mask).sum() / mask.sum().clamp_min(1)
