"""The environments over a corpus of text: what they import, and that their pages are whole."""

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

from textenvs.suite.headline import HeadlineEnv
from textenvs.suite.instruct import InstructEnv
from textenvs.suite.sentiment import SentimentEnv
from textenvs.task_env import TaskEnv
from textenvs.types import Episode

DOCS = Path(__file__).parents[2] / "docs"

PROGRAM = """
import sys
import gymnasium as gym, textenvs
env = gym.make({env_id!r}, n_prompts=4)
env.reset(seed=0)
_, reward, over, _, info = env.step(env.unwrapped.tokenizer.eos_id)
assert over and info["metrics"]
print(*(name for name in ("torch", "transformers") if name in sys.modules))
"""


@pytest.mark.parametrize("env_id", ["textenvs/Sentiment-v0", "textenvs/Headline-v0"])
def test_playing_needs_no_torch(env_id: str) -> None:
    program = PROGRAM.format(env_id=env_id)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == []


def test_making_the_model_scored_one_needs_no_torch() -> None:
    """A worker is forked after the environment is made; only scoring enters torch."""
    program = (
        "import sys, gymnasium as gym, textenvs\n"
        "gym.make('textenvs/Instruct-v0', n_prompts=4).reset(seed=0)\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize(
    ("kind", "page"),
    [(SentimentEnv, "sentiment.md"), (HeadlineEnv, "headline.md"), (InstructEnv, "instruct.md")],
)
def test_every_option_and_metric_is_explained(kind: type[TaskEnv], page: str) -> None:
    lines = (DOCS / page).read_text(encoding="utf-8").splitlines()
    cells = [line.split("|")[1] for line in lines if line.startswith("|")]
    named = {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}
    env = kind(n_prompts=2)
    metrics = env.metrics([Episode(env.prompts[0], "An answer.")])
    assert {*inspect.signature(kind.task).parameters, *metrics} <= named
    terms = env.score(env.prompts[0], ["An answer."]).terms
    assert set(terms) <= named or set(terms) == {"rouge_l"}
