"""Settings of the learners: frozen, validated, each with its source."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Literal

from textenvs.errors import ConfigError


def _require(config: Any, name: str, rule: str, holds: Callable[[Any], bool]) -> None:
    value = getattr(config, name)
    if value is None:
        return
    try:
        fine = not isinstance(value, bool) and math.isfinite(value) and holds(value)
    except TypeError:
        fine = False
    if not fine:
        field = next(f for f in dataclasses.fields(config) if f.name == name)
        raise ConfigError(f"{name} must be {rule}, got {value!r}; the default is {field.default}")


def _positive(config: Any, *names: str) -> None:
    for name in names:
        _require(config, name, "above 0", lambda value: value > 0)


def _not_negative(config: Any, *names: str) -> None:
    for name in names:
        _require(config, name, "at least 0", lambda value: value >= 0)


def _share(config: Any, *names: str) -> None:
    for name in names:
        _require(config, name, "between 0 and 1", lambda value: 0 <= value <= 1)


def _count(config: Any, *names: str) -> None:
    for name in names:
        _require(
            config, name, "a whole number of at least 1", lambda v: isinstance(v, int) and v >= 1
        )


@dataclasses.dataclass(frozen=True)
class LoRAConfig:
    """Low-rank adapters (Hu et al., arXiv:2106.09685) on every linear layer.

    Attributes:
        r: Rank.
        alpha: Scale; the update is multiplied by alpha / r.
        dropout: Always 0 in PPO: a stochastic policy would differ from its own log-probs.
        target_modules: Layers to adapt, as peft names them.
    """

    r: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: str = "all-linear"

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        _count(self, "r")
        _positive(self, "alpha")
        _share(self, "dropout")


@dataclasses.dataclass(frozen=True)
class PPOConfig:
    """Proximal policy optimisation (Schulman et al., arXiv:1707.06347) on token sequences.

    Names are those of Stable-Baselines3 where it has one. A batch is counted in
    episodes (whole completions), timesteps in tokens.

    Attributes:
        learning_rate: Adam's step size at the start.
        anneal: Whether it falls linearly to 0 over `learn` (OpenAI, lm-human-preferences).
        n_epochs: Passes over a rollout.
        rollout_episodes: Episodes a rollout; a multiple of the environment's rows. None
            takes one a row.
        batch_size: Episodes an optimiser step.
        micro_batch_size: Episodes a forward pass; gradients are accumulated with the
            token count of the whole batch, so it changes memory, not the loss.
        gamma: Discount a token; 1 because a completion is short and judged whole.
        gae_lambda: Of the advantage estimate (arXiv:1506.02438).
        clip_range: Policy clip around a ratio of 1.
        clip_range_vf: Value clip around the old value; None does not clip.
        dual_clip: Bound on the loss of negative advantages (arXiv:1912.09729), above 1;
            None does without.
        normalize_advantage: Whiten over all tokens of a rollout.
        vf_coef: Weight of the value loss.
        ent_coef: Weight of the entropy bonus.
        max_grad_norm: Gradient clip; None does not clip.
        target_kl: Stop the epochs of an update once the KL between old and new policy,
            a token, exceeds 1.5 times this; None never stops.
        missing_eos_penalty: Subtracted from episodes that spent the token budget.
        reward_clip: Bound on the absolute score of an episode; None does not clip.
        critic_warmup: Updates in which only the value head learns.
        adam_epsilon: Adam's epsilon (1e-5, arXiv:2005.12729).
    """

    learning_rate: float = 1e-4
    anneal: bool = True
    n_epochs: int = 4
    rollout_episodes: int | None = None
    batch_size: int = 32
    micro_batch_size: int = 32
    gamma: float = 1.0
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    clip_range_vf: float | None = 0.2
    dual_clip: float | None = None
    normalize_advantage: bool = True
    vf_coef: float = 0.1
    ent_coef: float = 0.0
    max_grad_norm: float | None = 1.0
    target_kl: float | None = None
    missing_eos_penalty: float = 0.0
    reward_clip: float | None = None
    critic_warmup: int = 0
    adam_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        _positive(self, "learning_rate", "clip_range", "clip_range_vf", "max_grad_norm")
        _positive(self, "target_kl", "reward_clip", "adam_epsilon")
        _count(self, "n_epochs", "rollout_episodes", "batch_size", "micro_batch_size")
        _share(self, "gamma", "gae_lambda")
        _not_negative(self, "vf_coef", "ent_coef", "missing_eos_penalty", "critic_warmup")
        _require(self, "dual_clip", "above 1", lambda value: value > 1)


@dataclasses.dataclass(frozen=True)
class SFTConfig:
    """Supervised fine-tuning on right answers: cross-entropy of the answer alone.

    Attributes:
        steps: Optimiser steps.
        batch_size: Answers a step.
        learning_rate: AdamW's step size, reached after the warm-up.
        warmup: Share of the steps in which it rises from 0; then it falls to 0 linearly.
        weight_decay: AdamW's decay.
        max_grad_norm: Gradient clip.
    """

    steps: int = 200
    batch_size: int = 32
    learning_rate: float = 5e-4
    warmup: float = 0.05
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        _count(self, "steps", "batch_size")
        _positive(self, "learning_rate", "max_grad_norm")
        _share(self, "warmup")
        _not_negative(self, "weight_decay")


Critic = Literal["shared", "separate"]
