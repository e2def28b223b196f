"""Cached decoding: prompts computed once, in parts, in rows that come and go."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

import textenvs.decoding
from textenvs.decoding import CachedDecoder, distinct_rows, kept_casts

COLUMNS, PROMPT_COLUMNS = 14, 8
KINDS = ["llama", "gpt2", "qwen2"]
Maker = Callable[..., Any]


def prompts(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return observations with left-padded prompts of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(len(lengths), COLUMNS, dtype=torch.long)
    mask = torch.zeros(len(lengths), COLUMNS, dtype=torch.int8)
    for row, length in enumerate(lengths):
        columns = slice(PROMPT_COLUMNS - length, PROMPT_COLUMNS)
        ids[row, columns] = torch.randint(2, 258, (length,), generator=generator)
        mask[row, columns] = 1
    return ids, mask


def say(ids: torch.Tensor, mask: torch.Tensor, column: int, seed: int) -> None:
    """Append a different token to each row."""
    generator = torch.Generator().manual_seed(seed)
    ids[:, column] = torch.randint(2, 258, (len(ids),), generator=generator)
    mask[:, column] = 1


@torch.no_grad()
def plain(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return the next logits of each row by unpadded passes without a cache."""
    rows = [sequence[real.bool()] for sequence, real in zip(ids, mask, strict=True)]
    return torch.stack([model(row[None]).logits[0, -1] for row in rows])


class Widths:
    """Counts the sequences and the tokens of each forward pass."""

    def __init__(self, model: Any) -> None:
        self.passes: list[tuple[int, ...]] = []
        model.get_input_embeddings().register_forward_hook(self)

    def __call__(self, module: Any, arguments: Any, output: Any) -> None:
        self.passes.append(tuple(arguments[0].shape))


def test_distinct_rows_ignores_what_is_not_attended() -> None:
    ids = torch.tensor([[9, 5], [0, 5], [0, 6], [1, 5], [7, 7]])
    mask = torch.tensor([[0, 1], [0, 1], [0, 1], [1, 1], [0, 1]]).bool()
    firsts, kinds = distinct_rows(ids, mask)
    assert firsts[kinds].tolist() == [0, 0, 2, 3, 4]
    assert sorted(firsts.tolist()) == [0, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("budget", [1, 12, 1000])
def test_a_shared_prompt_is_computed_once(
    kind: str, budget: int, make_model: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten rows of four prompts: four prompts are computed, and every row decodes as if alone."""
    monkeypatch.setitem(textenvs.decoding.PREFILL_TOKENS, "cpu", budget)
    model = make_model(kind)
    ids, mask = prompts([4, 8, 8, 2])
    rows = torch.tensor([0, 0, 1, 2, 2, 2, 3, 1, 0, 3])
    ids, mask = ids[rows], mask[rows]
    widths = Widths(model)
    decoder = CachedDecoder(model, vocab_size=258)
    logits, state = decoder.next_token(ids, mask)
    assert sum(rows for rows, _ in widths.passes) == 4
    assert all(rows * columns <= max(budget, columns) for rows, columns in widths.passes)
    torch.testing.assert_close(logits, plain(model, ids, mask), atol=1e-4, rtol=0)
    for step in range(3):
        say(ids, mask, PROMPT_COLUMNS + step, step)
        logits, state = decoder.next_token(ids, mask, state)
        torch.testing.assert_close(logits, plain(model, ids, mask), atol=1e-4, rtol=0)
    assert logits[0].sub(logits[1]).abs().max() > 0.1, "the rows have parted"


def test_fresh_rows_are_shared_while_others_go_on(make_model: Maker) -> None:
    model = make_model()
    decoder = CachedDecoder(model, vocab_size=258)
    ids, mask = prompts([3, 5, 4, 2])
    _, state = decoder.next_token(ids, mask)
    say(ids, mask, PROMPT_COLUMNS, 0)
    new_ids, new_mask = prompts([7], seed=4)  # longer than any before
    ids[1:3], mask[1:3] = new_ids, new_mask
    fresh = torch.tensor([False, True, True, False])
    widths = Widths(model)
    logits, state = decoder.next_token(ids, mask, state, fresh)
    assert widths.passes == [(1, 7), (4, 1)]
    torch.testing.assert_close(logits, plain(model, ids, mask), atol=1e-4, rtol=0)


def test_new_rows_are_made_by_select(make_model: Maker) -> None:
    model = make_model()
    decoder = CachedDecoder(model, vocab_size=258)
    ids, mask = prompts([3, 5])
    _, state = decoder.next_token(ids, mask)
    say(ids, mask, PROMPT_COLUMNS, 0)
    new_ids, new_mask = prompts([6, 1], seed=3)
    ids = torch.stack([ids[1], new_ids[0], ids[0], new_ids[1]])
    mask = torch.stack([mask[1], new_mask[0], mask[0], new_mask[1]])
    state = state.select(torch.tensor([1, -1, 0, -1]))
    fresh = torch.tensor([False, True, False, True])
    logits, _ = decoder.next_token(ids, mask, state, fresh)
    torch.testing.assert_close(logits, plain(model, ids, mask), atol=1e-4, rtol=0)


def test_a_row_that_has_not_grown_answers_as_before(make_model: Maker) -> None:
    """Also where the observation is full to its last column."""
    model = make_model()
    decoder = CachedDecoder(model, vocab_size=258)
    ids, mask = prompts([3, 5])
    _, state = decoder.next_token(ids, mask)
    for column in range(PROMPT_COLUMNS, COLUMNS):
        say(ids[:1], mask[:1], column, column)
        logits, state = decoder.next_token(ids, mask, state)
        again, state = decoder.next_token(ids, mask, state)
        torch.testing.assert_close(again, logits, atol=1e-5, rtol=0)
        torch.testing.assert_close(logits, plain(model, ids, mask), atol=1e-4, rtol=0)


def test_bfloat16_keeps_half_the_bytes(make_model: Maker) -> None:
    ids, mask = prompts([3, 5])
    _, whole = CachedDecoder(make_model(), vocab_size=258).next_token(ids, mask)
    logits, half = CachedDecoder(make_model(), vocab_size=258, bfloat16=True).next_token(ids, mask)
    assert logits.dtype == torch.float32
    for one, other in zip(whole.layers, half.layers, strict=True):
        assert one.keys is not None and other.keys is not None
        assert (one.keys.dtype, other.keys.dtype) == (torch.float32, torch.bfloat16)


def test_casts_of_weights_are_kept_as_long_as_asked(make_model: Maker) -> None:
    """Inside, a changed weight is not seen (which is why it must not change); outside it is."""
    model = make_model()
    decoder = CachedDecoder(model, vocab_size=258, bfloat16=True)
    ids, mask = prompts([3, 5])
    weight = model.get_output_embeddings().weight
    with kept_casts(True, ids.device):
        before, _ = decoder.next_token(ids, mask)
        assert not torch.is_autocast_enabled("cpu"), "what else runs inside is not rounded"
        with torch.no_grad():
            weight.mul_(2.0)
        kept, _ = decoder.next_token(ids, mask)
    assert torch.equal(before, kept)
    after, _ = decoder.next_token(ids, mask)
    assert (after - before).abs().max() > 0.1
