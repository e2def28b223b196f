"""The tokens that an older copy of a policy finds likely, as a mask for sampling."""

from collections.abc import Mapping

import torch
from torch import Tensor

from agents.modeling.frozen_copy import frozen_copy
from agents.policy import CausalLMPolicy
from textenvs.decoding import CachedDecoder
from textenvs.row_cache import DecodeState


class NucleusMask:
    """The nucleus of an older copy of a policy, token by token, with a cache of its own."""

    def __init__(self, policy: CausalLMPolicy, top_p: float, min_tokens: int = 1) -> None:
        """Copy the policy's model as it is.

        Args:
            policy: What is copied, now and at each `refresh`.
            top_p: Probability that the nucleus holds, in (0, 1].
            min_tokens: The nucleus holds at least so many tokens.
        """
        self.policy, self.top_p, self.min_tokens = policy, top_p, min_tokens
        self.model = frozen_copy(policy.model)

    def refresh(self) -> None:
        """Become the policy as it is now."""
        self.load_state_dict(dict(self.policy.model.named_parameters()))

    @torch.no_grad()
    def next_allowed(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        state: DecodeState | None,
        fresh: Tensor,
    ) -> tuple[Tensor, DecodeState]:
        """Say which tokens may come next; see `agents.rollout.PolicyMask`."""
        decoder = CachedDecoder(
            self.model, vocab_size=self.policy.vocab_size, bfloat16=self.policy.use_bfloat16
        )
        logits, state = decoder.next_token(input_ids, attention_mask, state, fresh)
        probabilities = (logits / self.policy.temperature).softmax(-1)
        return nucleus(probabilities, self.top_p, self.min_tokens), state

    def state_dict(self) -> dict[str, Tensor]:
        """Return copies of the weights that the policy trains; the others are its own."""
        return {name: weight.clone() for name, weight in self._trained().items()}

    @torch.no_grad()
    def load_state_dict(self, tensors: Mapping[str, Tensor]) -> None:
        """Take up what `state_dict` gave."""
        for name, weight in self._trained().items():
            weight.copy_(tensors[name])

    def _trained(self) -> dict[str, Tensor]:
        names = {k for k, p in self.policy.model.named_parameters() if p.requires_grad}
        return {k: p for k, p in self.model.named_parameters() if k in names}


def nucleus(probabilities: Tensor, top_p: float, min_tokens: int = 1) -> Tensor:
    """Return the smallest set of tokens that holds probability p (arXiv:1904.09751, eq. 2).

    Args:
        probabilities: float [B, V], each row summing to 1.
        top_p: In (0, 1]; 1 allows every token, also those of probability 0.
        min_tokens: The likeliest so many are in the set.

    Returns:
        bool [B, V], the likeliest token always True; of equals, lower ids first.
    """
    if top_p >= 1:
        return torch.ones_like(probabilities, dtype=torch.bool)
    ordered, tokens = probabilities.sort(dim=-1, descending=True, stable=True)
    inside = ordered.cumsum(-1) - ordered < top_p
    inside[:, :min_tokens] = True
    return torch.zeros_like(inside).scatter(-1, tokens, inside)
