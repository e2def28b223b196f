"""Losses: pure functions of tensors, all sums over tokens divided by a given count.

The count is an argument because a batch may be cut into micro-batches: dividing each by
the tokens of the whole batch makes accumulated gradients equal to those of one pass.
"""

from typing import NamedTuple, get_args

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from agents.config import PreferenceLossType
from textenvs.errors import UnknownNameError

LOG_RATIO_BOUND = 20.0
"""Log-ratios are clamped to this before exp, which would overflow (verl, OpenRLHF)."""


class PolicyLoss(NamedTuple):
    """The clipped surrogate and what it says of the step.

    Attributes:
        loss: scalar.
        clip_fraction: Share of tokens whose ratio was clipped. As of all diagnostics, the
            part of the whole batch's share that falls to the rows given.
        approx_kl: Mean k3 estimate of KL(old || new) a token.
        ratio: Mean ratio.
        ratio_square: Mean of its square.
    """

    loss: Tensor
    clip_fraction: Tensor
    approx_kl: Tensor
    ratio: Tensor
    ratio_square: Tensor

    def diagnostics(self) -> dict[str, Tensor]:
        """Return what is logged, by its name in docs/metrics.md; the parts of a batch add up."""
        return {
            "policy_loss": self.loss.detach(),
            "approx_kl": self.approx_kl,
            "clip_fraction": self.clip_fraction,
            "ratio": self.ratio,
            "ratio_square": self.ratio_square,
        }


def policy_loss(
    logprobs: Tensor,
    old_logprobs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_range: float,
    count: Tensor | int,
    tokens: Tensor | int | None = None,
    clip_range_high: float | None = None,
    dual_clip: float | None = None,
) -> PolicyLoss:
    """The clipped surrogate objective (Schulman et al., arXiv:1707.06347, eq. 7), negated.

    Args:
        logprobs: float [B, T], log pi of the tokens now, with gradient.
        old_logprobs: float [B, T], when they were sampled.
        advantages: float [B, T].
        mask: bool [B, T], the tokens that were acted.
        clip_range: epsilon; the ratio is clipped to [1 - epsilon, 1 + epsilon].
        count: What the loss is divided by; [B, 1] gives each row its own.
        tokens: Tokens of the whole batch, for the diagnostics; None takes `count`.
        clip_range_high: The upper epsilon, where it is another (DAPO, arXiv:2503.14476, eq. 8).
        dual_clip: c > 1 bounds the loss of a negative advantage by c times its size
            (Ye et al., arXiv:1912.09729, eq. 5).
    """
    ratio = _log_ratio(logprobs, old_logprobs, mask).exp()
    high = clip_range if clip_range_high is None else clip_range_high
    clipped = ratio.clamp(1.0 - clip_range, 1.0 + high)
    losses = torch.maximum(-advantages * ratio, -advantages * clipped)
    if dual_clip is not None:
        bounded = torch.minimum(losses, -dual_clip * advantages)
        losses = torch.where(advantages < 0, bounded, losses)
    with torch.no_grad():
        outside = ((ratio < 1.0 - clip_range) | (ratio > 1.0 + high)) & mask
        tokens = count if tokens is None else tokens
        change = policy_change(logprobs, old_logprobs, mask, tokens=tokens)
    return PolicyLoss((losses * mask / count).sum(), (outside / tokens).sum(), *change)


def policy_gradient_loss(
    logprobs: Tensor, advantages: Tensor, mask: Tensor, *, count: Tensor | int
) -> Tensor:
    """The score-function estimator (Williams, 1992), negated: -sum A_t log pi_t / count.

    Its gradient is that of the expected return, if the tokens were sampled from the policy
    as it is: there is no ratio to correct for a policy that has moved.

    Args:
        logprobs: float [B, T], with gradient.
        advantages: float [B, T], without.
        mask: bool [B, T], the tokens to learn from.
        count: What the sum is divided by.
    """
    return -(advantages * logprobs * mask / count).sum()


class PolicyChange(NamedTuple):
    """How far the policy has moved from the one that sampled.

    Attributes:
        approx_kl: Mean k3 estimate of KL(old || new) a token, in nats.
        ratio: Mean ratio new / old of a token.
        ratio_square: Mean of its square.
    """

    approx_kl: Tensor
    ratio: Tensor
    ratio_square: Tensor

    def diagnostics(self) -> dict[str, Tensor]:
        """Return what is logged, by its name in docs/metrics.md."""
        return self._asdict()


