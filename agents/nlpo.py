"""NLPO: PPO among the tokens that an older copy of the policy finds likely."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.batch import Batch, BatchSize
from agents.config import PPOConfig
from agents.critic_training import actor_critic_groups, drop_actor_gradients
from agents.nucleus_mask import NucleusMask
from agents.on_policy import OnPolicyAgent
from agents.policy import CausalLMPolicy, Evaluation
from agents.ppo import clipped_loss, critic_targets
from agents.rollout import Rollout
from agents.validation import count, require
from textenvs.row_cache import DecodeState

BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(1, dtype=np.uint8)
"""uint8 [256], the bits set in each byte; unpacking a whole rollout would take 8 times its size."""


@dataclasses.dataclass(frozen=True)
class NLPOConfig(PPOConfig):
    """The settings of `PPOConfig`, and those of the mask (defaults of RL4LMs).

    Attributes:
        top_p: Probability that the allowed tokens hold under the masking policy, in (0, 1];
            1 masks nothing.
        min_tokens: The likeliest so many tokens are allowed whatever they hold (RL4LMs
            allowed 100).
        mask_update_interval: Updates after which the masking policy becomes the policy as
            it is then.
    """

    top_p: float = 0.9
    min_tokens: int = 1
    mask_update_interval: int = 5

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        super().__post_init__()
        require(self, "top_p", "above 0 and at most 1", lambda value: 0 < value <= 1)
        count(self, "min_tokens", "mask_update_interval")


class MaskedState(NamedTuple):
    """What `NLPO.predict` remembers of its rows.

    Attributes:
        policy: The cache of the policy.
        mask: The cache of the masking policy.
    """

    policy: DecodeState
    mask: DecodeState


class NLPO(OnPolicyAgent):
    """Natural language policy optimisation (Ramamurthy et al., arXiv:2210.01241, algorithm 1).

    PPO on a smaller action space: a token may be sampled only if it is in the nucleus of the
    masking policy, an older copy of the policy. All others have probability 0 and the rest
    is renormalised, in the rollout and, with the same masks, in the update. The policy that
    acts, here and in `predict`, is the masked one, as in the paper's code; its KL to the
    reference is that of the masked distribution, and so above 0 from the start.

    What `save` writes is a plain model without the mask: only `NLPO.load` brings it back.
    """

    config_class = NLPOConfig
    needs_critic = True
    config: NLPOConfig

    def __init__(self, policy: CausalLMPolicy, *arguments: Any, **options: Any) -> None:
        """Bind a policy to an environment, as `OnPolicyAgent` does; it masks itself at first."""
        super().__init__(policy, *arguments, **options)
        self.mask = NucleusMask(policy, self.config.top_p, self.config.min_tokens)

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
        """Return PPO's loss; the ratios are those of the masked policy."""
        return clipped_loss(part, now, size, self.config)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the weights to train; the critic may learn at a rate of its own."""
        return actor_critic_groups(self.policy, self.config.critic_learning_rate)

    def before_step(self) -> None:
        """Leave the policy as it is while the critic warms up."""
        if self.num_updates < self.config.critic_warmup:
            drop_actor_gradients(self.policy)

    def token_mask(self) -> NucleusMask:
        """Return the nucleus of the masking policy."""
        return self.mask

    def prepare(self, rollout: Rollout) -> tuple[Batch, dict[str, float]]:
        """Turn a rollout into a batch; say how many tokens there were to choose from."""
        batch, metrics = super().prepare(rollout)
        assert rollout.allowed is not None
        choices = BITS_SET[rollout.allowed[rollout.mask]].sum(-1, dtype=np.int64)
        return batch, {**metrics, "allowed_tokens": float(choices.mean())}

    def update(self, batch: Batch) -> dict[str, float]:
        """Take the optimiser steps of one rollout; refresh the mask when it is time."""
        diagnostics = super().update(batch)
        if (self.num_updates + 1) % self.config.mask_update_interval == 0:
            self.mask.refresh()
        return diagnostics

    @torch.no_grad()
    def predict(  # type: ignore[override]  # its state holds two caches
        self,
        observation: Mapping[str, np.ndarray],
        state: MaskedState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, MaskedState]:
        """Choose actions among the allowed ones; see `CausalLMPolicy.predict`."""
        device = self.policy.device
        single = observation["input_ids"].ndim == 1
        ids = torch.from_numpy(np.atleast_2d(observation["input_ids"])).to(device)
        attended = torch.from_numpy(np.atleast_2d(observation["attention_mask"])).to(device)
        caches = (None, None) if state is None else (state.policy, state.mask)
        fresh = torch.full((len(ids),), state is None, device=device)
        if state is not None and episode_start is not None:
            begun = np.atleast_1d(np.asarray(episode_start, bool))
            fresh = torch.from_numpy(begun).to(device)
        allowed, mask = self.mask.next_allowed(ids, attended, caches[1], fresh)
        acted = self.policy.act(
            ids,
            attended,
            caches[0],
            fresh,
            generator=self.generator,
            deterministic=deterministic,
            allowed=allowed,
        )
        tokens = acted.tokens.cpu().numpy()
        return (tokens[0] if single else tokens), MaskedState(acted.state, mask)

    def extra_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the weights of the masking policy."""
        return self.mask.state_dict(), {}

    def load_extra_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take up the weights of the masking policy."""
        self.mask.load_state_dict(tensors)
