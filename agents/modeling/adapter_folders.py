"""Adapters that stay adapters: a folder for peft, whose base is named and not copied.

A policy may have learned twice, by adapters over a model that had adapters before. What is
loaded is merged, so that the policy before training, its reference, is that whole model and
not the base. What is saved is one adapter over the base: with W + s1 B1 A1 + s2 B2 A2, the
rows of A1 and A2 stand below each other, the columns of s1 B1 and s2 B2 beside each other.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from agents.modeling.adapters import without_peft_warnings
from textenvs.errors import ConfigError, MissingDependencyError, ModelError, UnknownNameError
from textenvs.models import load_causal_lm, model_folder

Adapter = Literal["merge", "keep"]
"""How a model with adapters is saved: as a plain model, or as the adapters alone."""

ADAPTER_CONFIG, ADAPTER_TENSORS = "adapter_config.json", "adapter_model.safetensors"
BASE_NAME = "base_model.json"
"""The base as it was named: an alias, say, which transformers does not know."""

_PREFIX = "base_model.model."
_UNLIKE_LORA = ("use_dora", "use_rslora", "modules_to_save", "rank_pattern", "alpha_pattern")


@dataclass(frozen=True)
class LoadedAdapter:
    """What was merged into a base when it was loaded.

    Attributes:
        base: Name of the model below it.
        settings: As peft wrote them.
        tensors: As peft wrote them.
    """

    base: str
    settings: dict[str, Any]
    tensors: dict[str, Tensor]


def load_merged(name: str | Path) -> tuple[Any, LoadedAdapter | None]:
    """Return a causal language model, and the adapter in it where the name is that of one.

    Args:
        name: As in `load_causal_lm`; or a folder that `save_adapter` or peft wrote, whose
            adapter is then merged into its base.

    Raises:
        UnknownNameError: if the name leads nowhere.
        ModelError: if the folder holds no causal language model, or its base is gone.
    """
    folder = Path(name)
    if not (folder / ADAPTER_CONFIG).is_file():
        return load_causal_lm(name), None
    try:
        from peft import PeftModel
    except ImportError as error:
        install = 'pip install "textenvs[agents]"'
        raise MissingDependencyError("peft", f"the adapter {str(name)!r}", install) from error
    adapter = _read(folder)
    try:
        base = load_causal_lm(adapter.base)
    except (UnknownNameError, ModelError) as error:
        raise ModelError(
            f"{str(name)!r} is an adapter for {adapter.base!r}, which cannot be loaded: {error}; "
            f"put the model there, or write where it is into {folder / ADAPTER_CONFIG}"
        ) from error
    try:
        with without_peft_warnings():
            adapted: Any = PeftModel.from_pretrained(base, str(folder))
    except (ValueError, RuntimeError) as error:
        raise ModelError(
            f"the adapter {str(name)!r} does not fit its base {adapter.base!r}: {error}"
        ) from error
    # peft has frozen the base; merged, all of it may be trained again.
    return adapted.merge_and_unload().requires_grad_(True).eval(), adapter


def _read(folder: Path) -> LoadedAdapter:
    try:
        settings = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(folder / ADAPTER_TENSORS)
    except (ValueError, OSError) as error:
        raise ModelError(f"the adapter {str(folder)!r} cannot be read: {error}") from error
    task = settings.get("task_type")
    if task not in (None, "CAUSAL_LM"):
        raise ModelError(f"{str(folder)!r} is an adapter for {task}, not for a language model")
    base = str(settings.get("base_model_name_or_path") or "")
    if Path(base).is_absolute() and not Path(base).is_dir() and (folder / BASE_NAME).is_file():
        base = json.loads((folder / BASE_NAME).read_text(encoding="utf-8"))["base_model"]
    return LoadedAdapter(base, settings, tensors)


def check_writable(folder: Path, adapter: str, *, has_adapters: bool) -> None:
    """Refuse to write what is not there, or a model over an adapter, or the reverse.

    Args:
        folder: To be written.
        adapter: "merge" for a model, "keep" for an adapter.
        has_adapters: Whether the model has any.

    Raises:
        ConfigError: if there are none to keep, or the folder holds the other kind: a reader
            could take either.
        UnknownNameError: if it is neither of the two.
    """
    if adapter not in get_args(Adapter):
        raise UnknownNameError("way to save adapters", adapter, get_args(Adapter))
    if adapter == "keep" and not has_adapters:
        raise ConfigError('adapter="keep" needs adapters; train with lora, or use "merge"')
    other = ADAPTER_CONFIG if adapter == "merge" else "model.safetensors"
    if (folder / other).is_file():
        raise ConfigError(
            f"{str(folder)!r} holds {other}, which adapter={adapter!r} would leave beside the new "
            "files; choose another folder"
        )


def save_adapter(folder: Path, model: Any, source: str, earlier: LoadedAdapter | None) -> None:
    """Write the adapters of a model as one peft folder over the base at the bottom.

    Args:
        folder: Made already.
        model: In peft's wrapping.
        source: Where the model below the adapters came from.
        earlier: What was merged into that one.

    Raises:
        ConfigError: if the base has no name, or the earlier adapter is of another kind.
    """
    from peft import LoraConfig, get_peft_model_state_dict

    base = source if earlier is None else earlier.base
    if not base:
        raise ConfigError(
            'adapter="keep" names the base model, but this one was made in memory; save the base '
            'with save_pretrained and load the policy from there, or use adapter="merge"'
        )
    own = model.peft_config["default"]
    parts = [(get_peft_model_state_dict(model), own.lora_alpha / own.r)]
    if earlier is not None:
        parts.insert(0, (earlier.tensors, _scale(earlier.settings)))
    tensors, rank = stacked(parts)
    below = model_folder(base)
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,  # the scales are in the tensors
        target_modules=sorted({_module(name).removeprefix(_PREFIX) for name in tensors}),
        fan_in_fan_out=own.fan_in_fan_out,
        base_model_name_or_path=str(Path(below).resolve()) if Path(below).is_dir() else below,
        inference_mode=True,
        task_type="CAUSAL_LM",
    )
    config.save_pretrained(str(folder))
    save_file(tensors, folder / ADAPTER_TENSORS)
    named = json.dumps({"base_model": base}, ensure_ascii=False)
    (folder / BASE_NAME).write_text(named + "\n", encoding="utf-8")


def stacked(parts: Sequence[tuple[dict[str, Tensor], float]]) -> tuple[dict[str, Tensor], int]:
    """Return one adapter of scale 1 that changes a model as several do together.

    Args:
        parts: Tensors under peft's names, A [r, in] and B [out, r], and the scale of each.

    Returns:
        The tensors and the rank, the sum of the ranks. A layer that a part leaves alone has
        zeros in that part's place.
    """
    ranks = [next(v.shape[0] for k, v in t.items() if ".lora_A." in k) for t, _ in parts]
    result = {}
    for module in dict.fromkeys(_module(name) for tensors, _ in parts for name in tensors):
        name_a, name_b = f"{module}.lora_A.weight", f"{module}.lora_B.weight"
        known = next(tensors for tensors, _ in parts if name_a in tensors)
        rows, columns = [], []
        for (tensors, scale), rank in zip(parts, ranks, strict=True):
            empty_a = known[name_a].new_zeros(rank, known[name_a].shape[1])
            empty_b = known[name_b].new_zeros(known[name_b].shape[0], rank)
            rows.append(tensors.get(name_a, empty_a).detach().cpu().float())
            columns.append(scale * tensors.get(name_b, empty_b).detach().cpu().float())
        result[name_a] = torch.cat(rows, 0).contiguous()
        result[name_b] = torch.cat(columns, 1).contiguous()
    return result, sum(ranks)


def _scale(settings: dict[str, Any]) -> float:
    """Return alpha / r of a plain LoRA.

    Raises:
        ConfigError: if it is another kind, which cannot be stacked.
    """
    unlike = [name for name in _UNLIKE_LORA if settings.get(name)]
    if unlike or settings.get("bias", "none") != "none" or settings.get("peft_type") != "LORA":
        kind = unlike[0] if unlike else settings.get("peft_type")
        raise ConfigError(
            f"the adapter that this policy began with is no plain LoRA ({kind}), so the new one "
            'cannot be kept with it; use adapter="merge"'
        )
    return float(settings["lora_alpha"]) / float(settings["r"])


def _module(name: str) -> str:
    """Return the layer of a tensor's name.

    Raises:
        ConfigError: if the tensor is no weight of a LoRA of a linear layer.
    """
    for ending in (".lora_A.weight", ".lora_B.weight"):
        if name.endswith(ending):
            return name.removesuffix(ending)
    raise ConfigError(f'the adapter\'s tensor {name!r} cannot be kept; use adapter="merge"')
