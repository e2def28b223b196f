"""The reference policy: what a trained policy is kept close to."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from textenvs.decoding import CachedDecoder, autocast
from textenvs.errors import ModelError
from textenvs.models import has_fast_bfloat16, shared_causal_lm
from textenvs.row_cache import DecodeState
from textenvs.teacher_forcing.logit_head import find_logit_head
from textenvs.teacher_forcing.micro_batches import micro_batches
from textenvs.teacher_forcing.packing import pack
from textenvs.teacher_forcing.scoring import (
    completion_logits,
    prompt_groups,
    score_completions,
)
from textenvs.teacher_forcing.trunk import hidden_size, longest_shareable

TOKENS_PER_PASS = 4096
"""Tokens of one pass over finished episodes, prompts that are shared counted once."""


@runtime_checkable
class Reference(Protocol):
    """What the KL wrappers ask of a reference policy."""

    def bind(self, num_prompt_columns: int, vocab_size: int) -> None:
        """Learn the shape of the observations; called once."""

    def completion_logprobs(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Return float32 [N, T], the log-probabilities of finished completions."""

    def next_logprobs(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, fresh: np.ndarray
    ) -> np.ndarray:
        """Return float32 [B, V], the log-probabilities of the next token."""

    def completion_distributions(
        self, input_ids: np.ndarray, attention_mask: np.ndarray
    ) -> np.ndarray:
        """Return float32 [N, T, V]: the whole distribution before each token."""


class CausalLMReference:
    """A Hugging Face causal language model as the reference.

    `completion_logprobs` makes one teacher-forced pass over finished episodes;
    `next_logprobs` follows episodes token by token with a cache. Both use the same
    temperature, so that their per-token terms are equal.
    """

    def __init__(
        self,
        model: Any,
        *,
        temperature: float = 1.0,
        bfloat16: bool | None = None,
        frozen: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        """Wrap a model.

        Args:
            model: A causal language model, or a name (loaded once per process).
            temperature: Logits are divided by it, as the policy's are.
            bfloat16: Compute under autocast; None does so where the processor has it.
            frozen: Context entered around every pass; a policy passes its adapter's
                `disable_adapter` here to serve as its own reference.
        """
        self.model = shared_causal_lm(str(model)) if isinstance(model, (str, Path)) else model
        self.temperature, self.frozen = temperature, frozen
        self.device = next(self.model.parameters()).device
        self.bfloat16 = has_fast_bfloat16(self.device) if bfloat16 is None else bfloat16
        self._start = 0
        self._decoder: CachedDecoder | None = None
        self._state: DecodeState | None = None
        self._head = find_logit_head(self.model)

    def bind(self, num_prompt_columns: int, vocab_size: int) -> None:
        """Learn the shape of the observations.

        Raises:
            ModelError: if the model knows fewer tokens than the environment.
        """
        self._start = num_prompt_columns
        self._decoder = CachedDecoder(self.model, vocab_size=vocab_size, bfloat16=self.bfloat16)
        self._state = None

    @property
    def decoder(self) -> CachedDecoder:
        """The bound decoder."""
        if self._decoder is None:
            raise ModelError("the reference is not bound to an environment; call bind() first")
        return self._decoder

    def completion_logprobs(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Return float32 [N, T]: log pi_ref of each completion token, 0 behind the end.

        Args:
            input_ids: int64 [N, P + T], finished episodes.
            attention_mask: [N, P + T].
        """
        ids, mask = self._tensors(input_ids, attention_mask)
        result = torch.zeros(len(ids), ids.shape[1] - self._start, device=ids.device)
        groups = prompt_groups(ids, mask, self._start)
        every = torch.arange(len(ids), device=ids.device)
        for rows in micro_batches(mask, self._start, every, groups, TOKENS_PER_PASS):
            result[rows] = self._logprobs(ids[rows], mask[rows])
        return result.cpu().numpy()

    @torch.no_grad()
    def _logprobs(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Return float32 [n, T] of one micro-batch; a prompt that neighbours share is read once."""
        packing = pack(
            ids,
            mask,
            self._start,
            hidden_size=hidden_size(self.model),
            shareable=longest_shareable(self.model),
        )
        with self.frozen(), autocast(self.bfloat16, ids.device):
            scored = score_completions(
                self.model,
                self._head,
                packing,
                vocab_size=self.decoder.vocab_size,
                temperature=self.temperature,
                with_entropy=False,
            )
        return packing.per_token(scored.logprobs, ids.shape[1] - self._start)

    def completion_distributions(
        self, input_ids: np.ndarray, attention_mask: np.ndarray
    ) -> np.ndarray:
        """Return float32 [N, T', V], T' the longest completion: log pi_ref(. | s_t)."""
        ids, mask = self._tensors(input_ids, attention_mask)
        with torch.no_grad(), self.frozen(), autocast(self.bfloat16, ids.device):
            logits = completion_logits(
                self.model, ids, mask, self._start, vocab_size=self.decoder.vocab_size
            )
        return (logits / self.temperature).log_softmax(-1).cpu().numpy()

    def next_logprobs(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, fresh: np.ndarray
    ) -> np.ndarray:
        """Return float32 [B, V]: log pi_ref of every next token.

        Args:
            input_ids: int64 [B, P + T], the observation before the action.
            attention_mask: [B, P + T].
            fresh: bool [B], rows whose episode has just begun.
        """
        ids, mask = self._tensors(input_ids, attention_mask)
        with self.frozen():
            logits, self._state = self.decoder.next_token(
                ids, mask, self._state, torch.from_numpy(fresh).to(ids.device)
            )
        return (logits / self.temperature).log_softmax(-1).cpu().numpy()

    def _tensors(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> tuple[Tensor, Tensor]:
        ids = torch.from_numpy(np.ascontiguousarray(input_ids)).to(self.device)
        mask = torch.from_numpy(np.ascontiguousarray(attention_mask)).to(self.device)
        return ids, mask.bool()


def as_reference(reference: Any) -> Reference:
    """Return a reference for a model name, a model, or a reference."""
    return reference if isinstance(reference, Reference) else CausalLMReference(reference)
