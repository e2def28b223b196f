"""Which parts of a model train, and where activations are recomputed."""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from textenvs.decoding import num_layers
from textenvs.errors import ConfigError, ModelError
from textenvs.teacher_forcing.trunk import trunk_of


def blocks_of(trunk: nn.Module) -> nn.ModuleList:
    """Return the transformer blocks of a trunk, the lowest first.

    Raises:
        ModelError: if they cannot be told from other lists of modules.
    """
    count = num_layers(trunk)
    lists = [m for m in trunk.modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise ModelError(
            f"{type(trunk).__name__} keeps its {count} blocks in no list of modules, so they "
            "cannot be frozen or checkpointed one by one; use trainable_layers=None and "
            "gradient_checkpointing=False"
        )
    return lists[0]


def train_top_layers(model: Any, count: int) -> None:
    """Freeze all but the top blocks, what follows them, and an untied head.

    A head that is tied to the input embeddings stays frozen with them.

    Args:
        model: A causal language model.
        count: Blocks that train, from 1 to all of them.

    Raises:
        ConfigError: if there are fewer blocks.
    """
    trunk = trunk_of(model)
    blocks = blocks_of(trunk)
    if not 1 <= count <= len(blocks):
        raise ConfigError(
            f"trainable_layers must be between 1 and the model's {len(blocks)}, got {count}; "
            "None trains everything"
        )
    model.requires_grad_(False)
    blocks[-count:].requires_grad_(True)
    parent = next(m for m in trunk.modules() if any(child is blocks for child in m.children()))
    children = list(parent.children())
    after = next(i for i, child in enumerate(children) if child is blocks)
    for child in children[after + 1 :]:
        child.requires_grad_(True)
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is not embeddings.weight:
        head.requires_grad_(True)


def recompute_blocks(trunk: nn.Module) -> None:
    """Keep only the inputs of each block for the backward pass, and compute the rest again.

    Transformers does so in training mode alone, which would turn dropout on, too.
    """
    for block in blocks_of(trunk):
        block.forward = partial(_recomputed, block.forward)


def _recomputed(forward: Any, *args: Any, **kwargs: Any) -> Any:
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **kwargs)
