"""Examples laid out in rows for a forward pass: one a row, or several that do not see each other.

Packed, a row is

    [prompt 1][answer 1][prompt 2][answer 2]...[padding]

where attention is causal within an example and blocked between them, and positions begin
anew with each, so an example reads what it would read alone (Krell et al.,
arXiv:2107.02027). Only the padding is saved; the loss is the same.
"""

from collections.abc import Iterator, Sequence

import numpy as np
import torch

from agents.supervision.examples import Example
from textenvs.errors import ConfigError
from textenvs.teacher_forcing.packing import Packing, block_mask

Row = list[int]
"""The indices of the examples in a row."""


def single_rows(examples: Sequence[Example]) -> list[Row]:
    """Return one row an example, the longest first."""
    return [[i] for i in _longest_first(examples)]


def packed_rows(examples: Sequence[Example]) -> list[Row]:
    """Return rows no longer than the longest example, filled first-fit from the longest down.

    First-fit decreasing needs at most 11/9 of the fewest rows, and 6/9 of one (Dósa, 2007).
    """
    rows: list[Row] = []
    room: list[int] = []
    width = max(map(len, examples), default=0)
    for i in _longest_first(examples):
        length = len(examples[i])
        at = next((r for r, left in enumerate(room) if left >= length), None)
        if at is None:
            rows.append([])
            room.append(width)
            at = len(rows) - 1
        rows[at].append(i)
        room[at] -= length
    return rows


def micro_batches(
    examples: Sequence[Example], rows: Sequence[Row], token_budget: int
) -> Iterator[list[Row]]:
    """Cut rows into runs of at most so many tokens, padding included; a longer row goes alone.

    Args:
        examples: What the rows are made of.
        rows: The longest first.
        token_budget: Tokens of a forward pass.

    Raises:
        ConfigError: if the budget is not positive.
    """
    if token_budget < 1:
        raise ConfigError(f"token_budget must be at least 1, got {token_budget}")
    taken: list[Row] = []
    for row in rows:
        width = row_tokens(examples, taken[0] if taken else row)
        if taken and (len(taken) + 1) * width > token_budget:
            yield taken
            taken = []
        taken.append(row)
    if taken:
        yield taken


def row_tokens(examples: Sequence[Example], row: Row) -> int:
    """Return the tokens of a row."""
    return sum(len(examples[i]) for i in row)


def laid_out(
    examples: Sequence[Example], rows: Sequence[Row], device: torch.device | str = "cpu"
) -> Packing:
    """Lay rows out; the episodes of the packing are the examples in the order of the rows.

    Args:
        examples: What the rows are made of.
        rows: At least one, none empty.
        device: Where the tensors go.
    """
    shape = (len(rows), max(row_tokens(examples, row) for row in rows))
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    segments = np.full(shape, -1, np.int64)  # the padding sees only itself
    columns, ends = [], []
    for number, row in enumerate(rows):
        begin = 0
        for segment, i in enumerate(row, start=1):
            prompt, answer = examples[i].prompt, examples[i].answer
            first, end = begin + len(prompt), begin + len(prompt) + len(answer)
            ids[number, begin:end] = prompt + answer
            positions[number, begin:end] = np.arange(end - begin)
            segments[number, begin:end] = segment
            columns.append(number * shape[1] + np.arange(first, end))
            ends.append(number * shape[1] + end - 1)
            begin = end
    lengths = np.array([len(part) for part in columns])
    flat = np.concatenate(columns)
    episodes = np.repeat(np.arange(len(lengths)), lengths)
    steps = np.arange(len(flat)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    is_packed = any(len(row) > 1 for row in rows)
    tensors = [
        torch.from_numpy(array).to(device)
        for array in (
            ids,
            episodes,
            steps,
            ids.reshape(-1)[flat],
            flat - 1,
            np.array(ends),
            lengths,
        )
    ]
    return Packing(
        tensors[0],
        torch.from_numpy(positions).to(device) if is_packed else None,
        block_mask(torch.from_numpy(segments).to(device)) if is_packed else None,
        *tensors[1:],
    )


def _longest_first(examples: Sequence[Example]) -> list[int]:
    return sorted(range(len(examples)), key=lambda i: -len(examples[i]))
