"""A cache of keys and values whose rows are independent of each other.

A cache column is an observation column, and every row has its own newest column, so
rows may begin, end and be reset whenever they like: what a vector environment does in any
of its autoreset modes.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


class Cursor:
    """Where the current forward pass writes: set by the decoder, read by every layer.

    Attributes:
        shape: (B, C), rows and columns of the cache.
        dtype: What keys and values are kept in; None keeps the type they come in.
        rows: int64 [n], the rows that are written.
        columns: int64 [n], the column of each, in a pass of one token a row.
        width: Columns that such a pass looks at.
        sources: int64 [n], in a prefill, the row of the pass that each row is filled from.
        start: In a prefill, the first column written.
        prefill: Which of the two it is.
    """

    shape: tuple[int, int]
    dtype: torch.dtype | None
    rows: Tensor
    columns: Tensor
    width: int
    sources: Tensor
    start: int
    prefill: bool

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype | None) -> None:
        """Aim at nothing yet."""
        self.shape, self.dtype = shape, dtype

    def aim_prefill(self, rows: Tensor, sources: Tensor, start: int) -> None:
        """Write all tokens of `sources`, sorted, to `rows`, from the column `start` on."""
        self.prefill, self.rows, self.sources, self.start = True, rows, sources, start

    def aim_decode(self, rows: Tensor, columns: Tensor, width: int) -> None:
        """Write one token to each row."""
        self.prefill, self.rows, self.columns, self.width = False, rows, columns, width


class RowCacheLayer(CacheLayerMixin):
    """Keys and values [B, heads, C, size], written at each row's own column."""

    is_sliding = False

    def __init__(self, cursor: Cursor) -> None:
        """Share the decoder's cursor."""
        super().__init__()
        self.cursor = cursor

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate all columns at once."""
        rows, columns = self.cursor.shape
        for name, states in (("keys", key_states), ("values", value_states)):
            shape = (rows, states.shape[1], columns, states.shape[3])
            dtype = self.cursor.dtype or states.dtype
            setattr(self, name, torch.zeros(shape, dtype=dtype, device=states.device))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new states; return what the new queries may look at."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        cursor = self.cursor
        if cursor.prefill:  # nothing earlier is cached for these rows
            stop = cursor.start + key_states.shape[2]
            for kept, states in ((self.keys, key_states), (self.values, value_states)):
                # As many sources as states: each is written once, in order.
                filled = states if len(cursor.sources) == len(states) else states[cursor.sources]
                kept[cursor.rows, :, cursor.start : stop] = filled.to(kept.dtype)
            return key_states, value_states
        self.keys[cursor.rows, :, cursor.columns] = key_states[:, :, 0].to(self.keys.dtype)
        self.values[cursor.rows, :, cursor.columns] = value_states[:, :, 0].to(self.values.dtype)
        return self.keys[:, :, : cursor.width], self.values[:, :, : cursor.width]

    def get_seq_length(self) -> int:
        """Return 0: positions and masks are always given explicitly."""
        return 0

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return (length, offset); unused, since masks are given explicitly."""
        return query_length, 0

    def get_max_length(self) -> int:
        """Return the number of columns."""
        return self.cursor.shape[1]


@dataclass
class DecodeState:
    """The cache of B rows; opaque to callers, passed from call to call.

    Attributes:
        cache: One layer a layer of the model, all of our own kind.
        cursor: Shared by the layers.
        offset: First observation column that is cached.
        newest: int64 [B], the observation column of each row's newest token.
        position: int64 [B], its position, counted from the row's first token.
    """

    cache: Cache
    cursor: Cursor
    offset: int
    newest: Tensor
    position: Tensor

    @classmethod
    def empty(
        cls,
        shape: tuple[int, int],
        offset: int,
        *,
        layers: int,
        dtype: torch.dtype | None,
        device: torch.device,
    ) -> "DecodeState":
        """Return a cache of nothing.

        Args:
            shape: (B, C).
            offset: The first observation column to cache.
            layers: Of the model.
            dtype: What to keep; None keeps the type the model computes in.
            device: Where.
        """
        cursor = Cursor(shape, dtype)
        kept: list[Any] = [RowCacheLayer(cursor) for _ in range(layers)]
        newest = torch.zeros(shape[0], dtype=torch.int64, device=device)
        return cls(Cache(layers=kept), cursor, offset, newest, newest.clone())

    @property
    def layers(self) -> list[RowCacheLayer]:
        """The layers of the cache."""
        return cast("list[RowCacheLayer]", self.cache.layers)

    def select(self, rows: Tensor) -> "DecodeState":
        """Return the state of some rows only, in the order given.

        Args:
            rows: int64 [B']; -1 makes an empty row, to be announced as fresh.
        """
        # What an empty row holds does not matter: it is filled before it is read.
        sources = rows.clamp_min(0)
        cursor = Cursor((len(rows), self.cursor.shape[1]), self.cursor.dtype)
        layers: list[Any] = []
        for layer in self.layers:
            kept = RowCacheLayer(cursor)
            if layer.keys is not None and layer.values is not None:
                kept.keys, kept.values = layer.keys[sources], layer.values[sources]
                kept.is_initialized = True
            layers.append(kept)
        return DecodeState(
            Cache(layers=layers),
            cursor,
            self.offset,
            self.newest[sources],
            self.position[sources],
        )

    def follow(self, attention_mask: Tensor) -> None:
        """Note which rows have grown by a token since the last call.

        Args:
            attention_mask: [B, P + T], of the observation.
        """
        rows = torch.arange(len(attention_mask), device=attention_mask.device)
        after = self.newest + 1
        inside = after < attention_mask.shape[1]
        grown = inside & attention_mask[rows, torch.where(inside, after, 0)].bool()
        self.newest, self.position = self.newest + grown, self.position + grown

    def grow_left(self, offset: int) -> None:
        """Add empty columns on the left, if a prompt is longer than any before."""
        added = self.offset - offset
        if added <= 0:
            return
        for layer in self.layers:
            if layer.keys is not None and layer.values is not None:
                layer.keys = torch.nn.functional.pad(layer.keys, (0, 0, added, 0))
                layer.values = torch.nn.functional.pad(layer.values, (0, 0, added, 0))
        rows, columns = self.cursor.shape
        self.cursor.shape, self.offset = (rows, columns + added), offset
