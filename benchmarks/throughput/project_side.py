"""What the workers of this project share: the policy and its environment, from a folder."""

import json
from pathlib import Path
from typing import Any

from gymnasium.vector import VectorEnv

from agents import CausalLMPolicy
from textenvs.types import Prompt
from textenvs.vector_env import TextVectorEnv
from textenvs.wrappers.reference_kl import VectorReferenceKL

KL_COEF = 0.05
"""TRL's default."""


def share_of_sevens(prompt: Prompt, completion: str) -> float:
    """Score the sevens in an answer: a rule that costs next to nothing."""
    return completion.count("7") / max(1, len(completion))


def load(settings: dict[str, Any]) -> tuple[CausalLMPolicy, VectorEnv]:
    """Return the policy, and one environment row an episode with the reference's KL in it.

    Args:
        settings: `folder`, `critic`, `bfloat16` (None for our default), `device`, `episodes`,
            `samples`, `prompt_tokens`, `new_tokens`.
    """
    folder = Path(settings["folder"])
    policy = CausalLMPolicy.from_pretrained(
        folder / "model",
        critic=settings["critic"],
        bfloat16=settings["bfloat16"],
        compile=settings.get("compile", False),
        device=settings["device"],
    )
    texts = json.loads((folder / "prompts.json").read_text(encoding="utf-8"))
    env = TextVectorEnv(
        [Prompt(id=str(i), text=text) for i, text in enumerate(texts)],
        share_of_sevens,
        str(folder / "model"),
        settings["episodes"],
        samples_per_prompt=settings["samples"],
        max_prompt_tokens=settings["prompt_tokens"],
        max_new_tokens=settings["new_tokens"],
    )
    return policy, VectorReferenceKL(env, policy.reference(), KL_COEF)
