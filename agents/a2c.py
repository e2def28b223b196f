"""Advantage actor-critic."""

import dataclasses

from torch import Tensor

from agents.batch import Batch, BatchSize
from agents.config import OnPolicyConfig
from agents.losses import policy_change, policy_gradient_loss, value_loss
from agents.on_policy import OnPolicyAgent
from agents.policy import Evaluation
from agents.ppo import critic_targets
from agents.validation import not_negative, require, share


@dataclasses.dataclass(frozen=True)
class A2CConfig(OnPolicyConfig):
    """A2C, the synchronous form of A3C (Mnih et al., arXiv:1602.01783).

    The paper's optimiser is RMSprop; this one is Adam, as for all learners here. `n_epochs`
    stays 1: there is no ratio to correct for a policy that has moved. For the same reason a
    `batch_size` of all the rollout's episodes, one optimiser step a rollout, is the algorithm
    to the letter; smaller batches reuse slightly older samples.

    The settings of `OnPolicyConfig`, and:

    Attributes:
        gae_lambda: Of the advantage estimate (arXiv:1506.02438); 1 is the paper's, returns
            minus values.
        vf_coef: Weight of the value loss.
        normalize_advantage: Whiten over all tokens of a rollout.
    """

    gae_lambda: float = 1.0
    vf_coef: float = 0.5
    normalize_advantage: bool = False

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        super().__post_init__()
        share(self, "gae_lambda")
        not_negative(self, "vf_coef")
        rule = "1, since nothing corrects for a policy that has moved (PPO does)"
        require(self, "n_epochs", rule, lambda value: value == 1)


class A2C(OnPolicyAgent):
    """The policy gradient with a critic for a baseline; no ratio, no clip.

    The loss is the mean over tokens of
    -A_t * log pi(a_t|s_t) + vf_coef / 2 * (V(s_t) - (A_t + V_old(s_t)))^2, with the entropy
    bonus `ent_coef`, and A_t = sum_k gamma^k r_{t+k} - V_old(s_t) for `gae_lambda` 1
    (arXiv:1602.01783, section 4 and algorithm S3; completions are played to their end, so
    nothing is bootstrapped).
    """

    config_class = A2CConfig
    needs_critic = True
    config: A2CConfig

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return generalised advantages and the returns behind them."""
        return critic_targets(
            batch,
            gamma=self.config.gamma,
            gae_lambda=self.config.gae_lambda,
            normalize_advantage=self.config.normalize_advantage,
        )

    def loss(
        self, part: Batch, now: Evaluation, size: BatchSize
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the score-function loss plus the weighted value loss."""
        policy = policy_gradient_loss(now.logprobs, part.advantages, part.mask, count=size.tokens)
        value, _ = value_loss(
            now.values[:, :-1],
            part.values,
            part.returns,
            part.mask,
            clip_range=None,
            count=size.tokens,
        )
        change = policy_change(now.logprobs, part.logprobs, part.mask, tokens=size.tokens)
        return policy + self.config.vf_coef * value, {
            "policy_loss": policy.detach(),
            "value_loss": value.detach(),
            **change.diagnostics(),
        }
