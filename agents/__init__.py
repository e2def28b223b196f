"""Agents that train on text environments."""

import importlib
from typing import TYPE_CHECKING, Any

import textenvs  # registers the environments

if TYPE_CHECKING:
    from agents.a2c import A2C, A2CConfig
    from agents.baselines import Oracle, Random, Reference
    from agents.best_of_n import BestOfN
    from agents.config import OnPolicyConfig, PPOConfig, SFTConfig
    from agents.dpo import DPOConfig
    from agents.evaluation import evaluate
    from agents.expert_iteration import ExpertIteration, ExpertIterationConfig
    from agents.fine_tuning import sft
    from agents.grpo import GRPO, GRPOConfig
    from agents.nlpo import NLPO, NLPOConfig
    from agents.on_policy import OnPolicyAgent
    from agents.online_dpo import OnlineDPO, OnlineDPOConfig
    from agents.policy import CausalLMPolicy
    from agents.ppo import PPO
    from agents.pretraining import PretrainingConfig, pretrain
    from agents.pretraining_mix import PretrainingMix
    from agents.reinforce import REINFORCE, REINFORCEConfig
    from agents.reward_modeling import RewardModelingConfig, kwise_loss, train_reward_model
    from agents.rloo import RLOO, RLOOConfig

_HOMES = {
    "A2C": "agents.a2c",
    "A2CConfig": "agents.a2c",
    "BestOfN": "agents.best_of_n",
    "CausalLMPolicy": "agents.policy",
    "DPOConfig": "agents.dpo",
    "ExpertIteration": "agents.expert_iteration",
    "ExpertIterationConfig": "agents.expert_iteration",
    "GRPO": "agents.grpo",
    "GRPOConfig": "agents.grpo",
    "NLPO": "agents.nlpo",
    "NLPOConfig": "agents.nlpo",
    "OnPolicyAgent": "agents.on_policy",
    "OnPolicyConfig": "agents.config",
    "OnlineDPO": "agents.online_dpo",
    "OnlineDPOConfig": "agents.online_dpo",
    "Oracle": "agents.baselines",
    "PPO": "agents.ppo",
    "PPOConfig": "agents.config",
    "PretrainingConfig": "agents.pretraining",
    "PretrainingMix": "agents.pretraining_mix",
    "REINFORCE": "agents.reinforce",
    "REINFORCEConfig": "agents.reinforce",
    "RewardModelingConfig": "agents.reward_modeling",
    "RLOO": "agents.rloo",
    "RLOOConfig": "agents.rloo",
    "Random": "agents.baselines",
    "Reference": "agents.baselines",
    "SFTConfig": "agents.config",
    "evaluate": "agents.evaluation",
    "kwise_loss": "agents.reward_modeling",
    "pretrain": "agents.pretraining",
    "sft": "agents.fine_tuning",
    "train_reward_model": "agents.reward_modeling",
}

__all__ = [
    "A2C",
    "GRPO",
    "NLPO",
    "PPO",
    "REINFORCE",
    "RLOO",
    "A2CConfig",
    "BestOfN",
    "CausalLMPolicy",
    "DPOConfig",
    "ExpertIteration",
    "ExpertIterationConfig",
    "GRPOConfig",
    "NLPOConfig",
    "OnPolicyAgent",
    "OnPolicyConfig",
    "OnlineDPO",
    "OnlineDPOConfig",
    "Oracle",
    "PPOConfig",
    "PretrainingConfig",
    "PretrainingMix",
    "REINFORCEConfig",
    "RLOOConfig",
    "Random",
    "Reference",
    "RewardModelingConfig",
    "SFTConfig",
    "evaluate",
    "kwise_loss",
    "pretrain",
    "sft",
    "textenvs",
    "train_reward_model",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: the command line must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'agents' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
