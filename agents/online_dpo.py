"""Online DPO: learn from which of the policy's own answers the reward prefers."""

import dataclasses

import torch
from torch import Tensor

from agents.batch import Batch, BatchSize
from agents.config import OnPolicyConfig, PreferenceLossType, preference_loss
from agents.losses import dpo_loss, policy_change
from agents.on_policy import OnPolicyAgent
from agents.policy import Evaluation
from agents.rollout import Rollout
from textenvs.errors import ConfigError, DoubleCountingError


@dataclasses.dataclass(frozen=True)
class OnlineDPOConfig(OnPolicyConfig):
    """DPO (Rafailov et al., arXiv:2305.18290) on answers of the policy as it is.

    The settings of `OnPolicyConfig`, and:

    Attributes:
        beta: Strength of the pull to the reference, in place of the environment's
            `kl_coef`, which this learner does not charge.
        loss_type: "sigmoid" (DPO) or "ipo" (arXiv:2310.12036), whose target is a margin of
            1 / (2 beta) nats rather than ever more.
        label_smoothing: Share of preferences taken to be the wrong way round (cDPO); 0
            believes them all. For "sigmoid" alone.
    """

    beta: float = 0.1
    loss_type: PreferenceLossType = "sigmoid"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        super().__post_init__()
        preference_loss(self)
        if self.kl_in == "loss":
            raise DoubleCountingError(
                'kl_in="loss" would charge the KL a second time, since beta holds the policy to '
                'the reference already; leave kl_in="reward", which this learner does not look at'
            )


class OnlineDPO(OnPolicyAgent):
    """DPO with the reward as the annotator (Guo et al., arXiv:2402.04792, algorithm 1).

    Of the answers to a prompt, the best y+ and the worst y- by score make a pair; a prompt
    whose answers all score alike makes none. With h = log pi(y+) / pi_ref(y+) -
    log pi(y-) / pi_ref(y-), sums over tokens, the loss is the mean over pairs of
    -log sigmoid(beta * h). The score is the task's, without any KL: beta alone holds the
    policy to the reference, which the environment supplies.
    """

    config_class = OnlineDPOConfig
    needs_groups = True
    config: OnlineDPOConfig

    def targets(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return 1 at the tokens of preferred answers, -1 at those of rejected; and scores."""
        signs = best_and_worst(batch.scores, batch.mask.any(1), batch.groups)
        return signs[:, None] * batch.mask, batch.scores[:, None] * batch.mask

    def prepare(self, rollout: Rollout) -> tuple[Batch, dict[str, float]]:
        """Turn a rollout into a batch of pairs; all other answers are left out."""
        batch, metrics = super().prepare(rollout)
        pairs = (batch.advantages > 0).any(1).sum().item()
        metrics["tied_groups"] = 1.0 - pairs / batch.groups.unique().numel()
        return batch._replace(mask=batch.advantages != 0), metrics

    def loss(
        self, part: Batch, now: Evaluation, size: BatchSize
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss of the pairs; both answers of a pair are in one micro-batch."""
        assert part.reference_logprobs is not None
        signs = part.advantages.sum(1)
        chosen, rejected = (rows[part.groups[rows].argsort()] for rows in _both(signs))
        assert torch.equal(part.groups[chosen], part.groups[rejected])
        logprobs = (now.logprobs * part.mask).sum(1)
        references = (part.reference_logprobs * part.mask).sum(1)
        losses, margins = dpo_loss(
            logprobs[chosen],
            logprobs[rejected],
            references[chosen],
            references[rejected],
            beta=self.config.beta,
            loss_type=self.config.loss_type,
            label_smoothing=self.config.label_smoothing,
        )
        pairs = size.episodes / 2
        change = policy_change(now.logprobs, part.logprobs, part.mask, tokens=size.tokens)
        return losses.sum() / pairs, {
            "policy_loss": losses.detach().sum() / pairs,
            "preference_accuracy": (margins > 0).sum() / pairs,
            "preference_margin": margins.sum() / pairs,
            **change.diagnostics(),
        }

    def check(self) -> None:
        """Refuse what this learner cannot work with; see `OnPolicyAgent`."""
        super().check()
        if self.shaping is None:
            raise ConfigError(
                "OnlineDPO needs the reference's log-probabilities; make the environment with "
                "reference=... and kl_coef=..., or wrap it in "
                "VectorReferenceKL(venv, policy.reference(), 0.1)"
            )


def best_and_worst(scores: Tensor, scored: Tensor, groups: Tensor) -> Tensor:
    """Return float [N]: 1 for the best answer of each group, -1 for the worst, 0 elsewhere.

    Args:
        scores: float [N].
        scored: bool [N]; the others are never taken.
        groups: int64 [N], the prompt of each; groups are contiguous and of one size. One whose
            scored answers all score alike gives 0 throughout. Of equals, the earlier is taken.
    """
    grouped = scores.view(groups.unique().numel(), -1)
    known = scored.view_as(grouped)
    highest, best = grouped.masked_fill(~known, -torch.inf).max(1, keepdim=True)
    lowest, worst = grouped.masked_fill(~known, torch.inf).min(1, keepdim=True)
    signs = torch.zeros_like(grouped).scatter(1, best, 1.0).scatter(1, worst, -1.0)
    return (signs * (highest > lowest)).flatten()


def _both(signs: Tensor) -> tuple[Tensor, Tensor]:
    """Return the rows with a positive and those with a negative sign."""
    return (signs > 0).nonzero()[:, 0], (signs < 0).nonzero()[:, 0]
