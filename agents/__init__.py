"""Agents that train on text environments."""

import importlib
from typing import TYPE_CHECKING, Any

import textenvs  # registers the environments

if TYPE_CHECKING:
    from agents.config import PPOConfig, SFTConfig
    from agents.evaluation import evaluate
    from agents.fine_tuning import sft
    from agents.policy import CausalLMPolicy
    from agents.ppo import PPO

_HOMES = {
    "CausalLMPolicy": "agents.policy",
    "PPO": "agents.ppo",
    "PPOConfig": "agents.config",
    "SFTConfig": "agents.config",
    "evaluate": "agents.evaluation",
    "sft": "agents.fine_tuning",
}

__all__ = ["PPO", "CausalLMPolicy", "PPOConfig", "SFTConfig", "evaluate", "sft", "textenvs"]


def __getattr__(name: str) -> Any:
    """Import a public name on first use: the command line must not wait for torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'agents' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
