"""REINFORCE with a baseline."""

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from agents.advantages import leave_one_out, masked_mean, returns_to_go
from agents.batch import Batch, BatchSize
from agents.config import OnPolicyConfig
from agents.losses import policy_change, policy_gradient_loss
from agents.on_policy import OnPolicyAgent
from agents.policy import Evaluation
from agents.validation import choice, require
from textenvs.errors import ConfigError

Baseline = Literal["leave_one_out", "mean", "moving_average", "none"]


@dataclasses.dataclass(frozen=True)
class REINFORCEConfig(OnPolicyConfig):
    """REINFORCE (Williams, "Simple statistical gradient-following algorithms", 1992).

    `n_epochs` stays 1: there is no ratio to correct for a policy that has moved. For the same
    reason a `batch_size` of all the rollout's episodes, one optimiser step a rollout, is the
    algorithm to the letter; smaller batches reuse slightly older samples.

    The settings of `OnPolicyConfig`, and:

    Attributes:
        baseline: What an episode's returns are compared with; it leaves the gradient's
            expectation as it is, unless said otherwise, and lowers its variance.
            "leave_one_out": the mean return of the other episodes of the rollout.
            "mean": that of all of them. It contains the episode itself, which shrinks the
            expected gradient by 1/n; only the step length notices.
            "moving_average": that of earlier rollouts, 0 in the first; the choice where a
            rollout is a single episode.
            "none": 0. Unless returns have mean 0, the noise is much larger.
        baseline_decay: Weight that the moving average keeps at each rollout.
    """

    baseline: Baseline = "leave_one_out"
    baseline_decay: float = 0.9

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        super().__post_init__()
        choice(self, "baseline", get_args(Baseline))
        rule = "at least 0 and below 1"
        require(self, "baseline_decay", rule, lambda value: 0 <= value < 1)
        rule = "1, since nothing corrects for a policy that has moved (RLOO and PPO do)"
        require(self, "n_epochs", rule, lambda value: value == 1)


class REINFORCE(OnPolicyAgent):
    """The plain policy gradient: no critic, no ratio, no clip, no groups.

    The loss is minus the mean over episodes of sum_t (G_t - b) * log pi(a_t|s_t), with
    G_t = sum_{k >= t} gamma^(k-t) r_k what the episode earned from that token on. For
    gamma = 1 its gradient is an unbiased estimate of that of the expected return
    (Sutton and Barto, 2018, section 13.4, whose factor gamma^t is left out, as usual).
    The baseline b is one number for all tokens of an episode; see `REINFORCEConfig`.
    """

    config_class = REINFORCEConfig
    config: REINFORCEConfig
    _average = 0.0
    _rollouts = 0

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the returns-to-go minus the baseline, and the returns; move the average."""
        returns, scored = returns_to_go(batch.rewards, self.config.gamma), batch.mask.any(1)
        baselines = self._baselines(returns[:, 0], scored)
        advantages = torch.where(batch.mask, returns - baselines[:, None], 0.0)
        return advantages, torch.where(batch.mask, returns, 0.0)

    def _baselines(self, returns: Tensor, scored: Tensor) -> Tensor:
        """Return b of each episode, float [B], from the returns of whole episodes."""
        kind = self.config.baseline
        if kind == "leave_one_out":
            everyone = torch.zeros(len(returns), dtype=torch.int64, device=returns.device)
            return returns - leave_one_out(returns, everyone, scored)
        mean = masked_mean(returns.double(), scored).item()
        if kind == "mean":
            return torch.full_like(returns, mean)
        if kind == "none":
            return torch.zeros_like(returns)
        decay = self.config.baseline_decay
        # divided by the weight seen so far, else it would creep up from 0 (as in Adam)
        known = self._average / (1 - decay**self._rollouts) if self._rollouts else 0.0
        if scored.any():
            self._average = decay * self._average + (1 - decay) * mean
            self._rollouts += 1
        return torch.full_like(returns, known)

    def divisor(self, part: Batch, size: BatchSize) -> Tensor:
        """Return what sums over tokens are divided by: the episodes of the optimiser step."""
        return size.tokens.new_tensor(size.episodes)

    def loss(
        self, part: Batch, now: Evaluation, size: BatchSize
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the score-function loss."""
        loss = policy_gradient_loss(
            now.logprobs, part.advantages, part.mask, count=self.divisor(part, size)
        )
        change = policy_change(now.logprobs, part.logprobs, part.mask, tokens=size.tokens)
        return loss, {"policy_loss": loss.detach(), **change.diagnostics()}

    def extra_state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the moving average."""
        return {}, {"average": self._average, "rollouts": self._rollouts}

    def load_extra_state(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take up the moving average."""
        self._average, self._rollouts = float(values["average"]), int(values["rollouts"])

    def check(self) -> None:
        """Refuse what this learner cannot work with; see `OnPolicyAgent`."""
        super().check()
        alone = (self.config.rollout_episodes or self.env.num_envs) < 2
        if alone and self.config.baseline in ("leave_one_out", "mean"):
            raise ConfigError(
                f'baseline="{self.config.baseline}" compares the episodes of a rollout, and here '
                'there is one; set rollout_episodes=8 or so, or baseline="moving_average"'
            )
