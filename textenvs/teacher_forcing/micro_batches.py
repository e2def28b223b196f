"""Micro-batches: episodes cut into pieces that fit in memory, alike in length."""

import numpy as np
import torch
from torch import Tensor

from textenvs.errors import ConfigError


def micro_batches(
    attention_mask: Tensor, start: int, rows: Tensor, groups: Tensor, token_budget: int
) -> list[Tensor]:
    """Cut episodes into micro-batches by tokens, not by rows.

    A unit is what shares one prompt: the episodes of a group among `rows`. Its length is
    that of the prompt and all its completions. Units are sorted, the longest first, so
    that little is padded and memory peaks at once rather than late; a micro-batch takes
    units while their number times the longest does not exceed the budget. A loss divided
    by the token count of the whole batch does not depend on the cut.

    Args:
        attention_mask: [N, P + T], of all episodes.
        start: P.
        rows: int64 [n], the episodes of this batch.
        groups: int64 [N], equal for episodes of one prompt that belong together.
        token_budget: Packed tokens, padding included; a unit beyond it goes alone.

    Returns:
        The rows of each micro-batch, groups contiguous.

    Raises:
        ConfigError: if the budget is not positive.
    """
    if token_budget < 1:
        raise ConfigError(f"token_budget must be at least 1, got {token_budget}")
    if not len(rows):
        return []
    mask = attention_mask[rows].bool()
    known = torch.stack([groups[rows], mask[:, :start].sum(1), mask[:, start:].sum(1)])
    names, prompts, completions = known.cpu().numpy()
    units, unit = np.unique(names, return_inverse=True)
    lengths = np.zeros(len(units), np.int64)
    np.maximum.at(lengths, unit, prompts)
    np.add.at(lengths, unit, completions)
    order = np.argsort(-lengths, kind="stable")
    members = np.argsort(unit, kind="stable")  # rows of each unit, as they came
    of_unit = np.split(members, np.cumsum(np.bincount(unit))[:-1])
    result, taken = [], 0
    while taken < len(order):
        count = max(1, token_budget // max(1, int(lengths[order[taken]])))
        chosen = np.concatenate([of_unit[u] for u in order[taken : taken + count]])
        result.append(rows[torch.from_numpy(chosen).to(rows.device)])
        taken += count
    return result
