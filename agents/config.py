"""Settings of the learners: frozen, validated, each with its source."""

import dataclasses
from typing import Any, Literal, get_args

from agents.validation import choice, count, not_negative, positive, require, share
from textenvs.errors import ConfigError
from textenvs.kl import ESTIMATORS, Estimator

Critic = Literal["shared", "separate"]
KLPlace = Literal["reward", "loss"]
MissingEOS = Literal["subtract", "replace"]
Schedule = Literal["linear", "cosine"]
Adapter = Literal["merge", "keep"]
PreferenceLossType = Literal["sigmoid", "ipo"]


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
        count(self, "r")
        positive(self, "alpha")
        share(self, "dropout")


@dataclasses.dataclass(frozen=True)
class OnPolicyConfig:
    """What every on-policy learner shares: rollout, reward shaping, optimiser.

    Names are those of Stable-Baselines3 where it has one. A batch is counted in
    episodes (whole completions), timesteps in tokens.

    Attributes:
        learning_rate: Adam's step size at the start.
        anneal: Whether it falls linearly to 0 over `learn` (OpenAI, lm-human-preferences).
        n_epochs: Passes over a rollout.
        rollout_episodes: Episodes a rollout; None takes one for each row of the
            environment. More are played without a pause: a row that ends begins the next.
        batch_size: Episodes an optimiser step. Samples of one prompt stay together, so
            that their prompt is computed once.
        micro_batch_tokens: Tokens a forward pass; gradients are accumulated with the
            token count of the whole batch, so it changes memory, not the loss.
        gamma: Discount a token; 1 because a completion is short and judged whole.
        max_grad_norm: Gradient clip; None does not clip.
        target_kl: Stop the epochs of an update once the KL between old and new policy,
            a token, exceeds 1.5 times this; None never stops.
        max_ratio: Skip an optimiser step whose mean probability ratio exceeds this (TRL
            0.4 skipped above 10); None never skips.
        ent_coef: Weight of the entropy bonus.
        kl_in: Where the KL to the environment's reference is charged: in the "reward" of
            each token (Ziegler et al., arXiv:1909.08593) or in the "loss" (DeepSeekMath,
            arXiv:2402.03300, eq. 3).
        kl_estimator: "k1", "k2", "k3" or "full", the exact sum over the vocabulary; see
            `textenvs.kl`. In the loss k1 is refused: the expectation of its gradient is 0.
        kl_clip: Bound on the absolute KL estimate of a token (OpenRLHF: 10); None does
            not clip.
        missing_eos_penalty: Charged to episodes that spent the token budget.
        missing_eos: "subtract" the penalty from the score (TRL), or "replace" the score
            by minus the penalty ("The N+ implementation details", 2024).
        reward_clip: Bound on the absolute score of an episode; None does not clip.
        whiten_rewards: Divide the rewards of all tokens by their standard deviation,
            without moving their mean (OpenAI, lm-human-preferences).
        ptx_coef: Weight of the language-modelling loss on pretraining text (InstructGPT,
            arXiv:2203.02155, eq. 2); needs an agent made with `pretraining=`.
        ptx_batch_size: Blocks of pretraining text an optimiser step.
        ema_decay: Keep an exponential moving average of the weights with this decay
            (InstructGPT: 0.992); None keeps none.
        adam_epsilon: Adam's epsilon (1e-5, arXiv:2005.12729).
    """

    learning_rate: float = 1e-4
    anneal: bool = True
    n_epochs: int = 1
    rollout_episodes: int | None = None
    batch_size: int = 32
    micro_batch_tokens: int = 2048
    gamma: float = 1.0
    max_grad_norm: float | None = 1.0
    target_kl: float | None = None
    max_ratio: float | None = None
    ent_coef: float = 0.0
    kl_in: KLPlace = "reward"
    kl_estimator: Estimator = "k1"
    kl_clip: float | None = None
    missing_eos_penalty: float = 0.0
    missing_eos: MissingEOS = "subtract"
    reward_clip: float | None = None
    whiten_rewards: bool = False
    ptx_coef: float = 0.0
    ptx_batch_size: int = 8
    ema_decay: float | None = None
    adam_epsilon: float = 1e-5

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        positive(self, "learning_rate", "max_grad_norm", "target_kl", "kl_clip")
        positive(self, "reward_clip", "adam_epsilon")
        count(self, "n_epochs", "rollout_episodes", "batch_size", "micro_batch_tokens")
        count(self, "ptx_batch_size")
        share(self, "gamma")
        not_negative(self, "ent_coef", "missing_eos_penalty", "ptx_coef")
        require(self, "max_ratio", "above 1", lambda value: value > 1)
        require(self, "ema_decay", "above 0 and below 1", lambda value: 0 < value < 1)
        choice(self, "kl_in", get_args(KLPlace))
        choice(self, "kl_estimator", ESTIMATORS)
        choice(self, "missing_eos", get_args(MissingEOS))
        if self.kl_in == "loss" and self.kl_estimator == "k1":
            raise ConfigError(
                'kl_estimator="k1" in the loss has a gradient of expectation 0, so it would '
                'charge nothing; use "k2", "k3" or "full", or kl_in="reward"'
            )


