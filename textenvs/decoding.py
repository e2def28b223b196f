"""Cached decoding of a causal language model over a text environment's observations."""

import inspect
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor

from textenvs.errors import ModelError
from textenvs.row_cache import DecodeState

PREFILL_TOKENS = {"cpu": 1536}
"""Tokens that one prefill pass holds: on a CPU, what stays in its cache."""
PREFILL_TOKENS_ELSEWHERE = 65_536


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

        Fresh rows with the same tokens are computed once, and what is cached of them is
        copied to each.

        Args:
            input_ids: int64 [B, P + T], an observation.
            attention_mask: [B, P + T].
            state: Of the call before, changed in place; None starts anew.
            fresh: bool [B], rows whose episode has just begun, so that the cache knows
                nothing of them; every other row has grown by at most one token.
        """
        rows = torch.arange(len(input_ids), device=input_ids.device)
        begun = rows if state is None else rows[:0]
        if state is None:
            state = self._new_state(attention_mask)
        else:
            state.follow(attention_mask)
            if fresh is not None:
                begun = fresh.nonzero()[:, 0]
        with autocast(self.bfloat16, input_ids.device):
            if len(begun):
                logits = self._prefill(input_ids[begun], attention_mask[begun].bool(), begun, state)
                if len(begun) == len(rows):
                    return NextToken(logits, state)
            # A fresh row decodes its newest token once more, with the same result.
            return NextToken(self._decode(input_ids, attention_mask, rows, state), state)

    def _new_state(self, attention_mask: Tensor) -> DecodeState:
        rows, columns = attention_mask.shape
        offset = int(attention_mask.bool().int().argmax(1).min())
        return DecodeState.empty(
            (rows, columns - offset),
            offset,
            layers=num_layers(self.model),
            # Attention would round them at every step, were they kept in float32.
            dtype=torch.bfloat16 if self.bfloat16 else None,
            device=attention_mask.device,
        )

    def _prefill(self, ids: Tensor, mask: Tensor, rows: Tensor, state: DecodeState) -> Tensor:
        """Fill the cache of `rows` with all their tokens; return their next logits, [n, V].

        Args:
            ids: int64 [n, P + T].
            mask: bool [n, P + T].
            rows: int64 [n].
            state: Changed in place.
        """
        first = mask.int().argmax(1)
        newest = mask.shape[1] - 1 - mask.flip(1).int().argmax(1)
        state.newest[rows], state.position[rows] = newest, mask.sum(1) - 1
        state.grow_left(int(first.min()))
        distinct, copies = distinct_rows(ids, mask)
        # The longest come first, so that a pass holds few columns of padding.
        by_length = first[distinct].argsort(stable=True)
        distinct, copies = distinct[by_length], by_length.argsort()[copies]
        budget = PREFILL_TOKENS.get(ids.device.type, PREFILL_TOKENS_ELSEWHERE)
        said, done = [], 0
        while done < len(distinct):
            begin = int(first[distinct[done]])
            part = distinct[done : done + max(1, budget // (int(newest.max()) + 1 - begin))]
            stop = int(newest[part].max()) + 1
            members = ((copies >= done) & (copies < done + len(part))).nonzero()[:, 0]
            members = members[copies[members].argsort(stable=True)]
            state.cursor.aim_prefill(rows[members], copies[members] - done, begin - state.offset)
            kept = stop - int(newest[part].min())
            logits = self._forward_prompts(
                ids[part, begin:stop], mask[part, begin:stop], kept, state
            )
            said.append(
                logits[torch.arange(len(part), device=ids.device), newest[part] - stop + kept]
            )
            done += len(part)
        return torch.cat(said)[copies]

    def _forward_prompts(self, ids: Tensor, keys: Tensor, kept: int, state: DecodeState) -> Tensor:
        length = ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        # A padding query may look at itself: a softmax over nothing would be NaN, and
        # NaN keys would spread to every later token.
        itself = torch.eye(length, dtype=torch.bool, device=ids.device)
        allowed = (causal & keys[:, None, None, :]) | itself
        return self._forward(ids, allowed, positions(keys), state, kept)

    def _decode(
        self, input_ids: Tensor, attention_mask: Tensor, rows: Tensor, state: DecodeState
    ) -> Tensor:
        width = int(state.newest.max()) + 1 - state.offset
        state.cursor.aim_decode(rows, state.newest - state.offset, width)
        keys = attention_mask[:, None, None, state.offset : state.offset + width].bool()
        tokens = input_ids[rows, state.newest]
        return self._forward(tokens[:, None], keys, state.position[:, None], state, 1)[:, -1]

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


def distinct_rows(ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Find the rows that hold the same tokens in the same columns.

    Args:
        ids: int64 [n, C].
        mask: bool [n, C], the columns that count.

    Returns:
        The first row of each kind, int64 [U], and the kind of each row, int64 [n].
    """
    _, kinds = torch.where(mask, ids, -1).unique(dim=0, return_inverse=True)
    numbers = torch.arange(len(ids), device=ids.device)
    firsts = numbers.new_full((int(kinds.max()) + 1,), len(ids))
    return firsts.scatter_reduce_(0, kinds, numbers, "amin"), kinds


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


def kept_casts(bfloat16: bool, device: torch.device) -> AbstractContextManager[Any]:
    """Return a context in which a model's weights are cast to bfloat16 once, not at every pass.

    autocast forgets its casts when the outermost context is left. This is an outer context
    in which autocast is off, so whatever else runs inside computes as it would without.
    Weights must not change inside; frozen ones (below LoRA adapters) are still cast anew.
    """
    return torch.autocast(device.type, enabled=False) if bfloat16 else nullcontext()


def check_model(model: Any, vocab_size: int) -> None:
    """Refuse a model that cannot act in the environment.

    Raises:
        ModelError: if it cannot be given positions, or knows fewer tokens than needed.
    """
    unwrapped = getattr(type(model), "get_base_model", None)  # a peft model has it
    base = model if unwrapped is None else unwrapped(model)
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
