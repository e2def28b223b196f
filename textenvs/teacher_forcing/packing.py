"""Packing: finished episodes laid out for one forward pass without waste.

Episodes are stored left-padded, because they were generated so. To be learned from they
are laid out anew, padded on the right. Where consecutive episodes answer one prompt, a
row holds the prompt once and several completions after it:

    [prompt][completion 1][completion 2]...[padding]

Each completion sees the prompt and itself, and its positions go on from the prompt, so
it reads what it would read in a row of its own: same log-probabilities, same gradients,
and the prompt's arithmetic is done once.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from textenvs.errors import ConfigError

TOKEN_COST = 6
"""A token costs a layer as much as this many times the hidden size in attended pairs: its
linear maps take about 24 H^2 operations, a pair in attention 4 H (Kaplan et al.,
arXiv:2001.08361, table 1)."""


@dataclass(frozen=True)
class Packing:
    """B episodes with M completion tokens in all, laid out in N rows of L columns.

    Attributes:
        input_ids: int64 [N, L], padded on the right with a valid token.
        position_ids: int64 [N, L], or None where they are simply the columns.
        allowed: bool [N, 1, L, L], which columns each column sees; None is plain causal
            attention, which needs no mask since the padding comes last.
        episodes: int64 [M], the episode of each completion token, in order.
        steps: int64 [M], its place in its completion, from 0.
        tokens: int64 [M], the token itself.
        reads: int64 [M], in the flattened [N * L], the column before it, whose hidden
            state predicts it: the first token of every completion reads the prompt's last.
        ends: int64 [B], in the flattened [N * L], the last token of each episode.
        lengths: int64 [B], tokens a completion.
    """

    input_ids: Tensor
    position_ids: Tensor | None
    allowed: Tensor | None
    episodes: Tensor
    steps: Tensor
    tokens: Tensor
    reads: Tensor
    ends: Tensor
    lengths: Tensor

    def per_token(self, values: Tensor, columns: int) -> Tensor:
        """Return [B, columns] with values [M] where the tokens are, and 0 elsewhere."""
        flat = values.new_zeros(len(self.lengths) * columns)
        return flat.index_put((self.episodes * columns + self.steps,), values).view(-1, columns)

    def per_state(self, values: Tensor, columns: int) -> Tensor:
        """Return [B, columns] with values [M + B], of `reads` and `ends`, and 0 elsewhere."""
        flat = values.new_zeros(len(self.lengths) * columns)
        episodes = torch.arange(len(self.lengths), device=values.device)
        after = episodes * columns + self.lengths
        index = torch.cat([self.episodes * columns + self.steps, after])
        return flat.index_put((index,), values).view(-1, columns)


def pack(
    input_ids: Tensor,
    attention_mask: Tensor,
    start: int,
    *,
    hidden_size: int,
    shareable: int | None = None,
) -> Packing:
    """Lay episodes out, sharing the prompts of neighbours where that saves work.

    Args:
        input_ids: int64 [B, P + T], prompt left-padded, completion from `start` on.
        attention_mask: [B, P + T].
        start: P.
        hidden_size: Width of the model, to weigh attention against the rest.
        shareable: The longest sequence (prompt and completion) whose prompt may be
            shared; None sets no bound, 0 shares nothing.

    Raises:
        ConfigError: if an episode has no prompt token, so that nothing predicts its first.
    """
    mask = attention_mask.bool()
    prompts = mask[:, :start].sum(1)
    alike = shared_prompts(input_ids, mask, start)
    known = torch.stack([prompts, mask[:, start:].sum(1), _behind(alike, False)]).cpu().numpy()
    lengths = Lengths(known[0], known[1], ~known[2].astype(bool))
    if not lengths.prompts.all():
        row = int(np.flatnonzero(lengths.prompts == 0)[0])
        raise ConfigError(
            f"episode {row} has no prompt token, so nothing predicts its first token; "
            "give every prompt at least one token, such as the tokenizer's BOS"
        )
    samples = 1
    if shareable is None or (lengths.prompts + lengths.completions).max() <= shareable:
        samples = samples_per_row(lengths, hidden_size)
    return _laid_out(input_ids, start, lengths, samples)


def shared_prompts(input_ids: Tensor, mask: Tensor, start: int) -> Tensor:
    """Return bool [B - 1]: which episodes have the prompt of the one before.

    Args:
        input_ids: int64 [B, P + T].
        mask: bool [B, P + T].
        start: P.
    """
    prompts = mask[:, :start].sum(1)
    alike = (input_ids[1:, :start] == input_ids[:-1, :start]) | ~mask[1:, :start]
    return alike.all(1) & (prompts[1:] == prompts[:-1])


@dataclass(frozen=True)
class Lengths:
    """The lengths of B episodes.

    Attributes:
        prompts: int64 [B].
        completions: int64 [B].
        opens: bool [B], whether the prompt is another than the episode's before.
    """

    prompts: np.ndarray
    completions: np.ndarray
    opens: np.ndarray

    def rows(self, samples: int) -> np.ndarray:
        """Return which episodes open a row of at most `samples` completions, bool [B]."""
        episodes = np.arange(len(self.opens))
        place = episodes - np.maximum.accumulate(np.where(self.opens, episodes, 0))
        return place % samples == 0

    def columns(self, opens: np.ndarray) -> int:
        """Return L, the length of the longest row."""
        first = np.flatnonzero(opens)
        if not len(first):
            return 0
        return int((self.prompts[first] + np.add.reduceat(self.completions, first)).max())


def samples_per_row(lengths: Lengths, hidden_size: int) -> int:
    """Return how many completions of one prompt a row should hold: 1, 2, 4, ... or all.

    N rows of L columns cost about N * L * (6 H + A) where A is what a column attends to: L
    under a mask, L / 2 where attention is causal and the upper half is never computed.
    Sharing saves prompt columns and pays with long rows; the cheapest number wins.
    """
    largest = int(np.diff(np.flatnonzero([*lengths.opens, True])).max(initial=1))
    candidates = [2**i for i in range(largest.bit_length()) if 2**i < largest] + [largest]
    costs = {}
    for samples in candidates:
        opens = lengths.rows(samples)
        columns = lengths.columns(opens)
        attended = columns / 2 if samples == 1 else columns
        costs[samples] = opens.sum() * columns * (TOKEN_COST * hidden_size + attended)
    return min(costs, key=lambda samples: costs[samples])


def _laid_out(input_ids: Tensor, start: int, lengths: Lengths, samples: int) -> Packing:
    opens = lengths.rows(samples)
    first = np.flatnonzero(opens)
    shape = (len(first), lengths.columns(opens))
    completions, prompts = lengths.completions, lengths.prompts
    row = np.cumsum(opens) - 1
    before = np.cumsum(completions) - completions
    # The column at which each completion begins, behind those that share its row.
    begins = prompts + before - before[first][row]
    episodes = np.repeat(np.arange(len(opens)), completions)
    steps = np.arange(len(episodes)) - before[episodes]
    columns = begins[episodes] + steps
    prompt_rows = np.repeat(np.arange(len(first)), prompts[first])
    prompt_columns = np.arange(len(prompt_rows)) - np.repeat(
        np.cumsum(prompts[first]) - prompts[first], prompts[first]
    )
    width = input_ids.shape[1]
    source = np.zeros(shape, np.int64)
    left = (start - prompts[first])[prompt_rows]
    source[prompt_rows, prompt_columns] = first[prompt_rows] * width + left + prompt_columns
    source[row[episodes], columns] = episodes * width + start + steps
    at = row[episodes] * shape[1]
    reads = at + np.where(steps == 0, prompts[episodes], columns) - 1
    ends = row * shape[1] + np.where(completions == 0, prompts, begins + completions) - 1
    device = input_ids.device
    gathered = input_ids.flatten()[torch.from_numpy(source).to(device)]
    flat = torch.from_numpy(np.stack([episodes, steps, reads, at + columns])).to(device)
    position_ids = allowed = None
    if samples > 1:
        positions = np.zeros(shape, np.int64)
        positions[prompt_rows, prompt_columns] = prompt_columns
        positions[row[episodes], columns] = prompts[episodes] + steps
        segments = np.full(shape, -1, np.int64)  # of the padding, which sees the prompt too
        segments[prompt_rows, prompt_columns] = 0
        segments[row[episodes], columns] = 1 + episodes
        position_ids = torch.from_numpy(positions).to(device)
        allowed = block_mask(torch.from_numpy(segments).to(device))
    return Packing(
        gathered,
        position_ids,
        allowed,
        flat[0],
        flat[1],
        gathered.flatten()[flat[3]],
        flat[2],
        torch.from_numpy(ends).to(device),
        torch.from_numpy(completions).to(device),
    )


def block_mask(segments: Tensor) -> Tensor:
    """Return bool [N, 1, L, L]: causal, within one's own segment and segment 0.

    Args:
        segments: int64 [N, L], 0 for the prompt, another number for each completion.
    """
    query, key = segments[:, :, None], segments[:, None, :]
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    return (causal & ((key == 0) | (key == query)))[:, None]


def _behind(values: Tensor, first: bool) -> Tensor:
    """Return bool [B] with one value put before the given [B - 1]."""
    return torch.nn.functional.pad(values, (1, 0), value=first)
