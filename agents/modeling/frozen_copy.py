"""A policy or a model as it is now, kept while the original goes on learning."""

import copy
from typing import TypeVar

from torch import nn

Module = TypeVar("Module", bound=nn.Module)


def frozen_copy(module: Module) -> Module:
    """Return a copy that does not learn.

    What is not trained is shared, not copied: of a model with LoRA adapters only the
    adapters stand in memory twice.
    """
    kept = [*(p for p in module.parameters() if not p.requires_grad), *module.buffers()]
    return copy.deepcopy(module, {id(tensor): tensor for tensor in kept}).requires_grad_(False)
