"""Policies and environments small enough to train within a test."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from gymnasium.vector import AutoresetMode

from agents.policy import CausalLMPolicy
from textenvs.types import Prompt
from textenvs.vector_env import TextVectorEnv
from textenvs.wrappers.reference_kl import VectorReferenceKL

PROMPTS = [Prompt(id=f"p{i}", text="ab" * (i % 3 + 1) + str(i)) for i in range(6)]


def share_of_low_bytes(prompt: Prompt, completion: str) -> float:
    """Score the share of letters below "P": about one in three at random."""
    return sum(c < "P" for c in completion) / max(1, len(completion))


@pytest.fixture
def make_venv(byte_tokenizer: Any) -> Callable[..., TextVectorEnv]:
    """Return a maker of vector environments with 7 prompt columns and 4 new tokens."""

    def make(num_envs: int = 4, **options: Any) -> TextVectorEnv:
        task: dict[str, Any] = {
            "prompts": PROMPTS,
            "reward": share_of_low_bytes,
            "tokenizer": byte_tokenizer,
            "max_prompt_tokens": 7,
            "max_new_tokens": 4,
            "autoreset_mode": AutoresetMode.NEXT_STEP,
        }
        return TextVectorEnv(num_envs=num_envs, **{**task, **options})

    return make


@pytest.fixture
def make_policy(make_model: Callable[..., Any]) -> Callable[..., CausalLMPolicy]:
    """Return a maker of float32 policies."""

    def make(kind: str = "llama", *, seed: int = 0, **options: Any) -> CausalLMPolicy:
        return CausalLMPolicy(make_model(kind, seed=seed), **{"bfloat16": False, **options})

    return make


@pytest.fixture
def make_learner(
    make_policy: Callable[..., CausalLMPolicy], make_venv: Callable[..., TextVectorEnv]
) -> Callable[..., Any]:
    """Return a maker of on-policy agents on the toy environment; settings by name."""

    def make(
        learner: type[Any],
        rows: int,
        *,
        samples_per_prompt: int = 1,
        seed: int = 0,
        kl_coef: float = 0.0,
        critic: str = "shared",
        venv: Any = None,
        **settings: Any,
    ) -> Any:
        policy = make_policy(critic=critic)
        env: Any = make_venv(rows, samples_per_prompt=samples_per_prompt, **(venv or {}))
        if kl_coef:
            env = VectorReferenceKL(env, policy.reference(), kl_coef)
        config = learner.config_class(**{"learning_rate": 1e-2, **settings})
        return learner(policy, env, config, seed=seed)

    return make


@pytest.fixture
def model_folder(
    make_model: Callable[..., Any], byte_folder: Path, tmp_path: Path
) -> Callable[..., Path]:
    """Return a writer of Hugging Face folders: a tiny model with the byte tokenizer."""

    def write(kind: str = "llama", *, seed: int = 0) -> Path:
        folder = tmp_path / f"{kind}-{seed}"
        make_model(kind, seed=seed).save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((byte_folder / name).read_bytes())
        return folder

    return write
