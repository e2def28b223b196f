"""Agents that train on text environments."""

import importlib
from typing import TYPE_CHECKING, Any

import textenvs  # registers the environments

if TYPE_CHECKING:
    from agents.a2c import A2C, A2CConfig
    from agents.baselines import Oracle, Random, Reference
    from agents.best_of_n import BestOfN
    from agents.config import OnPolicyConfig, PPOConfig, SFTConfig
    from agents.evaluation import evaluate
    from agents.expert_iteration import ExpertIteration, ExpertIterationConfig
    from agents.fine_tuning import sft
    from agents.grpo import GRPO, GRPOConfig
    from agents.nlpo import NLPO, NLPOConfig
    from agents.on_policy import OnPolicyAgent
    from agents.online_dpo import OnlineDPO, OnlineDPOConfig
    from agents.policy import CausalLMPolicy
    from agents.ppo import PPO
    from agents.pretraining_mix import PretrainingMix
    from agents.reinforce import REINFORCE, REINFORCEConfig
    from agents.rloo import RLOO, RLOOConfig

_HOMES = {
    "A2C": "agents.a2c",
    "A2CConfig": "agents.a2c",
    "BestOfN": "agents.best_of_n",
    "CausalLMPolicy": "agents.policy",
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
    "PretrainingMix": "agents.pretraining_mix",
    "REINFORCE": "agents.reinforce",
    "REINFORCEConfig": "agents.reinforce",
    "RLOO": "agents.rloo",
    "RLOOConfig": "agents.rloo",
    "Random": "agents.baselines",
    "Reference": "agents.baselines",
    "SFTConfig": "agents.config",
    "evaluate": "agents.evaluation",
    "sft": "agents.fine_tuning",
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
    "PretrainingMix",
    "REINFORCEConfig",
    "RLOOConfig",
    "Random",
    "Reference",
    "SFTConfig",
    "evaluate",
    "sft",
    "textenvs",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: the command line must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'agents' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
