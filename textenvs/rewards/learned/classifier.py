"""Sequence classifiers by path, loaded once per process, and what they say of a text."""

import copy
import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from textenvs.errors import ConfigError, ModelError, UnknownNameError
from textenvs.rewards.learned.batches import NO_LIMIT, Batching

if TYPE_CHECKING:
    from torch import Tensor

CLASSIFIER = "ForSequenceClassification"
MULTI_LABEL = "multi_label_classification"
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json")
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "longformer")


@dataclass(frozen=True)
class LoadedClassifier:
    """A sequence classifier in evaluation mode, with its tokenizer.

    Attributes:
        model: On its device.
        tokenizer: As saved beside the model.
        pad_id: The padding the model was saved with, by which a decoder finds the last token
            of a row; None where it was saved without.
        longest: The most tokens it reads.
    """

    model: Any
    tokenizer: Any
    pad_id: int | None
    longest: int

    def encode(
        self, texts: Sequence[str], max_tokens: int, *, special: bool
    ) -> tuple[list[list[int]], int]:
        """Return the ids of each text, cut on the left, and how many texts were cut.

        Args:
            texts: What the model is to read.
            max_tokens: The most ids of a text; the model's own limit where that is less.
            special: Whether the tokenizer adds its special tokens, which are never cut.
        """
        limit = min(max_tokens, self.longest)
        options = {"add_special_tokens": special, "verbose": False}
        rows = self.tokenizer(list(texts), **options)["input_ids"]
        cut = [i for i, row in enumerate(rows) if len(row) > limit]
        if cut:
            long = [texts[i] for i in cut]
            kept = self.tokenizer(long, truncation=True, max_length=limit, **options)["input_ids"]
            for i, row in zip(cut, kept, strict=True):
                rows[i] = row
        # A model cannot read nothing.
        return [row or [self.pad_id or 0] for row in rows], len(cut)

    def log_odds(self, rows: Sequence[Sequence[int]], label: int, batching: Batching) -> np.ndarray:
        """Return float64 [B]: the logit of a lone label, the log-odds of one among several.

        Args:
            rows: Ids of each text.
            label: Which column.
            batching: How rows are brought together.
        """

        def forward(ids: "Tensor", mask: "Tensor") -> "Tensor":
            logits = self.logits(ids, mask)
            picked = logits[:, label]
            if logits.shape[1] > 1 and self.model.config.problem_type != MULTI_LABEL:
                others = [i for i in range(logits.shape[1]) if i != label]
                picked = picked - logits[:, others].logsumexp(-1)
            return picked

        return batching.outputs(rows, forward)

    def logits(self, ids: "Tensor", mask: "Tensor") -> "Tensor":
        """Return float32 [N, labels] of rows padded on the right, with gradients if any.

        Args:
            ids: int64 [N, T]; what stands in the padding makes no difference.
            mask: [N, T], 1 where there is a token.
        """
        pad_id = self._padding(ids, mask)
        ids = ids.masked_fill(mask == 0, pad_id)
        self.model.config.get_text_config().pad_token_id = pad_id
        return self.model(input_ids=ids, attention_mask=mask).logits.float()

    def _padding(self, ids: "Tensor", mask: "Tensor") -> int:
        """Return an id to pad with.

        A decoder scores the last token that is not this one. Of a model saved without, that
        is the last token of the text whatever it is, EOS included, so that none of those may
        be taken.
        """
        if self.pad_id is not None:
            return self.pad_id
        last = set(ids.gather(1, mask.sum(1, keepdim=True) - 1)[:, 0].tolist())
        return next(i for i in itertools.count() if i not in last)


