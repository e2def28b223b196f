"""REINFORCE leave-one-out."""

import dataclasses

from torch import Tensor

from agents.advantages import leave_one_out, whiten
from agents.batch import Batch, BatchSize
from agents.config import OnPolicyConfig
from agents.losses import policy_change, policy_loss
from agents.on_policy import OnPolicyAgent
from agents.policy import Evaluation
from agents.validation import positive, require


@dataclasses.dataclass(frozen=True)
class RLOOConfig(OnPolicyConfig):
    """RLOO (Ahmadian et al., arXiv:2402.14740; Kool et al., 2019).

    The settings of `OnPolicyConfig`, and:

    Attributes:
        clip_range: The probability ratio of a whole answer is held within 1 ± this, once
            the policy has moved since the rollout: in later optimiser steps and epochs.
        normalize_advantage: Whiten the advantages over the episodes of a rollout. Off: then
            the gradient is unbiased.
    """

    clip_range: float = 0.2
    normalize_advantage: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        super().__post_init__()
        positive(self, "clip_range")
        require(self, "gamma", "1, since an answer is one action", lambda value: value == 1)


class RLOO(OnPolicyAgent):
    """Takes a whole answer for one action, and the other answers' mean return for a baseline.

    With k scored answers y_1..y_k to a prompt and the return R of each (all it earned, KL
    included if it is in the reward), the advantage is A_i = R_i - mean of R_j over j != i,
    which is k / (k - 1) times the difference from the group's mean. The gradient
    mean_i A_i * grad log pi(y_i), log pi(y) being the sum over tokens, is an unbiased
    estimate of the gradient of E[R] (arXiv:2402.14740, eq. 8): the baseline is independent of
    y_i, nothing is divided by a random length or deviation, and the mean is over episodes.

    The loss is the clipped surrogate of the answer's probability ratio. In the first
    optimiser step of a rollout the ratio is 1 and its gradient is exactly the one above; a
    `batch_size` of all the rollout's episodes with one epoch takes no other step. Where some
    episodes could not be scored, k is smaller, and an answer left alone teaches nothing.
    """

    config_class = RLOOConfig
    needs_groups = True
    config: RLOOConfig

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return each episode's advantage in its group and its return, at all its tokens."""
        returns, scored = batch.rewards.sum(1), batch.mask.any(1)
        advantages = leave_one_out(returns, batch.groups, scored)
        if self.config.normalize_advantage:
            advantages = whiten(advantages, scored)
        return advantages[:, None] * batch.mask, returns[:, None] * batch.mask

    def divisor(self, part: Batch, size: BatchSize) -> Tensor:
        """Return what sums over tokens are divided by: the episodes of the optimiser step."""
        return size.tokens.new_tensor(size.episodes)

    def loss(
        self, part: Batch, now: Evaluation, size: BatchSize
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the clipped surrogate over whole answers; `clip_fraction` counts answers."""
        found = policy_loss(
            (now.logprobs * part.mask).sum(1, keepdim=True),
            (part.logprobs * part.mask).sum(1, keepdim=True),
            part.advantages[:, :1],
            part.mask.any(1, keepdim=True),
            clip_range=self.config.clip_range,
            count=self.divisor(part, size),
        )
        change = policy_change(now.logprobs, part.logprobs, part.mask, tokens=size.tokens)
        return found.loss, {
            "policy_loss": found.loss.detach(),
            "clip_fraction": found.clip_fraction,
            **change.diagnostics(),
        }
