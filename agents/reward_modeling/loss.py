"""Losses of a reward model: pure functions of scores and places."""

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from textenvs.errors import ConfigError


def kwise_loss(scores: Tensor, ranks: Tensor, prompts: Tensor) -> Tensor:
    """Return the ranking loss of InstructGPT (Ouyang et al., arXiv:2203.02155, eq. 1).

    For a prompt with K answers it is the mean of -log sigmoid(r_w - r_l) over its pairs of a
    better answer w and a worse one l: C(K, 2) of them, or fewer where answers tie, for a tie
    makes no pair and is not counted in the divisor either. The loss is the mean over
    prompts, so that one with many answers weighs no more than one with two.

    Args:
        scores: float [N], the model's score of each answer.
        ranks: int [N], the place of each answer, 0 is best.
        prompts: int [N], the same number for answers to one prompt, in any order.

    Returns:
        float [], in nats, at least 0; log 2 where all scores are equal.

    Raises:
        ConfigError: if the three are not vectors of one length, or no two answers to a
            prompt differ in place.
    """
    better, worse, shares = strict_pairs(ranks, prompts, like=scores)
    return -(shares * logsigmoid(scores[better] - scores[worse])).sum()


def centring_loss(scores: Tensor, ranks: Tensor, prompts: Tensor) -> Tensor:
    """Return the mean of (r_w + r_l)^2, which holds scores near 0 (arXiv:2312.09244, sec. 2).

    The ranking loss does not change when a constant is added to all scores of a prompt; this
    chooses the constant. Pairs are those of `kwise_loss`, averaged in the same way.

    Args:
        scores: float [N].
        ranks: int [N].
        prompts: int [N].

    Returns:
        float [], at least 0.
    """
    better, worse, shares = strict_pairs(ranks, prompts, like=scores)
    return (shares * (scores[better] + scores[worse]) ** 2).sum()


def strict_pairs(ranks: Tensor, prompts: Tensor, *, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return all pairs of answers to one prompt that differ in place, and the weight of each.

    Args:
        ranks: int [N], 0 is best.
        prompts: int [N].
        like: float [N], gives the weights their type and device.

    Returns:
        int64 [M] of the better answers, int64 [M] of the worse ones, and float [M], which add
        up to 1 over all pairs and to the same sum over those of any prompt.

    Raises:
        ConfigError: if the three are not vectors of one length, or there is no pair.
    """
    if like.ndim != 1 or ranks.shape != like.shape or prompts.shape != like.shape:
        raise ConfigError(
            f"scores, ranks and prompts must be vectors of one length, got {tuple(like.shape)}, "
            f"{tuple(ranks.shape)} and {tuple(prompts.shape)}"
        )
    same_prompt = prompts[:, None] == prompts[None, :]
    better, worse = (same_prompt & (ranks[:, None] < ranks[None, :])).nonzero(as_tuple=True)
    if not len(better):
        raise ConfigError(
            f"no two of {len(like)} answers to one prompt differ in rank, so there is nothing to "
            "learn; leave prompts out whose answers all tie"
        )
    _, place, counts = prompts[better].unique(return_inverse=True, return_counts=True)
    shares = 1.0 / (counts[place] * len(counts)).to(like.dtype)
    return better, worse, shares


def pair_accuracy(scores: Tensor, ranks: Tensor, prompts: Tensor) -> Tensor:
    """Return the share of pairs whose better answer scores higher, float []; equal ones half.

    Pairs are averaged as in `kwise_loss`: within each prompt first.
    """
    better, worse, shares = strict_pairs(ranks, prompts, like=scores)
    return 0.5 + 0.5 * (shares * torch.sign(scores[better] - scores[worse])).sum()
