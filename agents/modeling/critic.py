"""The critic's files: its own format, and a reward model to begin from."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from textenvs.errors import ModelError, TextEnvsError
from textenvs.tokenization import TextTokenizer, load_tokenizer

TRUNK, HEAD = "critic_trunk.", "value_head."


def trunk_only(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return a critic's tensors without the language-model head that old files hold.

    Args:
        tensors: Of a critic's file.
        prefix: What a whole model calls its trunk ("model", "transformer", ...).
    """
    whole = f"{TRUNK}{prefix}."
    if not any(name.startswith(whole) for name in tensors):
        return tensors
    trunk = {TRUNK + k.removeprefix(whole): v for k, v in tensors.items() if k.startswith(whole)}
    return trunk | {k: v for k, v in tensors.items() if not k.startswith(TRUNK)}


@torch.no_grad()
def begin_from_reward_model(
    folder: str | Path, trunk: Any, value_head: nn.Linear, tokenizer: TextTokenizer | None
) -> None:
    """Give a critic the weights of a reward model (N+, arXiv:2403.17031, section 3).

    Args:
        folder: Of a saved `AutoModelForSequenceClassification` with one label.
        trunk: The critic's, of the same architecture and size.
        value_head: Takes the reward model's `score` and no bias.
        tokenizer: The policy's, whose tokens the reward model must read alike.

    Raises:
        ModelError: if it is no such folder, or another kind of model.
    """
    model = _load_reward_model(folder)
    kind, own = model.config.model_type, trunk.config.model_type
    if kind != own:
        raise ModelError(
            f"critic_from={str(folder)!r} holds a model of the kind {kind!r}, but the policy is "
            f"{own!r}; train a reward model from the policy's own base"
        )
    _check_tokens(folder, tokenizer)
    weights = getattr(model, model.base_model_prefix).state_dict()
    wanted = trunk.state_dict()
    wrong = [k for k in wanted if k not in weights or weights[k].shape != wanted[k].shape]
    if wrong or weights.keys() != wanted.keys():
        name = wrong[0] if wrong else next(iter(weights.keys() - wanted.keys()))
        shapes = [tuple(part[name].shape) if name in part else None for part in (weights, wanted)]
        raise ModelError(
            f"critic_from={str(folder)!r} does not fit the policy: {name} has the shape "
            f"{shapes[0]}, where {shapes[1]} is needed; train a reward model from the policy's "
            "own base"
        )
    trunk.load_state_dict(weights)
    value_head.weight.copy_(model.score.weight)
    nn.init.zeros_(value_head.bias)


def _load_reward_model(folder: str | Path) -> Any:
    from transformers import AutoConfig, AutoModelForSequenceClassification

    remedy = (
        "name a folder that AutoModelForSequenceClassification.save_pretrained wrote, with "
        "num_labels=1 and a causal trunk"
    )
    try:
        config = AutoConfig.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelError(f"critic_from={str(folder)!r} holds no model; {remedy}") from error
    architecture = (config.architectures or ["?"])[0]
    if not architecture.endswith("ForSequenceClassification") or config.num_labels != 1:
        raise ModelError(
            f"critic_from={str(folder)!r} holds a {architecture} with {config.num_labels} labels, "
            f"which is no reward model; {remedy}"
        )
    try:
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ModelError(f"critic_from={str(folder)!r} cannot be read: {error}") from error
    if "score.weight" not in model.state_dict():
        raise ModelError(f"critic_from={str(folder)!r} has no layer named score; {remedy}")
    return model


def _check_tokens(folder: str | Path, tokenizer: TextTokenizer | None) -> None:
    """Refuse a reward model that reads other tokens, where both tokenizers are at hand."""
    try:
        other = load_tokenizer(folder)
    except TextEnvsError:
        return
    if tokenizer is None:
        return
    sampled = range(0, tokenizer.vocab_size, max(1, tokenizer.vocab_size // 512))
    alike = other.vocab_size == tokenizer.vocab_size and all(
        other.decode([token]) == tokenizer.decode([token]) for token in sampled
    )
    if not alike:
        raise ModelError(
            f"critic_from={str(folder)!r} has another tokenizer than the policy, so its scores "
            "are of other texts; train a reward model from the policy's own base"
        )
