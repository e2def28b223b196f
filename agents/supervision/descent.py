"""Gradient descent on the likelihood of examples: AdamW, warm-up, decay, a gradient clip."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from agents.config import SupervisedConfig
from agents.policy import CausalLMPolicy
from agents.supervision.examples import Example
from agents.supervision.likelihood import answer_logprobs

Log = Callable[[Mapping[str, Any]], None]


def maximise_likelihood(
    policy: CausalLMPolicy,
    draw: Callable[[int], Sequence[Example]],
    config: SupervisedConfig,
    *,
    packing: bool = False,
    log: Log | None = None,
) -> None:
    """Train a policy in place on the answers of examples.

    The loss of a step is the mean over all answer tokens of its batch, however it is cut
    into forward passes.

    Args:
        policy: What of it may be trained is trained: all weights, adapters, top layers.
        draw: Returns the examples of a step.
        config: Settings.
        packing: Several examples a row; the same loss for less padding.
        log: Called after each step with `step`, `loss` (nats an answer token),
            `learning_rate`, `answer_tokens`, `padding` (share of the tokens computed),
            `seconds`.
    """
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: learning_rate_share(step, config)
    )
    for step in range(config.steps):
        began = time.perf_counter()
        examples = draw(config.batch_size)
        count = sum(len(example.answer) for example in examples)
        optimizer.zero_grad()
        loss, columns = torch.zeros((), device=policy.device), 0
        passes = answer_logprobs(
            policy, examples, packing=packing, micro_batch_tokens=config.micro_batch_tokens
        )
        for part in passes:
            share = -part.logprobs.sum() / count
            share.backward()
            loss += share.detach()
            columns += part.columns
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        rate = schedule.get_last_lr()[0]
        schedule.step()
        if log is not None:
            values = {
                "step": step + 1,
                "loss": loss.item(),
                "learning_rate": rate,
                "answer_tokens": count,
                "padding": 1.0 - sum(map(len, examples)) / columns,
            }
            log({**values, "seconds": time.perf_counter() - began})


def learning_rate_share(step: int, config: SupervisedConfig) -> float:
    """Return the share of the learning rate: linear up over the warm-up, then down to 0.

    Args:
        step: From 0; at `config.steps` the share is 0.
        config: Says how it falls: along a line, or along half a cosine (Loshchilov and
            Hutter, arXiv:1608.03983, eq. 5).
    """
    warmup = config.warmup * config.steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    left = (config.steps - step) / max(1.0, config.steps - warmup)
    return left if config.schedule == "linear" else 0.5 * (1.0 - math.cos(math.pi * left))
