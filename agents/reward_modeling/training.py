"""Training of a reward model on rankings."""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from agents.config import LoRAConfig
from agents.preferences.rankings import Ranking
from agents.reward_modeling.config import RewardModelingConfig
from agents.reward_modeling.initialisation import begin_reward_model
from agents.reward_modeling.loss import centring_loss, kwise_loss, pair_accuracy
from agents.reward_modeling.scorer import AnswerScorer
from textenvs.errors import ConfigError, ModelError
from textenvs.models import has_fast_bfloat16
from textenvs.rewards.learned.classifier import LoadedClassifier
from textenvs.rewards.learned.model import RewardModel
from textenvs.rewards.learned.model_texts import template_for
from textenvs.teacher_forcing.trunk import base_model

Log = Callable[[Mapping[str, Any]], None]


class Encoded(NamedTuple):
    """A ranking as the model reads it.

    Attributes:
        rows: The tokens of each answer, prompt included.
        ranks: The place of each answer, 0 is best.
    """

    rows: list[list[int]]
    ranks: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class TrainedRewardModel:
    """A reward model on disk, and how it was trained.

    Attributes:
        reward: Reads the folder; its scores have mean 0 and variance 1 on the references.
        seed: It was trained with.
        steps: Optimiser steps.
        loss: Of the last tenth of the steps, a mean in nats a pair.
        cut: Texts that were too long and lost tokens on their left.
        longest: The most tokens of a text.
        pads_with_eos: Whether the padding of a causal model is its EOS, so that a text is scored
            at the last token that is no EOS.
        shares_prompts: Whether the answers to a prompt shared its computation.
    """

    reward: RewardModel
    seed: int
    steps: int
    loss: float
    cut: int
    longest: int
    pads_with_eos: bool
    shares_prompts: bool

    @property
    def folder(self) -> Path:
        """Where the model is saved."""
        return Path(self.reward.path)


