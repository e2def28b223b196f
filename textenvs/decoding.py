"""Cached decoding of a causal language model over a text environment's observations.

A cache column is an observation column, and every row has its own newest column, so
rows may begin, end and be reset independently of each other: what a vector environment
does in any of its autoreset modes.
"""

import inspect
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from textenvs.errors import ModelError


class Cursor:
    """Where the current forward pass writes: set by the decoder, read by every layer."""

    rows: Tensor
    start: int
    columns: Tensor | None
    width: int
    shape: tuple[int, int]


class RowCacheLayer(CacheLayerMixin):
    """Keys and values [B, heads, columns, size], written at each row's own column."""

    is_sliding = False

    def __init__(self, cursor: Cursor) -> None:
        """Share the decoder's cursor."""
        super().__init__()
        self.cursor = cursor

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate all columns at once, in the type the model computes in."""
        rows, columns = self.cursor.shape
        for name, states in (("keys", key_states), ("values", value_states)):
            shape = (rows, states.shape[1], columns, states.shape[3])
            setattr(self, name, states.new_zeros(shape))
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write the new states; return what the new queries may look at."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        cursor = self.cursor
        if cursor.columns is None:  # prefill: nothing earlier is cached for these rows
            stop = cursor.start + key_states.shape[2]
            self.keys[cursor.rows, :, cursor.start : stop] = key_states
            self.values[cursor.rows, :, cursor.start : stop] = value_states
            return key_states, value_states
        self.keys[cursor.rows, :, cursor.columns] = key_states[:, :, 0]
        self.values[cursor.rows, :, cursor.columns] = value_states[:, :, 0]
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
    """The cache of B rows; opaque to callers, passed from call to call."""

    cache: Cache
    cursor: Cursor
    offset: int
    """First observation column that is cached."""

    @property
    def layers(self) -> list["RowCacheLayer"]:
        """The layers of the cache, all of our own kind."""
        return cast("list[RowCacheLayer]", self.cache.layers)

    def select(self, rows: Tensor) -> "DecodeState":
        """Return the state of some rows only, in the order given."""
        cursor = Cursor()
        cursor.shape = (len(rows), self.cursor.shape[1])
        layers: list[Any] = []
        for layer in self.layers:
            kept = RowCacheLayer(cursor)
            if layer.keys is not None and layer.values is not None:
                kept.keys, kept.values = layer.keys[rows], layer.values[rows]
                kept.is_initialized = True
            layers.append(kept)
        return DecodeState(Cache(layers=layers), cursor, self.offset)

    def grow_left(self, offset: int) -> None:
        """Add empty columns on the left, for a prompt longer than any before."""
        added = self.offset - offset
        for layer in self.layers:
            if layer.keys is not None and layer.values is not None:
                layer.keys = torch.nn.functional.pad(layer.keys, (0, 0, added, 0))
                layer.values = torch.nn.functional.pad(layer.values, (0, 0, added, 0))
        rows, columns = self.cursor.shape
        self.cursor.shape, self.offset = (rows, columns + added), offset


class NextToken(NamedTuple):
    """What the model says of the next token of each row.

    Attributes:
        logits: float32 [B, V].
        state: Pass it to the next call.
    """

    logits: Tensor
    state: DecodeState


class CachedDecoder:
    """Next-token logits for observations, with one cached forward a call."""

    def __init__(self, model: Any, *, vocab_size: int, bfloat16: bool = False) -> None:
        """Bind a model to an environment's vocabulary.

        Args:
            model: A Hugging Face causal language model, or a peft model of one.
            vocab_size: V of the environment; logits beyond it are cut off.
            bfloat16: Compute under autocast.

        Raises:
            ModelError: if the model cannot be given positions, or knows fewer tokens.
        """
        check_model(model, vocab_size)
        self.model, self.vocab_size = model, vocab_size
        self.bfloat16 = bfloat16

    @torch.no_grad()
    def next_token(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        state: DecodeState | None = None,
        fresh: Tensor | None = None,
    ) -> NextToken:
        """Return the logits of the token after each row's newest one.

        Args:
            input_ids: int64 [B, P + T], an observation.
            attention_mask: [B, P + T].
            state: Of the call before; None starts anew.
            fresh: bool [B], rows whose episode has just begun, so that the cache knows
                nothing of them; every other row has grown by exactly one token.
        """
        mask = attention_mask.bool()
        newest = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
        if state is None:
            state = self._new_state(mask)
            fresh = torch.ones(len(mask), dtype=torch.bool, device=mask.device)
        with autocast(self.bfloat16, mask.device):
            logits = None
            if fresh is not None and bool(fresh.any()):
                rows = fresh.nonzero()[:, 0]
                logits = self._prefill(input_ids, mask, newest, rows, state)
                if len(rows) == len(mask):
                    return NextToken(logits, state)
            # A fresh row decodes its newest token once more, with the same result.
            return NextToken(self._decode(input_ids, mask, newest, state), state)

    def _new_state(self, mask: Tensor) -> DecodeState:
        offset = int(mask.int().argmax(1).min())
        cursor = Cursor()
        cursor.shape = (len(mask), mask.shape[1] - offset)
        layers: list[Any] = [RowCacheLayer(cursor) for _ in range(num_layers(self.model))]
        return DecodeState(Cache(layers=layers), cursor, offset)

    def _prefill(
        self, input_ids: Tensor, mask: Tensor, newest: Tensor, rows: Tensor, state: DecodeState
    ) -> Tensor:
        """Fill the cache of `rows` with all their tokens; return their next logits."""
        first = int(mask[rows].int().argmax(1).min())
        if first < state.offset:
            state.grow_left(first)
        stop = int(newest[rows].max()) + 1
        ids, keys = input_ids[rows, first:stop], mask[rows, first:stop]
        cursor = state.cursor
        cursor.rows, cursor.start, cursor.columns = rows, first - state.offset, None
        length = stop - first
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        # A padding query may look at itself: a softmax over nothing would be NaN, and
        # NaN keys would spread to every later token.
        itself = torch.eye(length, dtype=torch.bool, device=ids.device)
        allowed = (causal & keys[:, None, None, :]) | itself
        kept = stop - int(newest[rows].min())
        logits = self._forward(ids, allowed, positions(keys), state, kept)
        return logits[torch.arange(len(rows), device=ids.device), newest[rows] - stop + kept]

    def _decode(
        self, input_ids: Tensor, mask: Tensor, newest: Tensor, state: DecodeState
    ) -> Tensor:
        rows = torch.arange(len(mask), device=mask.device)
        width = int(newest.max()) + 1 - state.offset
        cursor = state.cursor
        cursor.rows, cursor.columns, cursor.width = rows, newest - state.offset, width
        allowed = mask[:, None, None, state.offset : state.offset + width]
        position = mask.sum(1, keepdim=True) - 1
        return self._forward(input_ids[rows, newest][:, None], allowed, position, state, 1)[:, -1]

    def _forward(
        self, ids: Tensor, allowed: Tensor, position: Tensor, state: DecodeState, kept: int
    ) -> Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=attention_bias(self.model, allowed),
            position_ids=position,
            past_key_values=state.cache,
            use_cache=True,
            logits_to_keep=kept,
        )
        return output.logits[..., : self.vocab_size].float()


def positions(mask: Tensor) -> Tensor:
    """Return int64 [B, L]: each token's position, counted from the first real token."""
    return (mask.long().cumsum(-1) - 1).clamp_min(0)


