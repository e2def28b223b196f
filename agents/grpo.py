"""Group-relative policy optimisation, with the switches of Dr. GRPO and DAPO."""

import dataclasses
from typing import Any, Literal, get_args

from torch import Tensor

from agents.advantages import group_normalised, group_statistics
from agents.batch import Batch, BatchSize
from agents.config import KLPlace, OnPolicyConfig
from agents.losses import policy_loss
from agents.on_policy import OnPolicyAgent
from agents.policy import Evaluation
from agents.rollout import Rollout
from agents.validation import choice, count, positive, require
from textenvs.errors import ConfigError
from textenvs.kl import Estimator

RewardScale = Literal["group", "batch", "none"]
LossType = Literal["grpo", "dapo", "dr_grpo"]

UNIFORM = 1e-6
"""Returns differ by rounding alone if their deviation is below this share of 1 and their mean."""


@dataclasses.dataclass(frozen=True)
class GRPOConfig(OnPolicyConfig):
    """GRPO (Shao et al., DeepSeekMath, arXiv:2402.03300) and its successors.

    The defaults are the paper's. Dr. GRPO (Liu et al., arXiv:2503.20783) is
    `scale_rewards="none", loss_type="dr_grpo"`. DAPO (Yu et al., arXiv:2503.14476) is
    `loss_type="dapo", clip_range_high=0.28, drop_uniform_groups=True` with
    `overlong_tokens`, in an environment without a reference.

    The KL is charged only where the environment has a reference. "k3" in the loss is the
    paper's; its gradient is that of KL(pi_ref || pi). To pull towards the optimum of
    E[R] - kl_coef * KL(pi || pi_ref), set `kl_in="reward", kl_estimator="k1"` and
    `scale_rewards="none"`: dividing by the deviation changes the coefficient from group to
    group.

    The settings of `OnPolicyConfig`, and:

    Attributes:
        kl_in: Where the KL is charged, as in `OnPolicyConfig`; here in the "loss".
        kl_estimator: As in `OnPolicyConfig`; here "k3".
        scale_rewards: What the difference from the group's mean is divided by: the standard
            deviation of the "group", of the whole "batch" (one rollout), or "none".
        loss_type: How tokens are weighed in an optimiser step. "grpo": the mean over
            episodes of the mean over their tokens, so that a token of a long answer counts
            less. "dapo": the mean over all tokens. "dr_grpo": the sum over all tokens,
            divided by the episodes times `max_new_tokens`, so that no token's weight
            depends on how long answers happen to be.
        clip_range: The ratio of a token is held above 1 - `clip_range`.
        clip_range_high: And below 1 + this (DAPO's clip-higher: 0.28); None takes `clip_range`.
        dual_clip: Bound on the loss of negative advantages (arXiv:1912.09729), above 1;
            None does without.
        drop_uniform_groups: Leave groups whose returns are all equal out of the update, so
            that they do not dilute its means (DAPO's dynamic sampling, section 3.2; there,
            other prompts are sampled in their place, here the step is smaller).
        overlong_tokens: The last tokens of the budget, over which a charge on the return
            rises linearly from 0 to `overlong_penalty` (DAPO, eq. 13). None charges
            nothing; `missing_eos_penalty` is the abrupt alternative.
        overlong_penalty: The charge at the full budget; DAPO's is 1.
    """

    kl_in: KLPlace = "loss"
    kl_estimator: Estimator = "k3"
    scale_rewards: RewardScale = "group"
    loss_type: LossType = "grpo"
    clip_range: float = 0.2
    clip_range_high: float | None = None
    dual_clip: float | None = None
    drop_uniform_groups: bool = False
    overlong_tokens: int | None = None
    overlong_penalty: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        super().__post_init__()
        choice(self, "scale_rewards", get_args(RewardScale))
        choice(self, "loss_type", get_args(LossType))
        positive(self, "clip_range", "clip_range_high", "overlong_penalty")
        count(self, "overlong_tokens")
        require(self, "dual_clip", "above 1", lambda value: value > 1)
        require(self, "gamma", "1, since whole answers are compared", lambda value: value == 1)


