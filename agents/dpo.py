"""Direct preference optimisation on ranked answers: no reward model, no sampling."""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from agents.config import PreferenceLossType, SupervisedConfig, preference_loss
from agents.evaluation import Interval, bootstrap_mean
from agents.losses import dpo_loss, policy_change
from agents.policy import CausalLMPolicy
from agents.preference_pairs import PairSet, encode_pairs, fixed_logprobs, token_logprobs
from agents.preferences import Ranking
from agents.supervision.descent import learning_rate_share
from agents.supervision.epochs import EpochSampler

Log = Callable[[Mapping[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class DPOConfig(SupervisedConfig):
    """Direct preference optimisation (Rafailov et al., arXiv:2305.18290).

    The settings of `SupervisedConfig`, where an example is a pair, and:

    Attributes:
        batch_size: Pairs a step; they are drawn pass by pass, none twice in one.
        learning_rate: AdamW's step size; a tenth of SFT's or less, since the loss is of whole
            answers.
        weight_decay: AdamW's decay; none, because the pull is to the reference, not to 0.
        beta: Strength of the pull to the policy as it was before training.
        loss_type: "sigmoid" (DPO) or "ipo" (arXiv:2310.12036), whose target is a margin of
            1 / (2 beta) nats rather than ever more.
        label_smoothing: Share of preferences taken to be the wrong way round (cDPO); 0
            believes them all. For "sigmoid" alone.
    """

    batch_size: int = 16
    learning_rate: float = 5e-5
    weight_decay: float = 0.0
    beta: float = 0.1
    loss_type: PreferenceLossType = "sigmoid"
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        super().__post_init__()
        preference_loss(self)


def dpo(
    policy: CausalLMPolicy,
    rankings: Sequence[Ranking] | PairSet,
    config: DPOConfig | None = None,
    *,
    env_or_tokenizer: Any = None,
    seed: int = 0,
    log: Log | None = None,
) -> CausalLMPolicy:
    """Train a policy to prefer the better answer of each pair, near to what it was.

    The reference is the policy itself before the first step: its log-probabilities are
    computed once, so no second model is held.

    Args:
        policy: Trained in place: all weights, adapters, or top layers.
        rankings: All their pairs are learned from; or pairs of `encode_pairs`.
        config: Settings.
        env_or_tokenizer: Says how texts become tokens: the environment whose prompts were
            answered, or a tokenizer; None takes the policy's own.
        seed: Orders the pairs.
        log: Called after each step with `step`, `epoch` (passes over the pairs), `loss`,
            `accuracy` (share of pairs whose better answer has the larger implicit reward
            beta * log(pi / pi_ref)), `margin` (by how much, on average), `chosen_logprob` and
            `rejected_logprob` (nats an answer; both may fall, since only their difference is
            trained), `approx_kl` (mean over tokens of r - 1 - log r with r = pi / pi_ref: the
            KL(pi_ref || pi) if the answers were the reference's), `learning_rate`, `seconds`.

    Returns:
        The policy.

    Raises:
        ConfigError: if no pair is left, or the policy has no tokenizer and none is given.
    """
    config = config or DPOConfig()
    if isinstance(rankings, PairSet):
        pairs = rankings
    else:
        pairs = encode_pairs(policy, rankings, env_or_tokenizer)
    reference = fixed_logprobs(policy, pairs, micro_batch_tokens=config.micro_batch_tokens)
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_share(step, config)
    )
    sampler = EpochSampler(len(pairs), seed=seed)
    for step in range(config.steps):
        began = time.perf_counter()
        chosen = [pairs.pairs[i] for i in sampler.draw(config.batch_size)]
        optimizer.zero_grad()
        metrics = _accumulate(policy, pairs, chosen, reference, config)
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        rate = schedule.get_last_lr()[0]
        schedule.step()
        if log is not None:
            epoch = (step + 1) * config.batch_size / len(pairs)
            values = {name: value.item() for name, value in metrics.items()}
            seconds = time.perf_counter() - began
            told = {"step": step + 1, "epoch": epoch, **values, "learning_rate": rate}
            log({**told, "seconds": seconds})
    return policy


def _accumulate(
    policy: CausalLMPolicy,
    pairs: PairSet,
    chosen: Sequence[tuple[int, int]],
    reference: Tensor,
    config: DPOConfig,
) -> dict[str, Tensor]:
    """Add up the gradient of the mean loss of some pairs; return what is logged of them.

    Args:
        policy: The model.
        pairs: All pairs.
        chosen: Those of this step, B of them.
        reference: float32 [A, T], of all answers.
        config: Settings.
    """
    indices = torch.tensor(chosen, device=policy.device).flatten()
    answers = [pairs.answers[i] for pair in chosen for i in pair]
    groups = [number for number in range(len(chosen)) for _ in range(2)]
    tokens = sum(len(example.answer) for example in answers)
    sums: dict[str, Tensor] = {}
    for rows, logprobs in token_logprobs(
        policy, answers, groups, micro_batch_tokens=config.micro_batch_tokens
    ):
        references = reference[indices[rows], : logprobs.shape[1]]
        # The two answers of a pair are neighbours, the better one first.
        better, worse = logprobs.sum(1).view(-1, 2).unbind(1)
        losses, margins = dpo_loss(
            better,
            worse,
            *references.sum(1).view(-1, 2).unbind(1),
            beta=config.beta,
            loss_type=config.loss_type,
            label_smoothing=config.label_smoothing,
        )
        loss = losses.sum() / len(chosen)
        loss.backward()
        lengths = torch.tensor([len(answers[i].answer) for i in rows.tolist()])
        mask = torch.arange(logprobs.shape[1]) < lengths[:, None]
        change = policy_change(logprobs.detach(), references, mask.to(policy.device), tokens=tokens)
        part = {
            "loss": loss.detach(),
            "accuracy": (margins > 0).sum() / len(chosen),
            "margin": margins.sum() / len(chosen),
            "chosen_logprob": better.detach().sum() / len(chosen),
            "rejected_logprob": worse.detach().sum() / len(chosen),
            "approx_kl": change.approx_kl,
        }
        sums = {name: sums.get(name, 0.0) + value for name, value in part.items()}
    return sums


def preference_metrics(
    pairs: PairSet, before: Tensor, after: Tensor, *, beta: float, seed: int = 0
) -> dict[str, Interval]:
    """Return what a trained policy makes of pairs, averaged by prompt, with 95% intervals.

    Args:
        pairs: With A answers.
        before: float32 [A, T], `fixed_logprobs` of the policy before training.
        after: The same of the policy now.
        beta: As in `DPOConfig`.
        seed: Of the bootstrap.

    Returns:
        `preference_accuracy`, the share of pairs whose better answer has the larger implicit
        reward, a tie counting half; `preference_margin`, by how much; `chosen_gain`, nats by
        which the better answer has become likelier.
    """
    gains = (after.double() - before.double()).sum(1).cpu().numpy()
    better, worse = np.array(pairs.pairs).T
    margins = beta * (gains[better] - gains[worse])
    values = {
        "preference_accuracy": np.where(margins == 0, 0.5, margins > 0),
        "preference_margin": margins,
        "chosen_gain": gains[better],
    }
    _, prompts = np.unique(np.array(pairs.prompts)[better], return_inverse=True)
    counts = np.bincount(prompts)
    return {
        name: bootstrap_mean(np.bincount(prompts, value) / counts, seed=seed)
        for name, value in values.items()
    }
