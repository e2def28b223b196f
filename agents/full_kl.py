"""The exact KL between policy and reference before each token: a sum over the vocabulary."""

import torch
from torch import Tensor

from agents.policy import CausalLMPolicy
from textenvs.decoding import autocast
from textenvs.reference import Reference
from textenvs.teacher_forcing.scoring import completion_logits
from textenvs.teacher_forcing.token_logprobs import unpack_bits

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
    acted = attention_mask[:, start:].bool()
    with autocast(policy.use_bfloat16, input_ids.device):
        logits = completion_logits(
            policy.model, input_ids, attention_mask, start, vocab_size=policy.vocab_size
        )
    logits = logits / policy.temperature
    width = logits.shape[1]
    if allowed is not None:
        forbidden = ~unpack_bits(allowed[:, :width], policy.vocab_size)
        logits = logits.masked_fill(forbidden, MASKED_LOGIT)
    logprobs = logits.log_softmax(-1)
    theirs = torch.from_numpy(
        reference.completion_distributions(input_ids.cpu().numpy(), attention_mask.cpu().numpy())
    ).to(logits.device)
    divergence = (logprobs.exp() * (logprobs - theirs)).sum(-1) * acted[:, :width]
    return torch.nn.functional.pad(divergence, (0, acted.shape[1] - width))