@torch.no_grad()
def policy_change(
    logprobs: Tensor, old_logprobs: Tensor, mask: Tensor, *, tokens: Tensor | int
) -> PolicyChange:
    """Return how far the policy has moved, from [B, T] each.

    Args:
        logprobs: Now.
        old_logprobs: When the tokens were sampled.
        mask: Tokens that count.
        tokens: Their number in the whole batch, of which this may be a part.
    """
    log_ratio = _log_ratio(logprobs, old_logprobs, mask)
    ratio, weight = log_ratio.exp(), mask / tokens
    approx_kl = ((ratio - 1.0 - log_ratio) * weight).sum()
    return PolicyChange(approx_kl, (ratio * weight).sum(), (ratio**2 * weight).sum())


def _log_ratio(logprobs: Tensor, old_logprobs: Tensor, mask: Tensor) -> Tensor:
    return (logprobs - old_logprobs).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND) * mask


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


def kl_loss(
    logprobs: Tensor, reference_logprobs: Tensor, mask: Tensor, *, estimator: str, count: Tensor
) -> Tensor:
    """A differentiable penalty on KL(pi || pi_ref), of tokens sampled from pi.

    With d = log pi - log pi_ref: "k2" is d^2 / 2, whose gradient is that of the KL itself;
    "k3" is exp(-d) - 1 + d (DeepSeekMath, arXiv:2402.03300, eq. 4), whose value is unbiased
    and whose gradient is that of KL(pi_ref || pi), the other way round.

    Args:
        logprobs: float [B, T], with gradient.
        reference_logprobs: float [B, T].
        mask: bool [B, T].
        estimator: "k2" or "k3".
        count: Number of tokens to divide by; [B, 1] gives each row its own.

    Raises:
        UnknownNameError: if the estimator is neither.
    """
    difference = (logprobs - reference_logprobs).clamp(-LOG_RATIO_BOUND, LOG_RATIO_BOUND) * mask
    if estimator == "k2":
        terms = 0.5 * difference**2
    elif estimator == "k3":
        terms = (-difference).exp() - 1.0 + difference
    else:
        raise UnknownNameError("KL estimator of a loss", estimator, ("k2", "k3"))
    return (terms / count).sum()


def dpo_loss(
    chosen: Tensor,
    rejected: Tensor,
    reference_chosen: Tensor,
    reference_rejected: Tensor,
    *,
    beta: float,
    loss_type: PreferenceLossType = "sigmoid",
    label_smoothing: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """The loss of preferring one answer to another, pair by pair.

    With h = (log pi - log pi_ref)(chosen) - (log pi - log pi_ref)(rejected): "sigmoid" is
    -log sigmoid(beta * h) (DPO, Rafailov et al., arXiv:2305.18290, eq. 7), with a share e
    of the labels taken to be wrong
    -(1 - e) * log sigmoid(beta * h) - e * log sigmoid(-beta * h) (cDPO, E. Mitchell, 2023);
    "ipo" is (h - 1 / (2 * beta))^2 (Azar et al., arXiv:2310.12036, eq. 17).

    Args:
        chosen: float [B], log pi of whole answers, summed over tokens, with gradient.
        rejected: float [B], the same of the answers they are preferred to.
        reference_chosen: float [B], under the reference.
        reference_rejected: float [B], under the reference.
        beta: Above 0; the larger, the nearer the policy stays to the reference.
        loss_type: "sigmoid" or "ipo".
        label_smoothing: e, in [0, 0.5); "sigmoid" alone looks at it.

    Returns:
        The loss of each pair, float [B], and its margin beta * h without gradient, the
        difference of the implicit rewards.

    Raises:
        UnknownNameError: if the loss is neither.
    """
    difference = (chosen - reference_chosen) - (rejected - reference_rejected)
    margins = beta * difference
    if loss_type == "sigmoid":
        right, wrong = logsigmoid(margins), logsigmoid(-margins)
        losses = -(1.0 - label_smoothing) * right - label_smoothing * wrong
    elif loss_type == "ipo":
        losses = (difference - 0.5 / beta) ** 2
    else:
        raise UnknownNameError("preference loss", loss_type, get_args(PreferenceLossType))
    return losses, margins.detach()


def answer_loss(logprobs: Tensor, mask: Tensor) -> Tensor:
    """Mean negative log-likelihood of the answer tokens, in nats a token."""
    return -(logprobs * mask).sum() / mask.sum().clamp_min(1)
