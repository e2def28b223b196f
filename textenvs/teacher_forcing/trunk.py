"""The trunk of a causal language model: what lies under its language-model head."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from textenvs.decoding import attention_bias
from textenvs.teacher_forcing.packing import Packing

SHORT_ROW = 256
"""Columns up to which a table of all pairs costs less than a slow kernel saves: measured at
128 (a fifth of the pass saved) and at 592 (nothing)."""


def base_model(model: Any) -> Any:
    """Return the causal language model inside a peft model, or the model itself."""
    return model.get_base_model() if "get_base_model" in dir(type(model)) else model


def trunk_of(model: Any) -> Any:
    """Return the model without its language-model head; adapters stay where they are."""
    base = base_model(model)
    return getattr(base, base.base_model_prefix)


def forward_trunk(model: Any, trunk: Any, packing: Packing, **options: Any) -> Any:
    """Run a trunk, or a whole model, over packed episodes.

    Args:
        model: Says how its attention reads masks.
        trunk: What is called.
        packing: The episodes.
        options: For the call.
    """
    mask = packing.allowed
    with _attention_for(model, trunk, packing.input_ids):
        return trunk(
            input_ids=packing.input_ids,
            attention_mask=None if mask is None else attention_bias(model, mask),
            position_ids=packing.position_ids,
            use_cache=False,
            **options,
        )


@contextmanager
def _attention_for(model: Any, trunk: Any, input_ids: Tensor) -> Iterator[None]:
    """Let short rows attend by plain matrix products where the fused kernel is the slower one.

    That is in bfloat16 on a CPU: the backward pass of the fused kernel does not use the
    processor's matrix unit. A compiled trunk keeps what it was compiled with.
    """
    config = model.config
    is_slow = input_ids.device.type == "cpu" and torch.is_autocast_enabled("cpu")
    is_short = input_ids.shape[1] <= SHORT_ROW and config._attn_implementation == "sdpa"
    if not (is_slow and is_short and isinstance(trunk, PreTrainedModel)):
        yield
        return
    config._attn_implementation = "eager"
    try:
        yield
    finally:
        config._attn_implementation = "sdpa"


def longest_shareable(model: Any) -> int | None:
    """Return the longest sequence whose prompt may be shared; None for any, 0 for none.

    Sharing needs attention that takes any mask and looks at nothing but the mask. A
    sliding window is told by columns, which differ from positions once prompts are
    shared, so a sequence must fit into the window.
    """
    config = base_model(model).config
    known = config.get_text_config(decoder=True).to_dict()
    if config._attn_implementation not in ("sdpa", "eager"):
        return 0
    kinds = {*(known.get("layer_types") or ()), *(known.get("attention_layers") or ())}
    if kinds - {"full_attention", "sliding_attention", "chunked_attention", "global"}:
        return 0
    windows = [known.get(name) for name in ("sliding_window", "attention_chunk_size")]
    return min((window for window in windows if window), default=None)


def hidden_size(model: Any) -> int:
    """Return H, the width of the last hidden state."""
    return int(model.config.get_text_config(decoder=True).hidden_size)