@lru_cache(maxsize=16)  # an ensemble of more would load its models anew for every batch
def shared_classifier(path: str, device: str, bfloat16: bool) -> LoadedClassifier:
    """Return a frozen classifier that all users of the process share.

    Args:
        path: A folder, or a hub name.
        device: "cpu", "cuda", ...
        bfloat16: Hold and compute all but the head in bfloat16. The head stays in float32:
            a score in bfloat16 has three digits, and many answers would tie.

    Raises:
        UnknownNameError: if a hub name leads nowhere.
        ModelError: if the weights are absent, unreadable, or not a classifier's.
    """
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from textenvs.tokenization import unknown_model

    options: dict[str, Any] = {"trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, truncation_side="left", **options)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            path,
            use_safetensors=True,
            output_loading_info=True,
            dtype=torch.bfloat16 if bfloat16 else torch.float32,
            **options,
        )
    except OSError as error:
        if Path(path).is_dir():
            raise ModelError(f"the reward model {path!r} cannot be read: {error}") from error
        raise unknown_model(path, ()) from error
    except ValueError as error:
        raise ModelError(f"{path!r} is no sequence classifier: {error}") from error
    if report["missing_keys"]:
        raise ModelError(
            f"{path!r} is no sequence classifier: it has no weights for "
            f"{sorted(report['missing_keys'])}; train it as one first"
        )
    if bfloat16:
        for name, head in list(model.named_children()):
            if head is not model.base_model:
                setattr(model, name, in_float32(head))
    model.eval().requires_grad_(False).to(device)
    longest = min(tokenizer.model_max_length, longest_text(model.config))
    return LoadedClassifier(model, tokenizer, model.config.get_text_config().pad_token_id, longest)


def in_float32(head: Any) -> Any:
    """Return a copy of the last layers of a model that computes in float32 whatever it is fed."""
    head = copy.deepcopy(head).float()
    head.register_forward_pre_hook(_inputs_in_float32)
    return head


def _inputs_in_float32(module: Any, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple(value.float() for value in inputs)


def longest_text(config: Any) -> int:
    """Return how many tokens a model can read at most."""
    text = config.get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if positions is None:
        return NO_LIMIT
    # RoBERTa and its kin number positions from behind the padding id.
    offset = text.pad_token_id + 1 if text.model_type in OFFSET_POSITIONS else 0
    return int(positions) - offset


def label_index(id2label: Mapping[Any, str], label: str | None, path: str) -> int:
    """Return the column of a label.

    Raises:
        ConfigError: if no label is named and there are several.
        UnknownNameError: if there is no such label.
    """
    labels = {str(text): int(i) for i, text in id2label.items()}
    if label is None and len(labels) > 1:
        raise ConfigError(
            f"the classifier {path!r} has the labels {sorted(labels)}; name the one to reward "
            "with label="
        )
    if label is None:
        return 0
    if label not in labels:
        raise UnknownNameError(f"label of {path!r}", label, labels)
    return labels[label]


def check_path(path: str, label: str | None) -> None:
    """Refuse what can be told to be no classifier from its folder; a hub name passes.

    Raises:
        ModelError: if the folder is absent or holds no sequence classifier.
        ConfigError: if no label is named and there are several.
        UnknownNameError: if the label is none of the model's.
    """
    folder = Path(path)
    if not folder.is_dir():
        if folder.is_absolute() or path.startswith(".") or folder.parent.parent.name:
            raise ModelError(f"there is no folder {path!r} with a reward model")
        return
    config_path = folder / "config.json"
    if not config_path.is_file():
        raise ModelError(
            f"the folder {path!r} holds no config.json, so it is no Hugging Face model; name a "
            "folder written by save_pretrained"
        )
    config = json.loads(config_path.read_text(encoding="utf-8"))
    architectures = config.get("architectures") or []
    if architectures and not any(name.endswith(CLASSIFIER) for name in architectures):
        raise ModelError(
            f"{path!r} holds a {architectures[0]}, which is no sequence classifier; a reward "
            f"model is an architecture whose name ends in {CLASSIFIER}"
        )
    if not any(file for pattern in WEIGHT_FILES for file in folder.glob(pattern)):
        raise ModelError(
            f"the folder {path!r} holds no .safetensors weights; other kinds are not read, as "
            "they can run code; save the model again with save_pretrained"
        )
    if "id2label" in config:
        label_index(config["id2label"], label, path)
