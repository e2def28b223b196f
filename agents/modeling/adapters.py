"""Low-rank adapters on a language model."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch

from agents.config import LoRAConfig
from textenvs.errors import ModelError


@contextmanager
def without_peft_warnings() -> Iterator[None]:
    """Silence what no user can mend: peft 0.21 reads a name that transformers 5 renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield


def with_adapters(model: Any, lora: LoRAConfig, *, task_type: str = "CAUSAL_LM") -> Any:
    """Return a model in peft's wrapping, with fresh adapters that alone are trained.

    Args:
        model: A Hugging Face model, changed in place.
        lora: Settings.
        task_type: What the model does, as peft names it; under "SEQ_CLS" the head of a
            classifier is trained whole.

    Raises:
        ModelError: if the model has no layer that can be adapted.
    """
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    adapters = LoraConfig(
        r=lora.r,
        lora_alpha=cast(Any, lora.alpha),  # annotated int, used as a float
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        task_type=cast(Any, task_type),  # a name of peft's enumeration
    )
    try:
        # peft draws from torch's global generator; the adapters begin the same every time.
        with torch.random.fork_rng(devices=[]), without_peft_warnings():
            torch.default_generator.manual_seed(0)
            return get_peft_model(model, adapters)
    except ValueError as error:
        raise ModelError(f"this model cannot be given LoRA adapters: {error}") from error