class GRPO(OnPolicyAgent):
    """Learns from how an answer compares with other answers to the same prompt; no critic.

    With G scored answers to a prompt and the return R_i of each (all it earned, KL included
    if it is in the reward), every token of answer i has the advantage
    A_i = (R_i - mean(R_1..R_G)) / (std(R_1..R_G) + 1e-4), and the loss is PPO's clipped
    surrogate (arXiv:2402.03300, eq. 3 and section 4.1.2). See `GRPOConfig` for the variants.
    """

    config_class = GRPOConfig
    needs_groups = True
    config: GRPOConfig

    def prepare(self, rollout: Rollout) -> tuple[Batch, dict[str, float]]:
        """Turn a rollout into a batch, without uniform groups where they are dropped."""
        batch, metrics = super().prepare(rollout)
        scored, returns = batch.mask.any(1), batch.returns[:, 0]
        group = group_statistics(returns, batch.groups, scored)
        uniform = group.std <= UNIFORM * group.mean.abs().clamp_min(1.0)
        if scored.any():
            metrics["group_std"] = group.std[scored].mean().item()
            metrics["uniform_groups"] = uniform[scored].double().mean().item()
        if self.config.drop_uniform_groups:
            batch = batch._replace(mask=batch.mask & ~uniform[:, None])
        return batch, metrics

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return each episode's advantage in its group and its return, at all its tokens."""
        returns = batch.rewards.sum(1)
        if self.config.overlong_tokens is not None:
            lengths, last = batch.mask.sum(1), self.config.overlong_tokens
            share = overlong_share(lengths, _budget(self.env), last)
            returns = returns - self.config.overlong_penalty * share
        advantages = group_normalised(
            returns, batch.groups, batch.mask.any(1), scale=self.config.scale_rewards
        )
        return advantages[:, None] * batch.mask, returns[:, None] * batch.mask

    def divisor(self, part: Batch, size: BatchSize) -> Tensor:
        """Return what sums over tokens are divided by, a scalar or [B, 1]; see `loss_type`."""
        if self.config.loss_type == "dapo":
            return size.tokens
        if self.config.loss_type == "dr_grpo":
            return size.tokens.new_tensor(size.episodes * _budget(self.env))
        return size.episodes * part.mask.sum(1, keepdim=True).clamp_min(1)

    def loss(
        self, part: Batch, now: Evaluation, size: BatchSize
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the clipped surrogate."""
        found = policy_loss(
            now.logprobs,
            part.logprobs,
            part.advantages,
            part.mask,
            clip_range=self.config.clip_range,
            clip_range_high=self.config.clip_range_high,
            dual_clip=self.config.dual_clip,
            count=self.divisor(part, size),
            tokens=size.tokens,
        )
        return found.loss, found.diagnostics()

    def check(self) -> None:
        """Refuse what this learner cannot work with; see `OnPolicyAgent`."""
        super().check()
        buffer, budget = self.config.overlong_tokens, _budget(self.env)
        if buffer is not None and buffer > budget:
            raise ConfigError(
                f"overlong_tokens must be at most the environment's max_new_tokens={budget}, got "
                f"{buffer}; a quarter of it is usual"
            )


def _budget(env: Any) -> int:
    """Return the most tokens that an answer may have."""
    return int(env.unwrapped.batch.max_new_tokens)


def overlong_share(lengths: Tensor, budget: int, buffer: int) -> Tensor:
    """Return how far each answer has gone into the last tokens of its budget, 0 to 1.

    Minus DAPO's length reward (arXiv:2503.14476, eq. 13).

    Args:
        lengths: int64 [B], tokens, EOS included.
        budget: Most tokens an answer may have.
        buffer: Tokens before the budget where the charge begins.
    """
    return ((lengths - (budget - buffer)) / buffer).clamp(0.0, 1.0)
