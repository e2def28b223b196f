"""`ReferenceTopP`: only tokens a reference model would consider."""

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from textenvs.errors import ConfigError, MissingDependencyError
from textenvs.masks.base import MaskSetting, Rows, TokenMask

if TYPE_CHECKING:
    from textenvs.reference import Reference


@dataclass(frozen=True)
class ReferenceTopP(TokenMask):
    """Allow the smallest set of tokens that holds probability p under a reference model.

    The set is the nucleus of Holtzman et al. (arXiv:1904.09751, eq. 2); masking a policy
    with that of another model is NLPO (Ramamurthy et al., arXiv:2210.01241, section 4). The
    likeliest token is always in it; EOS only if the reference finds it likely.

    Attributes:
        reference: Model name, folder, model, or `Reference`. Each environment gets a shallow
            copy of its own: one model in memory, one cache an environment.
        p: In (0, 1].
    """

    reference: Any = field(repr=False)
    p: float = 0.9

    def __post_init__(self) -> None:
        """Check p.

        Raises:
            ConfigError: if p is out of range.
        """
        if not 0 < self.p <= 1:
            raise ConfigError(f"p must be above 0 and at most 1, got {self.p}; the default is 0.9")

    def bind(self, setting: MaskSetting) -> "BoundTopP":
        """Load the reference and bind it to the shape of the observations.

        Raises:
            MissingDependencyError: if torch or transformers is absent.
            ModelError: if the reference cannot be used.
        """
        try:
            from textenvs.reference import as_reference
        except ImportError as error:
            raise MissingDependencyError(
                "torch", "ReferenceTopP", 'pip install "textenvs[agents]"'
            ) from error
        reference = copy.copy(as_reference(self.reference))
        reference.bind(setting.num_prompt_columns, setting.tokenizer.vocab_size)
        return BoundTopP(reference, self.p)


class BoundTopP:
    """`ReferenceTopP` at work: one cached forward pass of the reference a step."""

    def __init__(self, reference: "Reference", p: float) -> None:
        """Keep a bound reference."""
        self._reference, self._p = reference, p
        self._ids: np.ndarray | None = None
        self._attended: np.ndarray | None = None

    def fill(self, rows: Rows, allowed: np.ndarray) -> None:
        """Mark the nucleus of each active row."""
        attended = rows.attention_mask.astype(bool)
        fresh = self._fresh(rows.input_ids, attended)
        self._ids, self._attended = rows.input_ids.copy(), attended
        logprobs = self._reference.next_logprobs(rows.input_ids, rows.attention_mask, fresh)
        for row in np.flatnonzero(rows.active).tolist():
            allowed[row, nucleus(logprobs[row], self._p)] = True

    def _fresh(self, ids: np.ndarray, attended: np.ndarray) -> np.ndarray:
        """Return bool [B]: rows that are not what they were plus at most one token."""
        if self._ids is None or self._attended is None:
            return np.ones(len(ids), bool)
        same = ((ids == self._ids) & attended) | ~self._attended
        grown = attended.sum(1, dtype=np.int64) - self._attended.sum(1, dtype=np.int64)
        return ~(same.all(1) & (grown <= 1))


def nucleus(logprobs: np.ndarray, p: float) -> np.ndarray:
    """Return the smallest set of tokens that holds probability p; of equals, lower ids first.

    Args:
        logprobs: [V], log-probabilities.
        p: In (0, 1].

    Returns:
        int64 [N], the likeliest token first.
    """
    probabilities = np.exp(logprobs.astype(np.float64))
    probabilities /= probabilities.sum()
    # Tokens below (1 - p) / V hold less than 1 - p together, so the rest holds p already:
    # only the rest need be sorted.
    least = (1 - p) / len(probabilities)
    likely = np.flatnonzero((probabilities >= least) & (probabilities > 0))
    order = likely[np.argsort(-probabilities[likely], kind="stable")]
    if p == 1:
        return order
    ahead = np.cumsum(probabilities[order]) - probabilities[order]
    return order[ahead < p]
