"""The model a reward model begins as: any causal model or encoder under a fresh head."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from agents.config import LoRAConfig
from agents.modeling.adapters import with_adapters
from textenvs.errors import ModelError
from textenvs.models import ALIASES, model_folder
from textenvs.rewards.learned.classifier import CLASSIFIER, LoadedClassifier, longest_text
from textenvs.rewards.learned.similarity import MINILM, encoder_folder
from textenvs.tokenization import unknown_model

REWARD_LABEL = "reward"


def begin_reward_model(
    name: str | Path,
    *,
    seed: int = 0,
    lora: LoRAConfig | None = None,
    device: str = "cpu",
) -> LoadedClassifier:
    """Return a classifier with one label, ready to be trained, dropout off.

    A causal language model or an encoder gets a head drawn from N(0, 1 / (d + 1)), that is
    with the standard deviation 1 / sqrt(d + 1), and bias 0 (Stiennon et al.,
    arXiv:2009.01325; lm-human-preferences). A reward model keeps its own and goes on.

    Args:
        name: "tiny-lm", "smollm2-135m", "minilm", a Hugging Face folder, a hub name.
        seed: Draws the head, and whatever else the checkpoint lacks.
        lora: Train low-rank adapters and the head alone; None trains everything.
        device: "cpu", "cuda", ...

    Raises:
        UnknownNameError: if the name leads nowhere.
        ModelError: if there is no such model, or none that can be given one label.
    """
    from transformers import AutoTokenizer

    folder = encoder_folder(MINILM) if str(name) == MINILM else model_folder(name)
    config = _checked_config(folder, str(name))
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, truncation_side="left", trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise ModelError(
            f"the tokenizer of {str(name)!r} cannot be read: {error}; save it beside the model"
        ) from error
    model = _with_one_label(folder, config, tokenizer, seed)
    if lora is not None:
        model = with_adapters(model, lora, task_type="SEQ_CLS")
    longest = min(tokenizer.model_max_length, longest_text(model.config))
    pad_id = model.config.get_text_config().pad_token_id
    return LoadedClassifier(model.eval().to(device), tokenizer, pad_id, longest)


def is_reward_model(config: Any) -> bool:
    """Return whether a configuration is of a sequence classifier with one label."""
    architecture = (config.architectures or [""])[0]
    return bool(architecture.endswith(CLASSIFIER) and config.num_labels == 1)


def _checked_config(folder: str, name: str) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except OSError as error:
        if Path(folder).is_dir():
            raise ModelError(f"the model {name!r} cannot be read: {error}") from error
        raise unknown_model(name, (*ALIASES, MINILM)) from error
    except ValueError as error:
        raise ModelError(f"{name!r} holds no model that is known: {error}") from error
    architecture = (config.architectures or ["?"])[0]
    if config.is_encoder_decoder:
        raise ModelError(
            f"{name!r} holds a {architecture}, an encoder with a decoder; a reward model is made "
            "of a causal language model or of an encoder"
        )
    if architecture.endswith(CLASSIFIER) and config.num_labels != 1:
        raise ModelError(
            f"{name!r} is a classifier with {config.num_labels} labels, and a reward model has "
            "one; begin from the model it was made of"
        )
    return config


def _with_one_label(folder: str, config: Any, tokenizer: Any, seed: int) -> Any:
    """Return the model in float32, its head drawn unless it has been trained."""
    from transformers import AutoModelForSequenceClassification

    continued = is_reward_model(config)
    config.num_labels, config.id2label = 1, {0: REWARD_LABEL}
    config.label2id = {REWARD_LABEL: 0}
    text = config.get_text_config()
    if text.pad_token_id is None:
        # A decoder finds the last token of a row by its padding; none that pads ends a text.
        known = (tokenizer.pad_token_id, tokenizer.eos_token_id)
        text.pad_token_id = next((token for token in known if token is not None), None)
    try:
        # What a checkpoint lacks is drawn from the global generator.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            model, report = AutoModelForSequenceClassification.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
            )
    except OSError as error:
        raise ModelError(
            f"the weights of {folder!r} cannot be read: {error}; only .safetensors are"
        ) from error
    except ValueError as error:
        raise ModelError(
            f"{folder!r} holds a {config.model_type}, of which transformers knows no sequence "
            "classifier; choose another model"
        ) from error
    heads = [part for _, part in model.named_children() if part is not model.base_model]
    _check_trunk(folder, model, report["missing_keys"])
    if not continued:
        _draw_heads(heads, seed)
    return model


def _check_trunk(folder: str, model: Any, missing: Any) -> None:
    """Refuse weights that leave part of the trunk, its pooler aside, to chance."""
    prefix = f"{model.base_model_prefix}."
    lost = sorted(k for k in missing if k.startswith(prefix) and ".pooler." not in f".{k}")
    if lost:
        raise ModelError(
            f"{folder!r} has no weights for {lost[0]} and {len(lost) - 1} others, so it is not "
            f"the model its config.json tells of; save it again with save_pretrained"
        )


def _draw_heads(heads: list[nn.Module], seed: int) -> None:
    """Draw the layers that give the score, of N(0, 1 / (d + 1)) for d inputs."""
    generator = torch.Generator().manual_seed(seed)
    for head in heads:
        for layer in head.modules():
            if isinstance(layer, nn.Linear) and layer.out_features == 1:
                deviation = (layer.in_features + 1) ** -0.5
                nn.init.normal_(layer.weight, std=deviation, generator=generator)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
