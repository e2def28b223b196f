"""Batches for models that score text: sorted by length, padded no more than needed.

Nothing here imports torch until a tensor is asked for.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from textenvs.errors import MissingDependencyError

if TYPE_CHECKING:
    from torch import Tensor

    Forward = Callable[[Tensor, Tensor], Tensor]
    """From ids and mask, int64 [N, T], to what the model says of each row, [N, ...]."""

NO_LIMIT = 1 << 30
NARROWEST = 16
FIXED_TOKENS, FIXED_TOKENS_CPU = 2048, 256
"""Tokens of a forward pass of fixed shape. Fewer make a lone text cheaper and a batch dearer;
below about 200 on a CPU, matrix kernels begin to differ with the row."""


def require_models(purpose: str) -> None:
    """Raise if torch or transformers is absent, without importing them.

    Raises:
        MissingDependencyError: naming the package and the command that installs it.
    """
    for package in ("torch", "transformers"):
        if importlib.util.find_spec(package) is None:
            raise MissingDependencyError(package, purpose, 'pip install "textenvs[agents]"')


def encodable(text: str) -> str:
    """Return a text every tokenizer takes: what is no character becomes "?"."""
    return text.encode("utf-8", "replace").decode("utf-8")


def batches_by_length(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Return row numbers in batches of rows of like length, the longest first.

    Args:
        lengths: Of each row, in tokens.
        batch_tokens: The most tokens of a batch, padding included; a longer row is alone.
    """
    batches: list[list[int]] = []
    width = 0
    for row in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if batches and width * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(row)
        else:
            batches.append([row])
            width = lengths[row]
    return batches


@dataclass(frozen=True)
class Batching:
    """How rows of ids are brought through a model.

    Attributes:
        device: Where the tensors go.
        batch_tokens: The most tokens of one forward pass, padding included; a longer row is
            alone.
        longest: The most tokens the model reads.
        fixed_shapes: Give every row a forward pass whose shape depends on its own length
            alone: the width is a power of two, the number of rows follows from the width,
            and rows that are wanting are made up. What a matrix kernel adds up in which order
            depends on the shapes, so that the output for a row then does not depend on its
            company at all; without, it moves in the last digits, and in bfloat16 in the third.
            It costs a lone text up to `FIXED_TOKENS` (on a CPU `FIXED_TOKENS_CPU`) tokens of
            work.
        left: Pad on the left, for a causal model that is asked for the next token.
    """

    device: str
    batch_tokens: int
    longest: int = NO_LIMIT
    fixed_shapes: bool = False
    left: bool = False

    def outputs(self, rows: Sequence[Sequence[int]], forward: "Forward") -> np.ndarray:
        """Return float64 [B, ...], what a model says of each row, in the order given.

        Args:
            rows: Token ids of each text; at least one row, none of them empty.
            forward: The model.
        """
        import torch

        found: np.ndarray | None = None
        for batch, (height, width) in self._plan([len(row) for row in rows]):
            ids, mask = self._padded([rows[i] for i in batch], height, width)
            with torch.no_grad():
                said = forward(ids, mask)[: len(batch)].double().cpu().numpy()
            if found is None:
                found = np.zeros((len(rows), *said.shape[1:]), np.float64)
            found[batch] = said
        assert found is not None, "no rows"
        return found

    def _plan(self, lengths: Sequence[int]) -> Iterator[tuple[list[int], tuple[int, int]]]:
        """Yield row numbers with the height and the width of their tensors."""
        if not self.fixed_shapes:
            for batch in batches_by_length(lengths, self.batch_tokens):
                yield batch, (len(batch), lengths[batch[0]])
            return
        of_shape: dict[tuple[int, int], list[int]] = {}
        for row, length in enumerate(lengths):
            of_shape.setdefault(self._shape(length), []).append(row)
        for (height, width), members in sorted(of_shape.items()):
            for start in range(0, len(members), height):
                yield members[start : start + height], (height, width)

    def _shape(self, length: int) -> tuple[int, int]:
        """Return the height and width of the forward pass of a row."""
        # Always some padding: with none at all a model leaves its mask out, and another
        # kernel would compute. A row with no room for it is therefore alone.
        width = max(NARROWEST, 1 << length.bit_length())
        if width > self.longest:
            width = max(length, self.longest)
        if width == length:
            return 1, width
        most = FIXED_TOKENS_CPU if self.device == "cpu" else FIXED_TOKENS
        return max(1, min(most, self.batch_tokens) // width), width

    def _padded(
        self, rows: Sequence[Sequence[int]], height: int, width: int
    ) -> "tuple[Tensor, Tensor]":
        """Return ids and mask, int64 [height, width], rows of one token added where wanting."""
        import torch

        ids = torch.zeros((height, width), dtype=torch.long)
        mask = torch.zeros((height, width), dtype=torch.long)
        for i in range(height):
            row = rows[i] if i < len(rows) else rows[0][-1:]
            span = slice(width - len(row), width) if self.left else slice(0, len(row))
            ids[i, span] = torch.tensor(row, dtype=torch.long)
            mask[i, span] = 1
        return ids.to(self.device), mask.to(self.device)
