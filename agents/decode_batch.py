"""The rows that the policy decodes together, apart from the rows of the environment.

A seat is a row of the decode batch and of its cache. A row whose episode has ended leaves
its seat; a fresh one takes the first empty seat, or a new one. When too many seats are
empty, the cache is compacted: on a CPU, time is nearly proportional to the seats.
"""

from typing import Any, NamedTuple, Protocol, Self

import numpy as np
import torch
from torch import Tensor

from agents.policy import CausalLMPolicy
from textenvs.episode_batch import Observation
from textenvs.row_cache import DecodeState

COMPACT_BELOW = 0.75
"""The cache is compacted when fewer of its seats than this are taken."""


class MaskState(Protocol):
    """What a `PolicyMask` remembers of the rows of the decode batch."""

    def select(self, rows: Tensor) -> Self:
        """Return the state of some rows, int64 [B'], in the order given.

        A row of -1 asks for an empty one, whose first tokens come as fresh.
        """


class PolicyMask(Protocol):
    """A mask of the policy's own, as in NLPO: which tokens it may sample next."""

    def next_allowed(
        self, input_ids: Tensor, attention_mask: Tensor, state: Any, fresh: Tensor
    ) -> tuple[Tensor, Any]:
        """Say which tokens may come next.

        Args:
            input_ids: int64 [B, P + T], the observation.
            attention_mask: int8 [B, P + T].
            state: A `MaskState`: what the call before returned; None at first.
            fresh: bool [B], rows whose episode has just begun; every other row has grown by
                one token, or is a row whose answer is not used.

        Returns:
            bool [B, V] with at least one True a row, and the state.
        """


class Sampled(NamedTuple):
    """The next tokens of the rows that play.

    Attributes:
        rows: int64 [A], rows of the environment.
        tokens: int64 [A].
        logprobs: float32 [A], among the allowed tokens.
        allowed: bool [A, V]; None where nothing was masked.
    """

    rows: np.ndarray
    tokens: np.ndarray
    logprobs: np.ndarray
    allowed: np.ndarray | None


class DecodeBatch:
    """Samples the next token of the environment's rows that play."""

    def __init__(
        self,
        policy: CausalLMPolicy,
        generator: torch.Generator,
        token_mask: PolicyMask | None = None,
    ) -> None:
        """Begin with no seat.

        Args:
            policy: Acts.
            generator: Where its chance comes from.
            token_mask: Restricts it further than the environment does.
        """
        self.policy, self.generator, self.token_mask = policy, generator, token_mask
        self.rows = np.zeros(0, np.int64)
        """The environment's row in each seat; in an empty one, of the last to sit there."""
        self.taken = np.zeros(0, bool)
        self._fresh = np.zeros(0, bool)
        self._state: DecodeState | None = None
        self._mask_state: Any = None

    def update(self, ended: np.ndarray, fresh: np.ndarray) -> None:
        """Let ended rows leave and fresh ones sit down; compact where it pays.

        Args:
            ended: int64 [E], rows of the environment.
            fresh: int64 [F], rows of the environment, some of which may have ended just now.
        """
        self.taken &= ~np.isin(self.rows, ended)
        self._fresh = np.zeros(len(self.rows), bool)
        empty = np.flatnonzero(~self.taken)[: len(fresh)]
        self.rows[empty], self.taken[empty], self._fresh[empty] = fresh[: len(empty)], True, True
        added = fresh[len(empty) :]
        if len(added):
            sources = np.concatenate([np.arange(len(self.rows)), np.full(len(added), -1)])
            self._select(sources)
            self.rows[-len(added) :] = added
            self.taken[-len(added) :] = self._fresh[-len(added) :] = True
        elif self.taken.sum() < COMPACT_BELOW * len(self.taken):
            self._select(np.flatnonzero(self.taken))

    def _select(self, seats: np.ndarray) -> None:
        """Keep these seats; -1 makes a new one."""
        old = seats >= 0
        for name in ("rows", "taken", "_fresh"):
            kept = np.zeros(len(seats), getattr(self, name).dtype)
            kept[old] = getattr(self, name)[seats[old]]
            setattr(self, name, kept)
        index = torch.from_numpy(seats).to(self.policy.device)
        if self._state is not None:
            self._state = self._state.select(index)
        if self._mask_state is not None:
            self._mask_state = self._mask_state.select(index)

    @torch.no_grad()
    def sample(self, observation: Observation, allowed: np.ndarray | None) -> Sampled:
        """Sample the next token of each seat.

        Args:
            observation: Of every row of the environment.
            allowed: bool [B, V], its action masks; None allows all.
        """
        device, fresh = self.policy.device, torch.from_numpy(self._fresh).to(self.policy.device)
        ids = torch.from_numpy(observation["input_ids"][self.rows]).to(device)
        mask = torch.from_numpy(observation["attention_mask"][self.rows]).to(device)
        limits = None if allowed is None else torch.from_numpy(allowed[self.rows]).to(device)
        if self.token_mask is not None:
            own, self._mask_state = self.token_mask.next_allowed(ids, mask, self._mask_state, fresh)
            limits = own if limits is None else _intersection(limits, own)
        acted = self.policy.act(
            ids, mask, self._state, fresh, generator=self.generator, allowed=limits
        )
        self._state = acted.state
        return Sampled(
            self.rows[self.taken],
            acted.tokens.cpu().numpy()[self.taken],
            acted.logprobs.cpu().numpy()[self.taken],
            None if limits is None else limits.cpu().numpy()[self.taken],
        )


def _intersection(law: Tensor, own: Tensor) -> Tensor:
    """Return what both allow; where that is nothing, what the environment does."""
    both = law & own
    return torch.where(both.any(1, keepdim=True), both, law)