@dataclasses.dataclass(frozen=True)
class PPOConfig(OnPolicyConfig):
    """Proximal policy optimisation (Schulman et al., arXiv:1707.06347) on token sequences.

    The settings of `OnPolicyConfig`, and:

    Attributes:
        n_epochs: Passes over a rollout; 4 as in lm-human-preferences.
        gae_lambda: Of the advantage estimate (arXiv:1506.02438).
        clip_range: Policy clip: the ratio is held above 1 - `clip_range`.
        clip_range_high: And below 1 + this (DAPO, arXiv:2503.14476: 0.28); None takes
            `clip_range`.
        clip_range_vf: Value clip around the old value; None does not clip.
        dual_clip: Bound on the loss of negative advantages (arXiv:1912.09729), above 1;
            None does without.
        normalize_advantage: Whiten over all tokens of a rollout.
        vf_coef: Weight of the value loss.
        critic_learning_rate: Adam's step size for the value head and, where it has its
            own, the critic's trunk; None takes `learning_rate`.
        critic_warmup: Updates in which only the critic learns.
    """

    n_epochs: int = 4
    gae_lambda: float = 0.95
    clip_range: float = 0.2
    clip_range_high: float | None = None
    clip_range_vf: float | None = 0.2
    dual_clip: float | None = None
    normalize_advantage: bool = True
    vf_coef: float = 0.1
    critic_learning_rate: float | None = None
    critic_warmup: int = 0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        super().__post_init__()
        positive(self, "clip_range", "clip_range_high", "clip_range_vf", "critic_learning_rate")
        share(self, "gae_lambda")
        not_negative(self, "vf_coef", "critic_warmup")
        require(self, "dual_clip", "above 1", lambda value: value > 1)


@dataclasses.dataclass(frozen=True)
class SupervisedConfig:
    """What learning from text has in common: steps, optimiser, schedule.

    Attributes:
        steps: Optimiser steps.
        batch_size: Examples a step.
        micro_batch_tokens: Tokens a forward pass, padding included; gradients are
            accumulated with the token count of the whole batch, so it changes memory, not
            the loss.
        learning_rate: AdamW's step size, reached after the warm-up.
        warmup: Share of the steps in which it rises from 0; then it falls to 0.
        schedule: How it falls: along a "linear" or a "cosine" curve.
        weight_decay: AdamW's decay.
        max_grad_norm: Gradient clip.
    """

    steps: int = 200
    batch_size: int = 32
    micro_batch_tokens: int = 2048
    learning_rate: float = 5e-4
    warmup: float = 0.05
    schedule: Schedule = "linear"
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0

    def __post_init__(self) -> None:
        """Refuse settings that cannot work."""
        count(self, "steps", "batch_size", "micro_batch_tokens")
        positive(self, "learning_rate", "max_grad_norm")
        share(self, "warmup")
        choice(self, "schedule", get_args(Schedule))
        not_negative(self, "weight_decay")


@dataclasses.dataclass(frozen=True)
class SFTConfig(SupervisedConfig):
    """Supervised fine-tuning on right answers: cross-entropy of the answer alone.

    The settings of `SupervisedConfig`, and:

    Attributes:
        packing: Put several examples into a row, behind each other but out of each other's
            sight: the same loss with less padding.
    """

    packing: bool = False


def preference_loss(config: Any) -> None:
    """Refuse fields `beta`, `loss_type`, `label_smoothing` that are no preference loss."""
    positive(config, "beta")
    choice(config, "loss_type", get_args(PreferenceLossType))
    rule = "at least 0 and below 0.5"
    require(config, "label_smoothing", rule, lambda value: 0 <= value < 0.5)
    if config.loss_type == "ipo" and config.label_smoothing:
        raise ConfigError('label_smoothing goes with loss_type="sigmoid"; leave it at 0')
