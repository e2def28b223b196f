"""`RewardModel`: any Hugging Face sequence classifier as a reward.

A classifier with one label is a reward model in the sense of InstructGPT (Ouyang et al.,
arXiv:2203.02155, section 3.5): a scalar for a prompt with its answer. One with several
labels rewards one of them by name.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from textenvs.errors import ConfigError, ModelError, UnknownNameError
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.rewards.batches import (
    batches_by_length,
    checked_count,
    encodable,
    padded,
    require_models,
)
from textenvs.types import Episode

Sample = Episode | tuple[str, str]
"""An episode, or the texts of a prompt and its answer."""

MAX_TOKENS, BATCH_TOKENS = 512, 16_384
CLASSIFIER = "ForSequenceClassification"
NO_LIMIT = 1 << 30
MULTI_LABEL = "multi_label_classification"
WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json")


class RewardModel(BaseReward):
    """The output of a sequence classifier for the prompt with the answer.

    The score is the logit of a classifier with one label, and of one with several the
    log-odds of the named label, log p - log(1 - p); then less `mean`, over `std`, which are
    0 and 1 until `fit` sets them. The model is loaded when first needed and once per
    process, with its own tokenizer, from safetensors only, and no code of its folder is run.

    A text that is too long loses tokens on its left, so that the answer is kept.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        label: str | None = None,
        max_tokens: int = MAX_TOKENS,
        batch_tokens: int = BATCH_TOKENS,
        bfloat16: bool | None = None,
        template: str = "{prompt}{completion}",
        normalise: Sequence[Sample] | None = None,
        device: str = "cpu",
        name: str = "reward_model",
    ) -> None:
        """Check the options; load nothing unless `normalise` is given.

        Args:
            path: A folder written by `save_pretrained`, or a hub name.
            label: Which of several labels to reward.
            max_tokens: The longest text in tokens; the model's own limit where that is less.
            batch_tokens: The most tokens of one forward pass, padding included.
            bfloat16: Compute under autocast; None does so where the processor is fast at it.
                Scores then depend a little (about 0.01) on what else is in the batch.
            template: What the model reads, with the fields {prompt} and {completion}.
            normalise: Samples to call `fit` with.
            device: "cpu", "cuda", ...
            name: Of the reward and its term.

        Raises:
            ConfigError: if an option is out of range.
            ModelError: if the folder is absent or holds no sequence classifier.
            UnknownNameError: if the label is none of the model's.
            MissingDependencyError: if torch or transformers is absent.
        """
        require_models("a reward model")
        if "{completion}" not in template:
            raise ConfigError(f"template must hold the field {{completion}}, got {template!r}")
        self.path, self.label, self.name = str(path), label, name
        self.template, self.bfloat16, self.device = template, bfloat16, device
        self.max_tokens = checked_count("max_tokens", max_tokens, MAX_TOKENS)
        self.batch_tokens = checked_count("batch_tokens", batch_tokens, BATCH_TOKENS)
        self.mean, self.std = 0.0, 1.0
        _check_path(self.path, label)
        if normalise is not None:
            self.fit(normalise)

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        scores = (self.raw_scores(episodes) - self.mean) / self.std
        return RewardResult.from_scores(self.name, scores)

    def fit(self, samples: Sequence[Sample]) -> None:
        """Set `mean` and `std` so that the scores of these samples have mean 0 and variance 1.

        Raises:
            ConfigError: if there are fewer than two, or all get the same score.
        """
        raw = self.raw_scores(samples)
        spread = float(raw.std()) if len(raw) > 1 else 0.0
        if not spread > 0:
            raise ConfigError(
                f"normalising needs at least two samples with different scores, got {len(raw)} "
                f"with standard deviation {spread:g}"
            )
        self.mean, self.std = float(raw.mean()), spread

    def raw_scores(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return float64 [B], the model's own output for each sample."""
        if not samples:
            return np.zeros(0, np.float64)
        loaded = shared_classifier(self.path, self.device)
        encoded = loaded.encode([self._text(sample) for sample in samples], self.max_tokens)
        label = label_index(loaded.model.config.id2label, self.label, self.path)
        scores = np.zeros(len(samples), np.float64)
        for rows in batches_by_length([len(ids) for ids in encoded], self.batch_tokens):
            scores[rows] = loaded.outputs([encoded[i] for i in rows], label, self.bfloat16)
        return scores

    def _text(self, sample: Sample) -> str:
        prompt, completion = (
            (sample.prompt.text, sample.completion) if isinstance(sample, Episode) else sample
        )
        fields = {"{prompt}": prompt, "{completion}": completion}
        # In one pass, so that braces in a prompt stay what they are.
        text = re.sub(r"\{prompt\}|\{completion\}", lambda m: fields[m[0]], self.template)
        return encodable(text)


@dataclass(frozen=True)
class LoadedClassifier:
    """A sequence classifier in evaluation mode, with its tokenizer.

    Attributes:
        model: On its device.
        tokenizer: Cuts on the left.
        pad_id: What rows are padded with.
        device: Of the model.
    """

    model: Any
    tokenizer: Any
    pad_id: int
    device: str

    def encode(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """Return the ids of each text, special tokens included, cut on the left."""
        limit = min(max_tokens, self.tokenizer.model_max_length, _positions(self.model.config))
        rows = self.tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
        return [row or [self.pad_id] for row in rows]  # a model cannot read nothing

    def outputs(
        self, rows: Sequence[Sequence[int]], label: int, bfloat16: bool | None
    ) -> np.ndarray:
        """Return float64 [B]: the logit or log-odds of a label for each row of ids."""
        import torch

        from textenvs.decoding import autocast
        from textenvs.models import has_fast_bfloat16

        device = torch.device(self.device)
        fast = has_fast_bfloat16(device) if bfloat16 is None else bfloat16
        ids, mask = padded(rows, self.pad_id, self.device)
        with torch.no_grad(), autocast(fast, device):
            logits = self.model(input_ids=ids, attention_mask=mask).logits
        logits = logits.float()
        picked = logits[:, label]
        if logits.shape[1] > 1 and self.model.config.problem_type != MULTI_LABEL:
            others = [i for i in range(logits.shape[1]) if i != label]
            picked = picked - logits[:, others].logsumexp(-1)
        return picked.double().cpu().numpy()


@lru_cache(maxsize=4)
def shared_classifier(path: str, device: str) -> LoadedClassifier:
    """Return a frozen classifier that all users of the process share.

    Raises:
        UnknownNameError: if a hub name leads nowhere.
        ModelError: if the weights are absent, unreadable, or not a classifier's.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from textenvs.tokenization import unknown_model

    options: dict[str, Any] = {"trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(path, truncation_side="left", **options)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            path, use_safetensors=True, output_loading_info=True, **options
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
    pad_id = next(i for i in (tokenizer.pad_token_id, tokenizer.eos_token_id, 0) if i is not None)
    # A decoder finds the last token of a padded row by this id.
    model.config.get_text_config().pad_token_id = pad_id
    model.eval().requires_grad_(False).to(device)
    return LoadedClassifier(model, tokenizer, pad_id, device)


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


def _positions(config: Any) -> int:
    """Return how many tokens a model can read at most."""
    positions = getattr(config, "max_position_embeddings", None)
    if positions is None:
        return NO_LIMIT
    # RoBERTa and its kin number positions from behind the padding id.
    offset = config.pad_token_id + 1 if config.model_type in OFFSET_POSITIONS else 0
    return int(positions) - offset


OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "longformer")


def _check_path(path: str, label: str | None) -> None:
    """Refuse what can be told to be no classifier from its folder; a hub name passes."""
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
