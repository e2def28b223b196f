"""The documentation keeps up with the code."""

import importlib
import re
from pathlib import Path

import gymnasium as gym
import pytest

import agents
from textenvs.suite import SUITE
from textenvs.task_env import task_options

DOCS = Path(__file__).parent.parent / "docs"


def documented(page: str) -> set[str]:
    """Names in the first column of the tables of a page."""
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    cells = [line.split("|")[1] for line in lines if line.startswith("|")]
    return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_logged_metric_is_explained() -> None:
    options = {"n_items": 2, "max_prompt_tokens": 128, "max_new_tokens": 4}
    venv = gym.make_vec(
        "textenvs/ContextSelect-v0", num_envs=2, reference="tiny-lm", kl_coef=0.1, **options
    )
    policy = agents.CausalLMPolicy.from_pretrained("tiny-lm")
    logged = agents.PPO(policy, venv, agents.PPOConfig(n_epochs=1)).step()
    names = {re.sub(r"^(reward\w*|gold)/.*", r"\1/NAME", name) for name in logged}
    assert names == documented("metrics.md")


PAGES = {
    "Dates": "classics.md",
    "DelayedCredit": "diagnostics.md",
    "Enumerable": "diagnostics.md",
    "IncreasingNumbers": "classics.md",
    "RandomWalks": "classics.md",
    "TokenBandit": "diagnostics.md",
}
"""Pages that describe several environments; the others have one of their own."""


@pytest.mark.parametrize("env_id", sorted(SUITE))
def test_every_option_of_an_environment_is_explained(env_id: str) -> None:
    module, _, cls = SUITE[env_id].entry_point.partition(":")
    options = set(task_options(getattr(importlib.import_module(module), cls).task))
    name = env_id.removeprefix("textenvs/").removesuffix("-v0")
    page = PAGES.get(name) or f"{module.rpartition('.')[2]}.md"
    assert options <= documented(page), options - documented(page)
