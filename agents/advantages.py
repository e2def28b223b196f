"""Advantages and returns: pure functions of tensors. B episodes, T tokens."""

import torch
from torch import Tensor

from textenvs.errors import ConfigError


def generalized_advantages(
    rewards: Tensor, values: Tensor, terminated: Tensor, *, gamma: float, gae_lambda: float
) -> Tensor:
    """Generalised advantage estimates (Schulman et al., arXiv:1506.02438, eq. 16).

    A_t = sum_{l >= 0} (gamma * lambda)^l * delta_{t+l}, with
    delta_t = r_t + gamma * V_{t+1} - V_t; the sum ends where an episode does.

    Args:
        rewards: float [B, T], reward after each token.
        values: float [B, T + 1]; the last column bootstraps a truncated row.
        terminated: bool [B, T]; true stops the bootstrap.
        gamma: Discount a token.
        gae_lambda: 0 trusts the values alone, 1 the rewards alone.

    Returns:
        float [B, T].

    Raises:
        ConfigError: if values is not one step longer than rewards.
    """
    if (
        values.shape != (rewards.shape[0], rewards.shape[1] + 1)
        or terminated.shape != rewards.shape
    ):
        raise ConfigError(
            f"rewards {tuple(rewards.shape)} need values of one more column and terminated of the "
            f"same shape, got {tuple(values.shape)} and {tuple(terminated.shape)}"
        )
    going_on = (~terminated).to(values.dtype)
    delta = rewards + gamma * values[:, 1:] * going_on - values[:, :-1]
    advantages = torch.zeros_like(delta)
    carried = torch.zeros_like(delta[:, 0])
    for t in reversed(range(rewards.shape[1])):
        carried = delta[:, t] + gamma * gae_lambda * going_on[:, t] * carried
        advantages[:, t] = carried
    return advantages


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the true entries of `mask`; 0 if there is none."""
    return _masked(values, mask).sum() / mask.sum().clamp_min(1)


def _masked(values: Tensor, mask: Tensor) -> Tensor:
    """Return values with 0 outside the mask, also where they are NaN."""
    return torch.where(mask, values, torch.zeros_like(values))


def whiten(
    values: Tensor, mask: Tensor, *, shift_mean: bool = True, epsilon: float = 1e-8
) -> Tensor:
    """Return values with variance 1 (and mean 0) over the true entries of `mask`.

    The variance is the unbiased one, over the whole batch given; one entry alone is left
    as it is, since it has no variance.
    """
    count = mask.sum()
    if count < 2:
        return _masked(values, mask)
    mean = masked_mean(values, mask)
    variance = _masked((values - mean) ** 2, mask).sum() / (count - 1)
    scaled = (values - mean) * torch.rsqrt(variance + epsilon)
    return _masked(scaled if shift_mean else scaled + mean, mask)