def attention_bias(model: Any, allowed: Tensor) -> Tensor:
    """Return a [B, 1, L, K] mask in the form the model's attention reads."""
    if model.config._attn_implementation != "eager":
        return allowed
    dtype = next(model.parameters()).dtype
    return torch.where(allowed, 0.0, torch.finfo(dtype).min).to(dtype)


def num_layers(model: Any) -> int:
    """Return the number of layers that keep keys and values."""
    return int(model.config.get_text_config(decoder=True).num_hidden_layers)


def autocast(bfloat16: bool, device: torch.device) -> AbstractContextManager[Any]:
    """Return a bfloat16 autocast, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if bfloat16 else nullcontext()


def check_model(model: Any, vocab_size: int) -> None:
    """Refuse a model that cannot act in the environment.

    Raises:
        ModelError: if it cannot be given positions, or knows fewer tokens than needed.
    """
    is_peft = "get_base_model" in dir(type(model))
    base = model.get_base_model() if is_peft else model
    if "position_ids" not in inspect.signature(base.forward).parameters:
        raise ModelError(
            f"{type(base).__name__} takes no position_ids, which left-padded prompts need; "
            "use a model with rotary or learned positions (Llama, Qwen, GPT-2, ...)"
        )
    known = int(model.get_output_embeddings().weight.shape[0])
    if known < vocab_size:
        raise ModelError(
            f"the model knows {known} tokens, but the environment's tokenizer has {vocab_size}; "
            "give the environment the model's own tokenizer (tokenizer=MODEL)"
        )
