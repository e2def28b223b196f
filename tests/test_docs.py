"""The documentation keeps up with the code."""

import importlib
import re
from pathlib import Path
from typing import Any

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


def logged_by(learner: type[Any], **settings: Any) -> set[str]:
    """Names of the metrics of one update; reward terms and gold metrics as NAME."""
    options = {"n_items": 2, "max_prompt_tokens": 128, "max_new_tokens": 4}
    samples = 4 if learner.needs_groups else 1
    venv = gym.make_vec(
        "textenvs/ContextSelect-v0",
        num_envs=4,
        samples_per_prompt=samples,
        reference="tiny-lm",
        kl_coef=0.1,
        **options,
    )
    policy = agents.CausalLMPolicy.from_pretrained("tiny-lm")
    mix = None
    if "ptx_coef" in settings:
        mix = agents.PretrainingMix(["some text " * 20], policy.tokenizer, block_tokens=16)
    agent = learner(policy, venv, learner.config_class(**settings), pretraining=mix)
    return {re.sub(r"^(reward\w*|gold)/.*", r"\1/NAME", name) for name in agent.step()}


def test_every_logged_metric_is_explained() -> None:
    logged = logged_by(agents.PPO, n_epochs=1, ptx_coef=0.1, kl_in="loss", kl_estimator="k3")
    for learner in (agents.GRPO, agents.NLPO, agents.ExpertIteration, agents.OnlineDPO):
        logged |= logged_by(learner)
    # Absent where no answer was better than another, as may happen in so small a batch.
    often = {"kept_score", "preference_accuracy", "preference_margin"}
    assert logged | often == documented("metrics.md")


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
