"""Proximal policy optimisation of a causal language model."""

from typing import Any

import torch
from torch import Tensor

from agents.advantages import generalized_advantages, whiten
from agents.batch import Batch, BatchSize
from agents.config import PPOConfig
from agents.critic_training import actor_critic_groups, drop_actor_gradients
from agents.losses import policy_loss, value_loss
from agents.on_policy import OnPolicyAgent
from agents.policy import Evaluation


class PPO(OnPolicyAgent):
    """PPO over a text vector environment; see `PPOConfig` for every choice.

    Schulman et al., arXiv:1707.06347, with the details of "The N implementation details of
    RLHF with PPO" (Hugging Face, 2023) as options. The critic is a linear head on the
    policy's trunk or on a trunk of its own (`CausalLMPolicy(critic=...)`).
    """

    config_class = PPOConfig
    needs_critic = True
    config: PPOConfig

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return generalised advantages, whitened, and the returns behind them."""
        return critic_targets(
            batch,
            gamma=self.config.gamma,
            gae_lambda=self.config.gae_lambda,
            normalize_advantage=self.config.normalize_advantage,
        )

    def loss(
        self, part: Batch, now: Evaluation, size: BatchSize
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the clipped surrogate plus the weighted value loss."""
        return clipped_loss(part, now, size, self.config)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the weights to train; the critic may learn at a rate of its own."""
        return actor_critic_groups(self.policy, self.config.critic_learning_rate)

    def before_step(self) -> None:
        """Leave the policy as it is while the critic warms up."""
        if self.num_updates < self.config.critic_warmup:
            drop_actor_gradients(self.policy)


def critic_targets(
    batch: Batch,
    *,
    gamma: float,
    gae_lambda: float,
    normalize_advantage: bool,
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns from a critic's values, float32 [N, T] both.

    Args:
        batch: With rewards and values.
        gamma: Discount a token.
        gae_lambda: Of the advantage estimate.
        normalize_advantage: Whiten the advantages over all tokens of the batch.
    """
    acted = batch.attention_mask[:, batch.start :].bool()
    ends = acted & ~torch.nn.functional.pad(acted, (0, 1))[:, 1:]
    values = torch.nn.functional.pad(batch.values, (0, 1))
    advantages = generalized_advantages(
        batch.rewards, values, ends, gamma=gamma, gae_lambda=gae_lambda
    )
    returns = advantages + batch.values
    if normalize_advantage:
        advantages = whiten(advantages, batch.mask)
    return advantages, returns


def clipped_loss(
    part: Batch, now: Evaluation, size: BatchSize, config: PPOConfig
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return PPO's loss on a micro-batch, and its diagnostics."""
    policy = policy_loss(
        now.logprobs,
        part.logprobs,
        part.advantages,
        part.mask,
        clip_range=config.clip_range,
        clip_range_high=config.clip_range_high,
        count=size.tokens,
        dual_clip=config.dual_clip,
    )
    value, value_clipped = value_loss(
        now.values[:, :-1],
        part.values,
        part.returns,
        part.mask,
        clip_range=config.clip_range_vf,
        count=size.tokens,
    )
    return policy.loss + config.vf_coef * value, {
        **policy.diagnostics(),
        "value_loss": value.detach(),
        "value_clip_fraction": value_clipped,
    }
