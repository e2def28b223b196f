"""Expert iteration: sample several answers, keep the best, imitate them, repeat."""

import dataclasses

import torch
from torch import Tensor

from agents.batch import Batch, BatchSize
from agents.config import OnPolicyConfig
from agents.losses import policy_change, policy_gradient_loss
from agents.on_policy import OnPolicyAgent
from agents.policy import Evaluation
from agents.rollout import Rollout
from agents.validation import count, require
from textenvs.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class ExpertIterationConfig(OnPolicyConfig):
    """Expert iteration (Anthony et al., arXiv:1705.08439) with the best of several samples.

    RAFT (arXiv:2304.06767) keeps the best answer of each prompt, `keep=1`; STaR
    (arXiv:2203.14465) all right ones, `keep=None, threshold=1.0` under a 0/1 reward; ReST
    (arXiv:2308.08998) those above a threshold that its user raises from run to run.

    The settings of `OnPolicyConfig`, and:

    Attributes:
        keep: The most answers of each prompt to imitate; None sets no limit.
        threshold: Imitate only answers whose score is at least this; None sets no bar.
    """

    keep: int | None = 1
    threshold: float | None = None

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        super().__post_init__()
        count(self, "keep")
        require(self, "threshold", "a finite number", lambda value: True)
        if self.keep is None and self.threshold is None:
            raise ConfigError(
                "with keep=None and threshold=None nothing would be selected; keep the best, "
                "keep=1, or set the score that an answer must reach, threshold=..."
            )


class ExpertIteration(OnPolicyAgent):
    """Maximises the likelihood of the best of its own answers; no critic, no ratio.

    The loss is the mean over the tokens of the kept answers of -log pi(a_t|s_t): supervised
    fine-tuning on data that the policy and the reward have made. With one epoch it is the
    policy gradient with the advantages 1, kept, and 0, not.

    An answer that scores no better than the worst of its prompt is never kept, so a prompt
    whose answers all score alike teaches nothing. Those kept are ranked by all they earned,
    any KL in the reward included (RAFT, section 3.2).
    """

    config_class = ExpertIterationConfig
    needs_groups = True
    config: ExpertIterationConfig

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the advantages, 1 at the tokens of kept answers, and the returns."""
        returns = batch.rewards.sum(1)
        kept = best_answers(
            batch.scores,
            returns,
            batch.mask.any(1),
            batch.groups,
            keep=self.config.keep,
            threshold=self.config.threshold,
        )
        return (kept[:, None] & batch.mask).float(), returns[:, None] * batch.mask

    def prepare(self, rollout: Rollout) -> tuple[Batch, dict[str, float]]:
        """Turn a rollout into a batch in which only the kept answers are learned from."""
        batch, metrics = super().prepare(rollout)
        batch = batch._replace(mask=batch.advantages > 0)
        kept = batch.mask.any(1)
        used, every = (batch.groups[rows].unique().numel() for rows in (kept, ...))
        metrics |= {"kept": kept.double().mean().item(), "tied_groups": 1.0 - used / every}
        if kept.any():
            metrics["kept_score"] = batch.scores[kept].mean().item()
        return batch, metrics

    def loss(
        self, part: Batch, now: Evaluation, size: BatchSize
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the negative log-likelihood of the kept answers, in nats a token."""
        loss = policy_gradient_loss(now.logprobs, part.advantages, part.mask, count=size.tokens)
        change = policy_change(now.logprobs, part.logprobs, part.mask, tokens=size.tokens)
        return loss, {"policy_loss": loss.detach(), **change.diagnostics()}


def best_answers(
    scores: Tensor,
    returns: Tensor,
    scored: Tensor,
    groups: Tensor,
    *,
    keep: int | None,
    threshold: float | None,
) -> Tensor:
    """Say which answers to imitate.

    Args:
        scores: float [N], by which an answer must reach the threshold and beat the worst
            scored answer of its group.
        returns: float [N], by which those that do are ranked; of equals, the earlier first.
        scored: bool [N]; the others are never kept.
        groups: int64 [N], the prompt of each; groups are contiguous and of one size.
        keep: The most answers kept of each group; None sets no limit.
        threshold: None sets no bar.

    Returns:
        bool [N].
    """
    grouped = scores.view(groups.unique().numel(), -1)
    known = scored.view_as(grouped)
    worst = grouped.masked_fill(~known, torch.inf).amin(1, keepdim=True)
    kept = known & (grouped > worst)
    if threshold is not None:
        kept &= grouped >= threshold
    if keep is not None:
        ranked = returns.view_as(grouped).masked_fill(~kept, -torch.inf)
        order = ranked.sort(dim=1, descending=True, stable=True).indices
        kept &= order.argsort(1) < keep
    return kept.flatten()
