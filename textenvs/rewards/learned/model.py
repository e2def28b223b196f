"""`RewardModel`: any Hugging Face sequence classifier as a reward.

A classifier with one label is a reward model in the sense of InstructGPT (Ouyang et al.,
arXiv:2203.02155, section 3.5): a scalar for a prompt with its answer. One with several
labels rewards one of them by name.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textenvs.errors import ConfigError, ModelError
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.rewards.learned.batches import Batching, require_models
from textenvs.rewards.learned.classifier import (
    check_path,
    label_index,
    shared_classifier,
)
from textenvs.rewards.learned.model_texts import CHAT, check_template, judged_text, template_for
from textenvs.rewards.options import checked_count, is_finite
from textenvs.types import Episode, Prompt

Sample = Episode | tuple[str, str]
"""An episode, or the texts of a prompt and its answer."""

MAX_TOKENS, BATCH_TOKENS = 512, 16_384
SETTINGS_FILE = "textenvs_reward.json"


class RewardModel(BaseReward):
    """The output of a sequence classifier for the prompt with the answer.

    The score is the logit of a classifier with one label, and of one with several the
    log-odds of the named label, log p - log(1 - p); then less `mean`, over `std`, which are
    0 and 1 until `fit` sets them. The model is loaded when first needed and once per
    process, with its own tokenizer, from safetensors only, and no code of its folder is run.

    A text that is too long loses tokens on its left, so that the end of the answer is kept;
    `cut` counts them. Special tokens of the model's tokenizer that the answer spells out are
    broken up, so that no answer can pose as another turn of the conversation.

    **Batches.** In bfloat16 a score does not depend on what else is scored, to the last bit:
    every text goes through a forward pass whose shape its own length decides (`Batching`).
    In float32 shapes are free, which is cheaper for single texts, and scores move by less
    than 1e-5 of their size; `fixed_shapes=True` takes that away too.

    Bounds are infinite; `RewardModel(path).clip(-3, 3)` has finite ones.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        label: str | None = None,
        template: str | None = None,
        max_tokens: int | None = None,
        batch_tokens: int = BATCH_TOKENS,
        bfloat16: bool | None = None,
        fixed_shapes: bool | None = None,
        normalise: Sequence[Sample] | None = None,
        device: str = "cpu",
        name: str = "reward_model",
    ) -> None:
        """Check the options; load nothing unless `normalise` is given.

        Where the folder has a `textenvs_reward.json` (see `save`), label, template and
        max_tokens that are not given are read there, and with these the mean and the
        standard deviation; if one is given that is another, the scale is not that file's
        and stays 0 and 1.

        Args:
            path: A folder written by `save_pretrained`, or a hub name.
            label: Which of several labels to reward.
            template: What the model reads, with the fields {prompt} and {completion}; "chat"
                is the tokenizer's chat template, with the prompt's messages, or its text as
                those of a user. None is "chat" where there is such a template, else
                "{prompt}{completion}".
            max_tokens: The longest text in tokens, by default 512; the model's own limit
                where that is less.
            batch_tokens: The most tokens of one forward pass, padding included.
            bfloat16: Compute in it; None does so where the processor is fast at it.
            fixed_shapes: See above; None does so in bfloat16.
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
        saved = _saved_settings(Path(path))
        self.path, self.name = str(path), name
        self.label = saved.get("label") if label is None else label
        self.template = saved.get("template") if template is None else template
        self.max_tokens = checked_count(
            "max_tokens",
            saved.get("max_tokens", MAX_TOKENS) if max_tokens is None else max_tokens,
            MAX_TOKENS,
        )
        check_template(self.template)
        self.batch_tokens = checked_count("batch_tokens", batch_tokens, BATCH_TOKENS)
        self.bfloat16, self.fixed_shapes, self.device = bfloat16, fixed_shapes, device
        self.mean, self.std, self._cut = 0.0, 1.0, 0
        check_path(self.path, self.label)
        if saved and self._settings() == {key: saved[key] for key in self._settings()}:
            self.load_state_dict(saved)
        if normalise is not None:
            self.fit(normalise)

    @classmethod
    def from_name(cls, name: str) -> "RewardModel":
        """Return the reward model of a path, or of one with a label: "PATH" or "PATH#LABEL"."""
        if "#" not in name or Path(name).is_dir():
            return cls(name)
        path, _, label = name.rpartition("#")
        return cls(path, label=label)

    @property
    def cut(self) -> int:
        """How many texts were too long and lost tokens on their left."""
        return self._cut

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

    def state_dict(self) -> dict[str, Any]:
        """Return the mean and the standard deviation."""
        return {"mean": self.mean, "std": self.std}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a mean and a standard deviation.

        Raises:
            ConfigError: if they are no numbers, or the deviation is not above 0.
        """
        mean, std = state.get("mean"), state.get("std")
        if not (is_finite(mean) and is_finite(std) and std > 0):
            raise ConfigError(
                f"the state of the reward {self.name!r} must hold a finite mean and a std above "
                f"0, got mean {mean!r} and std {std!r}"
            )
        self.mean, self.std = float(mean), float(std)

    def save(self) -> Path:
        """Write `textenvs_reward.json` into the model's folder; return its path.

        It holds label, template, max_tokens, mean and std: `RewardModel(path)` is then this
        reward again.

        Raises:
            ModelError: if the model is no folder.
        """
        folder = Path(self.path)
        if not folder.is_dir():
            raise ModelError(
                f"{self.path!r} is no folder to save the settings of a reward in; save the model "
                "with save_pretrained first"
            )
        target = folder / SETTINGS_FILE
        partial = target.with_name(f"{target.name}.partial-{os.getpid()}")
        text = json.dumps({**self._settings(), **self.state_dict()}, indent=2)
        partial.write_text(f"{text}\n", encoding="utf-8")
        partial.replace(target)
        return target

    def raw_scores(self, samples: Sequence[Sample]) -> np.ndarray:
        """Return float64 [B], the model's own output for each sample."""
        if not samples:
            return np.zeros(0, np.float64)
        in_bfloat16 = self._computes_in_bfloat16()
        loaded = shared_classifier(self.path, self.device, in_bfloat16)
        label = label_index(loaded.model.config.id2label, self.label, self.path)
        template = template_for(loaded.tokenizer, self.template, self.path)
        texts = [
            judged_text(loaded.tokenizer, template, *_parts(sample), self.path)
            for sample in samples
        ]
        rows, cut = loaded.encode(texts, self.max_tokens, special=template != CHAT)
        self._cut += cut
        batching = Batching(
            self.device,
            self.batch_tokens,
            loaded.longest,
            fixed_shapes=in_bfloat16 if self.fixed_shapes is None else self.fixed_shapes,
        )
        return loaded.log_odds(rows, label, batching)

    def _settings(self) -> dict[str, Any]:
        """Return what decides which number of the model is the score."""
        return {"label": self.label, "template": self.template, "max_tokens": self.max_tokens}

    def _computes_in_bfloat16(self) -> bool:
        import torch

        from textenvs.models import has_fast_bfloat16

        return (
            has_fast_bfloat16(torch.device(self.device))
            if self.bfloat16 is None
            else (self.bfloat16)
        )


def _parts(sample: Sample) -> tuple[Prompt, str]:
    """Return the prompt and the answer of a sample."""
    if isinstance(sample, Episode):
        return sample.prompt, sample.completion
    return Prompt("", sample[0]), sample[1]


def _saved_settings(folder: Path) -> dict[str, Any]:
    """Return what `RewardModel.save` wrote; {} where nothing was.

    Raises:
        ModelError: if the file is damaged.
    """
    path = folder / SETTINGS_FILE
    if not path.is_file():
        return {}
    keys = {"label", "template", "max_tokens", "mean", "std"}
    try:
        saved = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelError(f"{path} is no JSON: {error}; delete it and fit again") from error
    if not isinstance(saved, dict) or set(saved) != keys:
        raise ModelError(f"{path} must hold {sorted(keys)}, got {saved!r:.80}; fit again")
    return saved
