"""Advantages and returns: pure functions of tensors. B episodes, T tokens."""

from typing import NamedTuple

import torch
from torch import Tensor

from textenvs.errors import ConfigError, UnknownNameError


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


def returns_to_go(rewards: Tensor, gamma: float) -> Tensor:
    """Return the discounted sum of what follows each token, G_t = r_t + gamma * G_{t+1}.

    Args:
        rewards: float [B, T], 0 after the end of an episode.
        gamma: Discount a token.
    """
    returns = torch.zeros_like(rewards)
    carried = torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        carried = rewards[:, t] + gamma * carried
        returns[:, t] = carried
    return returns


class GroupStatistics(NamedTuple):
    """Of the group that each episode belongs to, float64 [B] all.

    Attributes:
        size: Counted episodes.
        total: Sum of their returns.
        mean: Of their returns; 0 where none is counted.
        std: Unbiased standard deviation; 0 where fewer than two are counted.
    """

    size: Tensor
    total: Tensor
    mean: Tensor
    std: Tensor


def group_statistics(returns: Tensor, groups: Tensor, counted: Tensor) -> GroupStatistics:
    """Return the statistics of each episode's group, in double precision.

    Args:
        returns: float [B], one number an episode.
        groups: int64 [B], equal for the episodes of a group.
        counted: bool [B]; the others enter nothing, and their returns may be NaN.
    """
    index = torch.unique(groups, return_inverse=True)[1]
    kept = _masked(returns.double(), counted)
    zeros = torch.zeros(len(groups), dtype=torch.float64, device=returns.device)
    size = zeros.index_add(0, index, counted.double())[index]
    total = zeros.index_add(0, index, kept)[index]
    mean = total / size.clamp_min(1)
    squares = zeros.index_add(0, index, _masked((kept - mean) ** 2, counted))[index]
    return GroupStatistics(size, total, mean, (squares / (size - 1).clamp_min(1)).sqrt())


def leave_one_out(returns: Tensor, groups: Tensor, counted: Tensor) -> Tensor:
    """Return each return minus the mean of the others in its group, float [B].

    The baseline of Kool et al. ("Buy 4 REINFORCE samples, get a baseline for free!", 2019)
    and RLOO (Ahmadian et al., arXiv:2402.14740, eq. 8): it does not depend on the episode
    it is taken from, so the policy gradient stays unbiased.

    Args:
        returns: float [B], one number an episode.
        groups: int64 [B], equal for the episodes of a group.
        counted: bool [B]. The others get 0, and so does one that has none to be compared with.
    """
    group = group_statistics(returns, groups, counted)
    others = (group.total - returns) / (group.size - 1).clamp_min(1)
    return _masked(returns - others, counted & (group.size > 1)).to(returns.dtype)


def group_normalised(
    returns: Tensor, groups: Tensor, counted: Tensor, *, scale: str, epsilon: float = 1e-4
) -> Tensor:
    """Return (return - mean of the group) / (standard deviation + epsilon), float [B].

    The advantage of GRPO (Shao et al., arXiv:2402.03300, section 4.1.2).

    Args:
        returns: float [B], one number an episode.
        groups: int64 [B], equal for the episodes of a group.
        counted: bool [B]; the others get 0.
        scale: Whose deviation divides: that of the "group", that of the returns of the whole
            "batch", or "none", which leaves the difference as it is (Dr. GRPO,
            arXiv:2503.20783, removes the division: it gives groups with nearly equal
            returns the same weight as others).
        epsilon: Keeps nearly equal returns from being blown up (TRL: 1e-4).

    Raises:
        UnknownNameError: if the scale is none of these.
    """
    group = group_statistics(returns, groups, counted)
    if scale == "group":
        divisor = group.std + epsilon
    elif scale == "batch":
        divisor = group_statistics(returns, torch.zeros_like(groups), counted).std + epsilon
    elif scale == "none":
        divisor = torch.ones_like(group.std)
    else:
        raise UnknownNameError("scale of the advantages", scale, ("group", "batch", "none"))
    return _masked((returns - group.mean) / divisor, counted).to(returns.dtype)
