"""Supervised fine-tuning: cross-entropy of right answers, prompts left out of the loss."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from agents.config import SFTConfig
from agents.losses import answer_loss
from agents.policy import CausalLMPolicy

Log = Callable[[Mapping[str, Any]], None]


def sft(
    policy: CausalLMPolicy,
    env: Any,
    config: SFTConfig | None = None,
    *,
    seed: int = 0,
    log: Log | None = None,
) -> CausalLMPolicy:
    """Train a policy on the oracle's answers to an environment's prompts.

    Args:
        policy: Trained in place.
        env: A text environment, single or vector; its prompts and oracle are used.
        config: Settings.
        seed: Chooses the prompts.
        log: Called after each step with `step`, `loss` (nats an answer token),
            `learning_rate`, `seconds`.

    Returns:
        The policy.

    Raises:
        ConfigError: if the environment knows no right answer.
    """
    config = config or SFTConfig()
    batch = env.unwrapped.batch
    policy.check_vocabulary(batch.tokenizer.vocab_size)
    generator = np.random.default_rng(seed)
    parameters = [p for p in policy.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, config.learning_rate, weight_decay=config.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda s: _ramp(s, config))
    for step in range(config.steps):
        began = time.perf_counter()
        indices = generator.integers(len(batch.prompts), size=config.batch_size)
        ids, mask, start = answer_rows(batch, indices)
        evaluation = policy.evaluate(
            torch.from_numpy(ids).to(policy.device),
            torch.from_numpy(mask).to(policy.device),
            start,
            with_values=False,
            with_entropy=False,
        )
        acted = torch.from_numpy(mask[:, start:]).to(policy.device).bool()
        loss = answer_loss(evaluation.logprobs, acted)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
        optimizer.step()
        rate = schedule.get_last_lr()[0]
        schedule.step()
        if log is not None:
            seconds = time.perf_counter() - began
            values = {"step": step + 1, "loss": loss.item(), "learning_rate": rate}
            log({**values, "seconds": seconds})
    return policy


def answer_rows(batch: Any, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return observations in which the oracle has answered.

    Args:
        batch: The environment's `EpisodeBatch`.
        indices: int [B], prompts.

    Returns:
        int64 [B, P + T] tokens, int8 [B, P + T] mask, and P. An answer longer than the
        budget is cut there and then has no EOS, as when it is acted.
    """
    tokenizer, start = batch.tokenizer, batch.num_prompt_columns
    shape = (len(indices), start + batch.max_new_tokens)
    ids = np.full(shape, tokenizer.pad_id, np.int64)
    mask = np.zeros(shape, np.int8)
    for row, index in enumerate(indices):
        prompt, prompt_ids, _ = batch.encoded(int(index))
        answer = batch.oracle_ids(prompt)[: batch.max_new_tokens]
        first = start - len(prompt_ids)
        ids[row, first:start], mask[row, first:start] = prompt_ids, 1
        ids[row, start : start + len(answer)], mask[row, start : start + len(answer)] = answer, 1
    return ids, mask, start


def _ramp(step: int, config: SFTConfig) -> float:
    """Return the share of the learning rate: linear up over the warm-up, then down to 0."""
    warmup = config.warmup * config.steps
    if step < warmup:
        return (step + 1) / (warmup + 1)
    return (config.steps - step) / max(1.0, config.steps - warmup)
