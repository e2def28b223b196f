"""The likelihood of examples under a policy: with gradient for a step, without to measure."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.evaluation import Interval, percentile_interval
from agents.policy import CausalLMPolicy
from agents.supervision.examples import Example
from agents.supervision.rows import laid_out, micro_batches, packed_rows, single_rows
from textenvs.decoding import autocast
from textenvs.teacher_forcing.packing import Packing
from textenvs.teacher_forcing.scoring import score_completions
from textenvs.teacher_forcing.trunk import longest_shareable

MICRO_BATCH_TOKENS = 2048
"""Tokens of a forward pass where nothing else is said."""


class AnswerLogprobs(NamedTuple):
    """What a policy says of the answers of one forward pass.

    Attributes:
        logprobs: float32 [M], of each answer token.
        examples: int64 [M], the index of the example each belongs to.
        columns: Tokens computed, padding included.
    """

    logprobs: Tensor
    examples: Tensor
    columns: int


def answer_logprobs(
    policy: CausalLMPolicy,
    examples: Sequence[Example],
    *,
    packing: bool = False,
    micro_batch_tokens: int = MICRO_BATCH_TOKENS,
    temperature: float | None = None,
) -> Iterator[AnswerLogprobs]:
    """Yield log-probabilities of the answers, one forward pass after another.

    The caller takes the gradient of each before it asks for the next.

    Args:
        policy: The model; dropout is off in it.
        examples: At least one.
        packing: Several examples a row, where the model's attention allows it.
        micro_batch_tokens: Tokens of a forward pass, padding included.
        temperature: Logits are divided by it; None takes the policy's own.
    """
    together = packing and _can_share_rows(policy, examples)
    rows = packed_rows(examples) if together else single_rows(examples)
    divisor = policy.temperature if temperature is None else temperature
    for chosen in micro_batches(examples, rows, micro_batch_tokens):
        batch = laid_out(examples, chosen, policy.device)
        order = torch.tensor([i for row in chosen for i in row], device=policy.device)
        logprobs = _scored(policy, batch, divisor)
        yield AnswerLogprobs(logprobs, order[batch.episodes], batch.input_ids.numel())


def _scored(policy: CausalLMPolicy, batch: Packing, temperature: float) -> Tensor:
    with autocast(policy.use_bfloat16, policy.device):
        return score_completions(
            policy.model,
            policy.logit_head,
            batch,
            vocab_size=policy.vocab_size,
            temperature=temperature,
            with_entropy=False,
        ).logprobs


def _can_share_rows(policy: CausalLMPolicy, examples: Sequence[Example]) -> bool:
    """Return whether attention takes a mask of blocks and reaches over each example."""
    limit = longest_shareable(policy.model)
    return limit is None or max(map(len, examples), default=0) <= limit


class Losses(NamedTuple):
    """The negative log-likelihood of N examples.

    Attributes:
        nats: float64 [N], summed over the answer tokens.
        tokens: int64 [N], answer tokens.
    """

    nats: np.ndarray
    tokens: np.ndarray

    def grouped(self, owners: np.ndarray, count: int) -> "Losses":
        """Return the sums over the examples of each owner.

        Args:
            owners: int64 [N], below `count`.
            count: Owners.
        """
        tokens = np.zeros(count, np.int64)
        np.add.at(tokens, owners, self.tokens)
        return Losses(np.bincount(owners, self.nats, count), tokens)


@torch.no_grad()
def example_losses(
    policy: CausalLMPolicy,
    examples: Sequence[Example],
    *,
    packing: bool = False,
    micro_batch_tokens: int = MICRO_BATCH_TOKENS,
) -> Losses:
    """Return the negative log-likelihood of examples, at temperature 1.

    Args:
        policy: The model.
        examples: At least one.
        packing: As in `answer_logprobs`.
        micro_batch_tokens: Tokens of a forward pass, padding included.
    """
    nats = torch.zeros(len(examples), dtype=torch.float64, device=policy.device)
    for part in answer_logprobs(
        policy, examples, packing=packing, micro_batch_tokens=micro_batch_tokens, temperature=1.0
    ):
        nats.index_add_(0, part.examples, -part.logprobs.double())
    tokens = np.array([len(example.answer) for example in examples], np.int64)
    return Losses(nats.cpu().numpy(), tokens)


def perplexity_of(losses: Losses, *, seed: int = 0) -> Interval:
    """Return exp(nats / tokens) with its 95% percentile-bootstrap interval, seeded.

    What is resampled are the entries of `losses`, whole documents or examples: tokens of
    one text are not independent (a ratio of two means, Efron and Tibshirani, 1993, ch. 10).

    Args:
        losses: Of at least one document; fewer than two give an interval of no width.
        seed: Of the resampling.
    """
    mean = float(_perplexity(losses.nats, losses.tokens))
    if len(losses.tokens) < 2:
        return Interval(mean, mean, mean)
    return percentile_interval(mean, tuple(losses), _perplexity, seed=seed)


def _perplexity(nats: np.ndarray, tokens: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(np.exp(np.sum(nats, axis) / np.sum(tokens, axis)))
