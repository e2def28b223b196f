"""A rollout as an update sees it: tensors of N episodes of at most T tokens."""

from typing import Any, NamedTuple

from torch import Tensor


class Batch(NamedTuple):
    """N episodes, T tokens, V words.

    Attributes:
        input_ids: int64 [N, P + T].
        attention_mask: int8 [N, P + T].
        mask: bool [N, T], tokens to learn from.
        groups: int64 [N]; episodes with equal numbers answer one prompt drawn together.
        scores: float32 [N], the task's reward, clipped and charged for a missing EOS; no KL.
        rewards: float32 [N, T], what each token earned, KL included if it is in the reward.
        logprobs: float32 [N, T], before the update, by the pass that trains.
        values: float32 [N, T], before the update; 0 without a critic.
        advantages: float32 [N, T].
        returns: float32 [N, T], what the critic should have said.
        reference_logprobs: float32 [N, T] under the reference; None without one.
        allowed: uint8 [N, T, V / 8], packed bits of the tokens that could be sampled;
            None where all could.
    """

    input_ids: Tensor
    attention_mask: Tensor
    mask: Tensor
    groups: Tensor
    scores: Tensor
    rewards: Tensor
    logprobs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    reference_logprobs: Tensor | None = None
    allowed: Tensor | None = None

    @property
    def start(self) -> int:
        """P, the column of the first completion token."""
        return int(self.input_ids.shape[1] - self.mask.shape[1])

    def rows(self, index: Tensor) -> "Batch":
        """Return some of the episodes."""
        fields: dict[str, Any] = self._asdict()
        kept: dict[str, Any] = {k: None if v is None else v[index] for k, v in fields.items()}
        return Batch(**kept)


class BatchSize(NamedTuple):
    """Of one optimiser step: what sums over its micro-batches are divided by.

    Attributes:
        tokens: Tokens to learn from, a scalar.
        episodes: Episodes with at least one such token.
    """

    tokens: Tensor
    episodes: int
