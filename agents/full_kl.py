"""The exact KL between policy and reference before each token: a sum over the vocabulary."""

import torch
from torch import Tensor

from agents.policy import CausalLMPolicy
from textenvs.decoding import autocast, positions
from textenvs.reference import Reference

MASKED_LOGIT = -1e9
"""Of a token that may not be sampled: probability 0 without the NaN of 0 * infinity."""


def full_kl(
    policy: CausalLMPolicy,
    reference: Reference,
    input_ids: Tensor,
    attention_mask: Tensor,
    start: int,
    allowed: Tensor | None = None,
) -> Tensor:
    """Return KL(pi(.|s_t) || pi_ref(.|s_t)) at every state of finished completions.

    Both distributions are held at once, [B, T', V] with T' the longest completion, so this
    wants small batches; the estimates k1 to k3 need none of it.

    Args:
        policy: Its gradient flows where gradients are on.
        reference: Bound to the environment.
        input_ids: int64 [B, P + T].
        attention_mask: [B, P + T].
        start: P.
        allowed: uint8 [B, T, V / 8], packed bits of the tokens the policy could sample.

    Returns:
        float32 [B, T] in nats, 0 behind the end.
    """
    mask = attention_mask.bool()
    width = int(mask[:, start:].sum(1).max())
    first = int(mask.int().argmax(1).min())
    ids, kept = input_ids[:, first : start + width], mask[:, first : start + width]
    with autocast(policy.use_bfloat16, ids.device):
        output = policy.model(
            input_ids=ids,
            attention_mask=kept.long(),
            position_ids=positions(kept),
            use_cache=False,
            logits_to_keep=width + 1,
        )
    logits = output.logits[:, :-1, : policy.vocab_size].float() / policy.temperature
    if allowed is not None:
        shifts = torch.arange(7, -1, -1, device=allowed.device, dtype=torch.uint8)
        bits = (allowed[:, :width, :, None] >> shifts & 1).flatten(2)[..., : policy.vocab_size]
        logits = logits.masked_fill(bits == 0, MASKED_LOGIT)
    logprobs = logits.log_softmax(-1)
    theirs = torch.from_numpy(
        reference.completion_distributions(input_ids.cpu().numpy(), attention_mask.cpu().numpy())
    ).to(ids.device)
    divergence = (logprobs.exp() * (logprobs - theirs)).sum(-1) * kept[:, -width:]
    return torch.nn.functional.pad(divergence, (0, mask.shape[1] - start - width))
