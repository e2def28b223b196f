"""Micro-batches: complete, within the budget, alike in length, groups whole."""

import pytest
import torch

from textenvs.errors import ConfigError
from textenvs.teacher_forcing.micro_batches import micro_batches

START = 10


def lengths_mask(prompts: list[int], completions: list[int]) -> torch.Tensor:
    mask = torch.zeros(len(prompts), START + 8, dtype=torch.int8)
    for row, (prompt, completion) in enumerate(zip(prompts, completions, strict=True)):
        mask[row, START - prompt : START + completion] = 1
    return mask


def test_every_row_once_longest_first_within_the_budget() -> None:
    mask = lengths_mask([3, 9, 5, 2, 9, 1], [2, 8, 5, 2, 7, 1])
    rows = torch.tensor([5, 4, 3, 2, 1, 0])
    parts = micro_batches(mask, START, rows, torch.arange(6), 20)
    assert [part.tolist() for part in parts] == [[1], [4], [2, 0], [3, 5]]
    lengths = mask.sum(1)
    for part in parts:
        assert len(part) * int(lengths[part].max()) <= 20 or len(part) == 1


def test_a_large_budget_takes_everything_at_once() -> None:
    mask = lengths_mask([3, 9, 5], [2, 8, 5])
    (part,) = micro_batches(mask, START, torch.arange(3), torch.arange(3), 1000)
    assert sorted(part.tolist()) == [0, 1, 2]


def test_groups_stay_whole_and_share_their_prompt() -> None:
    mask = lengths_mask([5] * 6, [4, 4, 4, 1, 1, 1])
    groups = torch.tensor([7, 7, 7, 3, 3, 3])
    rows = torch.tensor([0, 3, 1, 4, 2, 5])
    parts = micro_batches(mask, START, rows, groups, 17)
    assert [part.tolist() for part in parts] == [[0, 1, 2], [3, 4, 5]], "5 + 12 and 5 + 3 tokens"
    assert len(micro_batches(mask, START, rows, groups, 34)) == 1
    parts = micro_batches(mask, START, rows, groups, 1)
    assert [len(part) for part in parts] == [3, 3], "a unit beyond the budget goes alone"
    alone = micro_batches(mask, START, rows, torch.arange(6), 17)
    assert [len(part) for part in alone] == [1, 2, 3][: len(alone)] or len(alone) > 2


def test_some_rows_of_a_group() -> None:
    mask = lengths_mask([5] * 4, [4, 3, 2, 1])
    groups = torch.tensor([0, 0, 1, 1])
    parts = micro_batches(mask, START, torch.tensor([3, 0, 2]), groups, 100)
    assert parts[0].tolist() == [0, 3, 2], "9 tokens, then 8; rows of a group as they came"
    assert micro_batches(mask, START, torch.tensor([], dtype=torch.long), groups, 100) == []


def test_bad_budget() -> None:
    with pytest.raises(ConfigError, match="token_budget must be at least 1, got 0"):
        micro_batches(lengths_mask([1], [1]), START, torch.arange(1), torch.arange(1), 0)