def train_reward_model(
    rankings: Sequence[Ranking],
    folder: str | Path,
    *,
    model: str | Path = "tiny-lm",
    config: RewardModelingConfig | None = None,
    lora: LoRAConfig | None = None,
    references: Sequence[tuple[str, str]] | None = None,
    seed: int = 0,
    device: str = "cpu",
    name: str = "reward_model",
    log: Log | None = None,
) -> TrainedRewardModel:
    """Train a sequence classifier with one label on rankings, and save it.

    All answers to a prompt go through one forward pass, and their C(K, 2) pairs are one
    element of the batch (`kwise_loss`). The folder is a plain Hugging Face model, adapters
    merged, which `textenvs.rewards.RewardModel` and `critic_from=` read; beside it stand
    the template and the scale (`textenvs_reward.json`).

    Args:
        rankings: At least one.
        folder: Where to write; made if it is absent.
        model: What to begin from, as in `begin_reward_model`.
        config: Settings.
        lora: Train low-rank adapters and the head alone.
        references: Prompts with answers on which scores have mean 0 and variance 1 afterwards
            (Ziegler et al., arXiv:1909.08593, section 2.1); None takes all the answers of
            the rankings. The answers of the policy that is to be trained are best.
        seed: Draws the head and the order of the rankings.
        device: "cpu", "cuda", ...
        name: Of the reward and its term; members of an ensemble need different ones.
        log: Called after each step with `step`, `loss`, `accuracy` (of the batch's pairs,
            before the step), `learning_rate`, `seconds`.

    Raises:
        ConfigError: if there is no ranking, or all references get the same score.
        ModelError: if the model cannot be a reward model, or the loss is no number.
        UnknownNameError: if the model's name leads nowhere.
    """
    config = config or RewardModelingConfig()
    if not rankings:
        raise ConfigError("no rankings to train on; `textenvs preferences` makes some")
    loaded = begin_reward_model(model, seed=seed, lora=lora, device=device)
    template = template_for(loaded.tokenizer, config.template, str(model))
    fast = has_fast_bfloat16(torch.device(device))
    scorer = AnswerScorer(
        loaded, template, bfloat16=fast if config.bfloat16 is None else config.bfloat16
    )
    encoded, cut = encode(scorer, rankings, config.max_tokens)
    losses = fit_scorer(scorer, encoded, config, seed=seed, log=log)
    _save(loaded, Path(folder))
    reward = RewardModel(
        folder,
        template=template,
        max_tokens=config.max_tokens,
        bfloat16=config.bfloat16,
        device=device,
        name=name,
    )
    if references is None:
        references = [(r.prompt, answer) for r in rankings for answer in r.answers]
    reward.fit(references)
    reward.save()
    tail = losses[-max(1, len(losses) // 10) :]
    return TrainedRewardModel(
        reward,
        seed,
        steps=len(losses),
        loss=float(np.mean(tail)),
        cut=cut,
        longest=min(config.max_tokens, loaded.longest),
        pads_with_eos=loaded.pad_id is not None and loaded.pad_id == loaded.tokenizer.eos_token_id,
        shares_prompts=scorer.shares_prompts,
    )


def _save(loaded: LoadedClassifier, folder: Path) -> None:
    """Write a plain Hugging Face folder, adapters merged."""
    base = base_model(loaded.model)
    model = loaded.model if base is loaded.model else loaded.model.merge_and_unload()
    model.config.get_text_config().pad_token_id = loaded.pad_id
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    loaded.tokenizer.save_pretrained(folder)


def steps_of(rankings: int, config: RewardModelingConfig) -> int:
    """Return the optimiser steps that so many rankings take."""
    return config.epochs * math.ceil(rankings / config.batch_size)


def encode(
    scorer: AnswerScorer, rankings: Sequence[Ranking], max_tokens: int
) -> tuple[list[Encoded], int]:
    """Return rankings as the model reads them, and how many texts were cut on the left."""
    encoded, cut = [], 0
    for ranking in rankings:
        rows, shortened = scorer.rows(ranking, max_tokens)
        encoded.append(Encoded(rows, ranking.ranks))
        cut += shortened
    return encoded, cut


def fit_scorer(
    scorer: AnswerScorer,
    encoded: Sequence[Encoded],
    config: RewardModelingConfig,
    *,
    seed: int,
    log: Log | None = None,
) -> list[float]:
    """Train a scorer's model in place; return the loss of each step.

    Raises:
        ModelError: if the loss is no number.
    """
    generator = np.random.default_rng(seed)
    parameters = [p for p in scorer.loaded.model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters,
        config.learning_rate,
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
    )
    total = steps_of(len(encoded), config)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 - step / total)
    losses: list[float] = []
    for _ in range(config.epochs):
        order = generator.permutation(len(encoded))
        for start in range(0, len(order), config.batch_size):
            began = time.perf_counter()
            batch = [encoded[i] for i in order[start : start + config.batch_size]]
            optimizer.zero_grad()
            loss, accuracy = _accumulate(scorer, batch, config)
            if not math.isfinite(loss):
                raise ModelError(
                    f"the loss of step {len(losses) + 1} is {loss}; lower learning_rate, got "
                    f"{config.learning_rate:g}"
                )
            if config.max_grad_norm is not None:
                torch.nn.utils.clip_grad_norm_(parameters, config.max_grad_norm)
            optimizer.step()
            rate = schedule.get_last_lr()[0]
            schedule.step()
            losses.append(loss)
            if log is not None:
                values = {"step": len(losses), "loss": loss, "accuracy": accuracy}
                seconds = time.perf_counter() - began
                log({**values, "learning_rate": rate, "seconds": seconds})
    return losses


def _accumulate(
    scorer: AnswerScorer, batch: Sequence[Encoded], config: RewardModelingConfig
) -> tuple[float, float]:
    """Add up the gradients of a batch; return its loss and the accuracy of its pairs."""
    loss = accuracy = 0.0
    parts = scorer.micro_batches([ranking.rows for ranking in batch], config.micro_batch_tokens)
    for part in parts:
        chosen = [batch[i] for i in part]
        scores = scorer.scores([ranking.rows for ranking in chosen])
        ranks, prompts = _labels(chosen, scores.device)
        value = kwise_loss(scores, ranks, prompts)
        if config.centring_coef:
            value = value + config.centring_coef * centring_loss(scores, ranks, prompts)
        share = len(chosen) / len(batch)  # the loss is a mean over prompts
        (share * value).backward()
        loss += share * value.item()
        accuracy += share * pair_accuracy(scores.detach(), ranks, prompts).item()
    return loss, accuracy


def _labels(rankings: Sequence[Encoded], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return int64 [N], the places of all answers, and int64 [N], which ranking each is of."""
    ranks = [rank for ranking in rankings for rank in ranking.ranks]
    prompts = [i for i, ranking in enumerate(rankings) for _ in ranking.ranks]
    return torch.tensor(ranks, device=device), torch.tensor(prompts, device=device)
