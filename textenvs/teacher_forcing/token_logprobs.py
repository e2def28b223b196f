"""Log-probabilities of tokens from hidden states, without ever holding all the logits.

Logits of M tokens over a vocabulary V are the largest tensor of a language model's
training step. Here they are made for a few tokens at a time, and made once more in the
backward pass, so that memory does not grow with M * V. The gradients are written out:
with x the logits, p = softmax(x), a the token and H the entropy,

    d log p_a / dx_j = [j = a] - p_j
    d H / dx_j = -p_j (log p_j + H)
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

LOGITS_PER_CHUNK = 2**20
"""Logits made at a time: 4 MiB in float32, which stays in a processor's cache."""


@dataclass(frozen=True)
class LogitRule:
    """How logits x are made of z, the output of the linear head.

    x = scale * z / temperature, or with a cap
    x = cap * tanh(scale * z / cap) / temperature (Gemma 2, arXiv:2408.00118, section 2).
    """

    temperature: float = 1.0
    scale: float = 1.0
    cap: float | None = None


class TokenLogprobs(torch.autograd.Function):
    """log p and the entropy of each token's distribution, in chunks, recomputed backward."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tokens: Tensor,
        bits: Tensor | None,
        rule: LogitRule,
        with_entropy: bool,
        dtype: torch.dtype,
    ) -> tuple[Tensor, Tensor]:
        """Return float32 [M] log-probabilities and float32 [M] entropies."""
        cast = weight.to(dtype), None if bias is None else bias.to(dtype)
        logprobs, entropy, normaliser = hidden.new_empty(3, len(hidden), dtype=torch.float32)
        for part in _chunks(len(hidden), len(weight)):
            logits, allowed, _ = _logits(hidden[part].to(dtype), *cast, bits, part, rule)
            normaliser[part] = logits.logsumexp(-1)
            log_p = logits.sub_(normaliser[part, None])
            logprobs[part] = log_p.gather(-1, tokens[part, None])[:, 0]
            p = log_p.exp()
            if allowed is not None:
                log_p.masked_fill_(~allowed, 0.0)  # p is 0 there, and 0 * -inf would be NaN
            entropy[part] = -torch.linalg.vecdot(p, log_p)
        ctx.save_for_backward(hidden, weight, bias, tokens, bits, normaliser, entropy)
        ctx.rule, ctx.dtype = rule, dtype
        if not with_entropy:
            ctx.mark_non_differentiable(entropy)
        ctx.with_entropy = with_entropy
        return logprobs, entropy

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad_logprobs: Tensor, grad_entropy: Tensor) -> tuple[Any, ...]:
        """Return the gradients of the hidden states, the weight and the bias."""
        hidden, weight, bias, tokens, bits, normaliser, entropy = ctx.saved_tensors
        rule, dtype = ctx.rule, ctx.dtype
        cast = weight.to(dtype), None if bias is None else bias.to(dtype)
        needs_hidden, needs_weight, needs_bias = ctx.needs_input_grad[:3]
        grad_hidden = torch.empty_like(hidden) if needs_hidden else None
        grad_weight = torch.zeros_like(weight, dtype=torch.float32) if needs_weight else None
        grad_bias = torch.zeros_like(bias, dtype=torch.float32) if needs_bias else None
        for part in _chunks(len(hidden), len(weight)):
            states = hidden[part].to(dtype)
            logits, allowed, slope = _logits(states, *cast, bits, part, rule)
            logits -= normaliser[part, None]
            gradient = _logits_gradient(
                logits,
                allowed,
                tokens[part],
                grad_logprobs[part],
                grad_entropy[part] if ctx.with_entropy else None,
                entropy[part],
            )
            if slope is not None:
                gradient *= slope
            gradient *= rule.scale / rule.temperature
            lowered = gradient.to(dtype)
            if grad_hidden is not None:
                grad_hidden[part] = lowered @ cast[0]
            if grad_weight is not None:
                _add_product(grad_weight, lowered, states)
            if grad_bias is not None:
                grad_bias += gradient.sum(0)
        grads = [
            None if grad is None else grad.to(of.dtype)
            for grad, of in ((grad_hidden, hidden), (grad_weight, weight), (grad_bias, bias))
        ]
        return (*grads, None, None, None, None, None)


def token_logprobs(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tokens: Tensor,
    *,
    rule: LogitRule | None = None,
    bits: Tensor | None = None,
    with_entropy: bool = True,
) -> tuple[Tensor, Tensor]:
    """Return log p of tokens and the entropy, in nats, of what each was drawn from.

    Args:
        hidden: float [M, H], the states that predict the tokens.
        weight: float [V, H], of the language-model head.
        bias: float [V] or None.
        tokens: int64 [M].
        rule: What is done to the head's output.
        bits: uint8 [M, ceil(V / 8)], the tokens allowed (np.packbits); the others have
            probability 0. None allows all.
        with_entropy: Whether the entropy has a gradient.

    Returns:
        float32 [M] and float32 [M].
    """
    device = hidden.device.type
    active = torch.is_autocast_enabled(device)
    dtype = torch.get_autocast_dtype(device) if active else weight.dtype
    return TokenLogprobs.apply(
        hidden, weight, bias, tokens, bits, rule or LogitRule(), with_entropy, dtype
    )


def logits_logprobs(
    logits: Tensor, tokens: Tensor, *, bits: Tensor | None = None, with_entropy: bool = True
) -> tuple[Tensor, Tensor]:
    """Return the same from float32 [M, V] logits that are held already, plainly."""
    if bits is not None:
        allowed = unpack_bits(bits, logits.shape[-1])
        logits = logits.masked_fill(~allowed, -torch.inf)
    normaliser = logits.logsumexp(-1)
    logprobs = logits.gather(-1, tokens[:, None])[:, 0] - normaliser
    with torch.set_grad_enabled(with_entropy and torch.is_grad_enabled()):
        surprise = normaliser[:, None] - logits
        if bits is not None:
            surprise = surprise.masked_fill(~allowed, 0.0)
        entropy = ((logits - normaliser[:, None]).exp() * surprise).sum(-1)
    return logprobs, entropy


def unpack_bits(bits: Tensor, count: int) -> Tensor:
    """Return bool [..., count] from uint8 [..., ceil(count / 8)] as np.packbits writes it."""
    shifts = torch.arange(7, -1, -1, dtype=torch.uint8, device=bits.device)
    return ((bits[..., None] >> shifts) & 1).bool().flatten(-2)[..., :count]


def _chunks(tokens: int, vocabulary: int) -> list[slice]:
    size = max(1, LOGITS_PER_CHUNK // vocabulary)
    return [slice(at, min(at + size, tokens)) for at in range(0, tokens, size)]


def _logits(
    states: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    bits: Tensor | None,
    part: slice,
    rule: LogitRule,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """Return float32 logits, which are allowed, and the slope of the cap."""
    logits = torch.nn.functional.linear(states, weight, bias).float()
    slope = None
    if rule.cap is not None:
        logits.mul_(rule.scale / rule.cap).tanh_()
        slope = 1.0 - logits**2
        logits *= rule.cap / rule.temperature
    elif rule.scale != rule.temperature:
        logits *= rule.scale / rule.temperature
    allowed = None
    if bits is not None:
        allowed = unpack_bits(bits[part], logits.shape[-1])
        logits.masked_fill_(~allowed, -torch.inf)
    return logits, allowed, slope


def _logits_gradient(
    log_p: Tensor,
    allowed: Tensor | None,
    tokens: Tensor,
    grad_logprobs: Tensor,
    grad_entropy: Tensor | None,
    entropy: Tensor,
) -> Tensor:
    """Return the gradient of the logits, float32 [m, V]; `log_p` is used up."""
    if grad_entropy is None:
        gradient = log_p.exp_().mul_(-grad_logprobs[:, None])
    else:
        p = log_p.exp()
        if allowed is not None:
            log_p.masked_fill_(~allowed, 0.0)  # p is 0 there, and 0 * -inf would be NaN
        log_p += entropy[:, None]
        gradient = log_p.mul_(-grad_entropy[:, None]).sub_(grad_logprobs[:, None]).mul_(p)
    gradient.scatter_add_(-1, tokens[:, None], grad_logprobs[:, None])
    return gradient


def _add_product(total: Tensor, gradient: Tensor, states: Tensor) -> None:
    """Add gradient^T states, [V, H], to a float32 total."""
    if gradient.dtype == total.dtype:
        total.addmm_(gradient.T, states)
    else:
        total += gradient.T @ states
