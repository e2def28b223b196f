"""Reward models: sequence classifiers that learn which answers are preferred."""

from agents.reward_modeling.config import RewardModelingConfig
from agents.reward_modeling.ensembles import train_ensemble
from agents.reward_modeling.held_out import HeldOutReport, judge_reward_models
from agents.reward_modeling.loss import centring_loss, kwise_loss
from agents.reward_modeling.training import TrainedRewardModel, train_reward_model

__all__ = [
    "HeldOutReport",
    "RewardModelingConfig",
    "TrainedRewardModel",
    "centring_loss",
    "judge_reward_models",
    "kwise_loss",
    "train_ensemble",
    "train_reward_model",
]
