"""Batches for models that score text: sorted by length, padded no more than needed.

Nothing here imports torch until a tensor is asked for.
"""

import importlib.util
from collections.abc import Sequence
from typing import TYPE_CHECKING

from textenvs.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from torch import Tensor


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


def padded(rows: Sequence[Sequence[int]], pad_id: int, device: str) -> "tuple[Tensor, Tensor]":
    """Return the ids, padded on the right, and their mask.

    Args:
        rows: Token ids of each text.
        pad_id: What to pad with.
        device: Where the tensors go.

    Returns:
        int64 [B, T] and int64 [B, T], 1 where there is a token.
    """
    import torch

    width = max(map(len, rows))
    ids = torch.full((len(rows), width), pad_id, dtype=torch.long)
    mask = torch.zeros((len(rows), width), dtype=torch.long)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row, dtype=torch.long)
        mask[i, : len(row)] = 1
    return ids.to(device), mask.to(device)


def checked_count(name: str, value: int, default: int) -> int:
    """Return an option that counts something.

    Raises:
        ConfigError: if it is below 1.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{name} must be at least 1, got {value!r}; the default is {default}")
    return value
