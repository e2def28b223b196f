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
    logprobs = _distributions(policy, input_ids, attention_mask, start, allowed)
    theirs = _reference_distributions(reference, input_ids, attention_mask)
    divergence = (logprobs.exp() * (logprobs - theirs)).sum(-1)
    return _per_token(divergence, attention_mask[:, start:])


@torch.no_grad()
def full_kl_and_entropy(
    policy: CausalLMPolicy,
    reference: Reference,
    input_ids: Tensor,
    attention_mask: Tensor,
    start: int,
) -> tuple[Tensor, Tensor]:
    """Return the KL as `full_kl` does and the policy's entropy, of one pass, without gradient.

    Arguments are those of `full_kl`.

    Returns:
        float32 [B, T] in nats, 0 behind the end; two of them.
    """
    logprobs = _distributions(policy, input_ids, attention_mask, start)
    theirs = _reference_distributions(reference, input_ids, attention_mask)
    probabilities, acted = logprobs.exp(), attention_mask[:, start:]
    divergence = (probabilities * (logprobs - theirs)).sum(-1)
    entropy = -(probabilities * logprobs).sum(-1)
    return _per_token(divergence, acted), _per_token(entropy, acted)


def _distributions(
    policy: CausalLMPolicy,
    input_ids: Tensor,
    attention_mask: Tensor,
    start: int,
    allowed: Tensor | None = None,
) -> Tensor:
    """Return float32 [B, T', V], log pi(. | s_t)."""
    with autocast(policy.use_bfloat16, input_ids.device):
        logits = completion_logits(
            policy.model, input_ids, attention_mask, start, vocab_size=policy.vocab_size
        )
    logits = logits / policy.temperature
    if allowed is not None:
        forbidden = ~unpack_bits(allowed[:, : logits.shape[1]], policy.vocab_size)
        logits = logits.masked_fill(forbidden, MASKED_LOGIT)
    return logits.log_softmax(-1)


def _reference_distributions(
    reference: Reference, input_ids: Tensor, attention_mask: Tensor
) -> Tensor:
    """Return float32 [B, T', V], log pi_ref(. | s_t)."""
    arrays = input_ids.cpu().numpy(), attention_mask.cpu().numpy()
    return torch.from_numpy(reference.completion_distributions(*arrays)).to(input_ids.device)


def _per_token(values: Tensor, acted: Tensor) -> Tensor:
    """Return [B, T] of [B, T'], 0 behind the end."""
    width = values.shape[1]
    return torch.nn.functional.pad(values * acted[:, :width].bool(), (0, acted.shape[1] - width))
