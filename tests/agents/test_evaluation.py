"""Evaluation: every prompt once, in order, by any agent; intervals against scipy and by hand."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from agents.evaluation import Interval, answer_prompts, bootstrap_mean, evaluate, summarise
from textenvs.env import TextEnv
from textenvs.errors import ConfigError
from textenvs.types import Prompt
from textenvs.wrappers.reference_kl import VectorReferenceKL

Make = Callable[..., Any]
WORDS = ["", "a", "abc", "abcd", "ab", "abcdefgh", "z"]


class Scripted:
    """Knows each prompt's word by its last token, and says it; then EOS."""

    def __init__(self, env: Any) -> None:
        self.encode, self.eos = env.tokenizer.encode_completion, env.tokenizer.eos_id
        self.columns = env.batch.num_prompt_columns
        self.calls: list[bool] = []

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Any]:
        self.calls.append(deterministic)
        said = observation["attention_mask"][:, self.columns :].sum(1)
        assert (episode_start == (said == 0)).all(), "exactly the rows that begin are announced"
        digits = observation["input_ids"][:, self.columns - 1] - self.encode("0")[0]
        scripts = [[*self.encode(WORDS[digit]), self.eos] for digit in digits]
        tokens = [s[min(n, len(s) - 1)] for s, n in zip(scripts, said, strict=True)]
        return np.array(tokens), state  # rows without a prompt left go on beyond their script


@pytest.fixture
def env(byte_tokenizer: Any) -> TextEnv:
    """Seven prompts; a budget of 5 tokens, so that the longest word is cut."""
    return TextEnv(
        [Prompt(f"p{i}", f"{'?' * i}{i}") for i in range(7)],
        lambda prompt, completion: float(len(completion)),
        byte_tokenizer,
        max_prompt_tokens=8,
        max_new_tokens=5,
        metrics=lambda episodes: {
            "has_a": np.array([float("a" in e.completion) for e in episodes])
        },
    )


@pytest.mark.parametrize("num_envs", [1, 3, 7, 64])
def test_every_prompt_is_answered_once_in_order(num_envs: int, env: TextEnv) -> None:
    answers = answer_prompts(Scripted(env), env, 100, num_envs=num_envs)
    assert [answer.prompt_id for answer in answers] == [f"p{i}" for i in range(7)]
    assert [answer.completion for answer in answers] == [*WORDS[:5], "abcde", "z"]
    assert [answer.values["reward"] for answer in answers] == [0, 1, 3, 4, 2, 5, 1]
    assert [answer.values["length"] for answer in answers] == [1, 2, 4, 5, 3, 5, 2]
    assert [answer.values["eos"] for answer in answers] == [1, 1, 1, 1, 1, 0, 1]
    assert [answer.values["has_a"] for answer in answers] == [0, 1, 1, 1, 1, 1, 0]


def test_summary_and_limits(env: TextEnv) -> None:
    agent = Scripted(env)
    found = evaluate(agent, env, n_prompts=4, deterministic=False, num_envs=2)
    assert set(found) == {"reward", "length", "eos", "has_a"}
    assert found["reward"].mean == 2.0 and found["eos"] == (1.0, 1.0, 1.0)
    assert found["reward"].low < 2.0 < found["reward"].high
    assert not any(agent.calls)
    with pytest.raises(ConfigError, match="n_prompts must be at least 1, got 0"):
        evaluate(agent, env, n_prompts=0)
    with pytest.raises(ConfigError, match="env_kwargs goes with an id"):
        evaluate(agent, env, env_kwargs={"n_items": 3})


def test_greedy_evaluation_of_a_policy_repeats_itself(make_policy: Make, make_venv: Make) -> None:
    policy, venv = make_policy(), make_venv(3)
    one, two = (answer_prompts(policy, venv, 6, num_envs=n) for n in (2, 5))
    assert [a.completion for a in one] == [a.completion for a in two]
    assert evaluate(policy, venv, 6) == evaluate(policy, venv, 6)


def test_kl_is_left_out(make_policy: Make, make_venv: Make) -> None:
    policy, venv = make_policy(), make_venv(3)
    shaped = VectorReferenceKL(make_venv(3), policy.reference(), 5.0)
    assert evaluate(policy, shaped, 6) == evaluate(policy, venv, 6)


def test_an_id_takes_the_test_split() -> None:
    class Silent:
        def predict(self, observation: Any, **_: Any) -> tuple[np.ndarray, None]:
            return np.full(len(observation["input_ids"]), 0), None

    answers = answer_prompts(
        Silent(), "textenvs/ContextSelect-v0", 3, env_kwargs={"n_items": 4, "max_new_tokens": 2}
    )
    assert [answer.prompt_id for answer in answers] == ["test-0-0", "test-0-1", "test-0-2"]


def test_bootstrap_against_the_normal_interval() -> None:
    values = np.random.default_rng(0).normal(3.0, 2.0, 400)
    found = bootstrap_mean(values, seed=1)
    half = 1.96 * values.std() / 20
    assert found.mean == pytest.approx(values.mean())
    assert found.low == pytest.approx(values.mean() - half, abs=0.03)
    assert found.high == pytest.approx(values.mean() + half, abs=0.03)
    assert bootstrap_mean(values, seed=1) == found != bootstrap_mean(values, seed=2)


def test_bootstrap_without_spread() -> None:
    assert bootstrap_mean(np.array([2.0])) == Interval(2.0, 2.0, 2.0)
    assert bootstrap_mean(np.full(9, 0.5)) == (0.5, 0.5, 0.5)


def test_summarise_by_hand() -> None:
    from agents.evaluation import Answer

    answers = [Answer("a", "", {"x": 0.0}), Answer("b", "", {"x": 1.0})]
    assert summarise(answers)["x"] == (0.5, 0.0, 1.0)
