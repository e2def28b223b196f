"""Choosing a token from logits: one temperature, one mask, one place."""

import torch
from torch import Tensor


def choose_tokens(
    logits: Tensor,
    *,
    temperature: float = 1.0,
    generator: torch.Generator | None = None,
    deterministic: bool = False,
    allowed: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Draw one token a row from softmax(logits / temperature), within a mask.

    Args:
        logits: float32 [B, V]; overwritten.
        temperature: Above 0.
        generator: Where chance comes from; None takes torch's own.
        deterministic: Take the likeliest token instead.
        allowed: bool [B, V], at least one True a row; None allows every token.

    Returns:
        The tokens, int64 [B], and their log-probabilities among the allowed, float32 [B].
    """
    if temperature != 1.0:
        logits.div_(temperature)
    if allowed is not None:
        logits.masked_fill_(~allowed, -torch.inf)
    top = logits.amax(-1, keepdim=True)
    cumulative = (logits - top).exp_().cumsum(-1, dtype=torch.float64)
    total = cumulative[:, -1:]
    if deterministic:
        tokens = logits.argmax(-1, keepdim=True)
    else:
        # One number a row, where torch.multinomial draws one a token of the vocabulary. The
        # first entry above it has probability; the last entry is not above a draw of 1.
        draw = total * torch.rand(
            total.shape, generator=generator, dtype=total.dtype, device=total.device
        )
        below = torch.nextafter(total, torch.zeros_like(total))
        tokens = torch.searchsorted(cumulative, torch.minimum(draw, below), right=True)
    logprobs = logits.gather(-1, tokens) - top - total.log().float()
    return tokens[:, 0], logprobs[:, 0]
