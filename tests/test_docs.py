"""The documentation keeps up with the code."""

import inspect
import re
from pathlib import Path

import gymnasium as gym

import agents
from textenvs.suite.context_select import context_select_task

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
    names = {re.sub(r"^(reward|gold)/.*", r"\1/NAME", name) for name in logged}
    assert names == documented("metrics.md")


def test_every_option_of_context_select_is_explained() -> None:
    options = set(inspect.signature(context_select_task).parameters)
    assert options <= documented("context_select.md")
