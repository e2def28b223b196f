"""Log-probabilities of packed completions under a causal language model."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from textenvs.decoding import positions
from textenvs.teacher_forcing.logit_head import LogitHead
from textenvs.teacher_forcing.packing import Packing, shared_prompts
from textenvs.teacher_forcing.token_logprobs import logits_logprobs, token_logprobs
from textenvs.teacher_forcing.trunk import base_model, forward_trunk, trunk_of


class Scored(NamedTuple):
    """What a model says of M completion tokens in N rows of L columns.

    Attributes:
        logprobs: float32 [M], of each token.
        entropy: float32 [M], of the distribution it was drawn from, in nats.
        hidden: float [N * L, H], the last hidden state of every column.
    """

    logprobs: Tensor
    entropy: Tensor
    hidden: Tensor


def score_completions(
    model: Any,
    head: LogitHead | None,
    packing: Packing,
    *,
    vocab_size: int,
    temperature: float = 1.0,
    bits: Tensor | None = None,
    with_entropy: bool = True,
    forward: Any = None,
) -> Scored:
    """Return log-probabilities, entropies and hidden states of packed completions.

    Args:
        model: A causal language model, or a peft model of one.
        head: Of the model, as `find_logit_head` tells it; None makes all logits at once.
        packing: The completions.
        vocab_size: V; logits beyond it are cut off.
        temperature: Logits are divided by it.
        bits: uint8 [M, ceil(V / 8)], the tokens allowed, packed; None allows all.
        with_entropy: Whether the entropy has a gradient.
        forward: Called in place of the trunk, such as a compiled one.
    """
    if head is None or not head.is_plain:
        base = base_model(model)
        output = forward_trunk(base, base, packing, output_hidden_states=True)
        logits = output.logits.flatten(0, 1)[packing.reads, :vocab_size].float() / temperature
        scored = logits_logprobs(logits, packing.tokens, bits=bits, with_entropy=with_entropy)
        return Scored(*scored, output.hidden_states[-1].flatten(0, 1))
    trunk = trunk_of(model)
    output = forward_trunk(trunk, trunk if forward is None else forward, packing)
    hidden = output.last_hidden_state.flatten(0, 1)
    bias = head.linear.bias
    scored = token_logprobs(
        hidden[packing.reads],
        head.linear.weight[:vocab_size],
        None if bias is None else bias[:vocab_size],
        packing.tokens,
        rule=head.at(temperature),
        bits=bits,
        with_entropy=with_entropy,
    )
    return Scored(*scored, hidden)


def completion_logits(
    model: Any, input_ids: Tensor, attention_mask: Tensor, start: int, *, vocab_size: int
) -> Tensor:
    """Return float32 [B, T', V], all the logits of completions, T' the longest of them.

    For what needs whole distributions, in small batches; `score_completions` needs none.

    Args:
        model: A causal language model, or a peft model of one.
        input_ids: int64 [B, P + T], prompt left-padded.
        attention_mask: [B, P + T].
        start: P.
        vocab_size: V; logits beyond it are cut off.
    """
    mask = attention_mask.bool()
    width = int(mask[:, start:].sum(1).max())
    first = int(mask.int().argmax(1).min())
    kept = mask[:, first : start + width]
    output = model(
        input_ids=input_ids[:, first : start + width],
        attention_mask=kept.long(),
        position_ids=positions(kept),
        use_cache=False,
        logits_to_keep=width + 1,
    )
    return output.logits[:, :-1, :vocab_size].float()


def prompt_groups(input_ids: Tensor, attention_mask: Tensor, start: int) -> Tensor:
    """Return int64 [B]: equal numbers for neighbours with the same prompt.

    Args:
        input_ids: int64 [B, P + T].
        attention_mask: [B, P + T].
        start: P.
    """
    alike = shared_prompts(input_ids, attention_mask.bool(), start)
    return torch.nn.functional.pad((~alike).long().cumsum(0), (1, 0))
