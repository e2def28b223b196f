"""Best-of-n: against the exact expectation, plain sampling, other rewards, and its plans."""

import math
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch

from agents.baselines import Reference
from agents.best_of_n import BestOfN
from agents.evaluation import answer_prompts, evaluate
from agents.policy import CausalLMPolicy
from textenvs.errors import ConfigError, ModelError

Make = Callable[..., Any]
LETTERS = [f"{chr(97 + i % 26)}{i}" for i in range(48)]


@pytest.fixture
def uniform_policy(make_model: Make) -> CausalLMPolicy:
    """A policy that finds every one of six tokens equally likely."""
    model = make_model(vocab_size=6)
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    return CausalLMPolicy(model, bfloat16=False)


@pytest.mark.parametrize("n", [1, 2, 8])
def test_score_is_the_exact_expectation(n: int, uniform_policy: CausalLMPolicy) -> None:
    """Of the best of n draws: sum_k s_k (F(s_k)^n - F(s_(k-1))^n) over all answers."""
    env = gym.make("textenvs/Enumerable-v0", n_prompts=1)
    listed: Any = env.unwrapped
    every = listed.completions
    chances = 6.0 ** -every.mask.sum(1, dtype=float)
    levels, which = np.unique(every.rewards, return_inverse=True)
    below = np.cumsum(np.bincount(which, chances))
    assert below[-1] == pytest.approx(1.0)
    expected = levels @ np.diff(np.concatenate([[0.0], below]) ** n)

    agent = BestOfN(uniform_policy, env, n, seed=n)
    answers = agent.answers([0] * 400)
    texts = [agent.batch.tokenizer.decode([t for t in a if t != 1]) for a in answers]
    scores = listed.score(listed.prompts[0], texts).scores
    assert abs(scores.mean() - expected) < 4 * scores.std() / math.sqrt(len(scores))


def test_score_grows_with_n(make_policy: Make, make_venv: Make) -> None:
    venv = make_venv(1, prompts=LETTERS)
    means = [evaluate(BestOfN(make_policy(), venv, n), venv, 48)["reward"].mean for n in (1, 4, 16)]
    assert means[0] + 0.2 < means[1] and means[1] + 0.1 < means[2]


def test_one_sample_is_plain_sampling(make_policy: Make, make_venv: Make) -> None:
    venv, policy = make_venv(1, prompts=LETTERS), make_policy()
    plain, other = (Reference(policy, seed=seed) for seed in (5, 6))
    said = [
        [answer.completion for answer in answer_prompts(agent, venv, 20, deterministic, num_envs=1)]
        for agent, deterministic in (
            (BestOfN(policy, venv, 1, seed=5), True),
            (plain, False),
            (other, False),
        )
    ]
    assert said[0] == said[1] != said[2]


def test_chosen_by_another_reward(make_policy: Make, make_venv: Make) -> None:
    """A reward of the opposite sign picks the worst, and the environment still pays its own."""

    def high(prompt: Any, completion: str) -> float:
        return -sum(c < "P" for c in completion) / max(1, len(completion))

    venv, policy = make_venv(1, prompts=LETTERS), make_policy()
    best, worst = BestOfN(policy, venv, 8), BestOfN(policy, venv, 8, reward=high)
    means = [evaluate(agent, venv, 48)["reward"].mean for agent in (best, worst)]
    assert means[0] > 0.5 and means[1] < 0.1


def test_unscored_answers_are_not_chosen(make_policy: Make, make_venv: Make) -> None:
    def only_some(prompt: Any, completion: str) -> float | None:
        return None if completion[:1] < "P" else -1.0

    venv = make_venv(1, prompts=LETTERS, reward=only_some, on_unscored=5.0)
    agent = BestOfN(make_policy(), venv, 16)
    firsts = [agent.batch.tokenizer.decode(a[:1]) for a in agent.answers(range(20))]
    assert all(first >= "P" for first in firsts)


@pytest.mark.parametrize("options", [{}, {"stop": ("a", "e")}, {"max_new_tokens": 1}])
def test_plans_end_where_the_episode_does(options: Any, make_policy: Make, make_venv: Make) -> None:
    """By EOS, a stop string or the budget; the reward is that of the sample that was chosen."""
    venv = make_venv(1, prompts=LETTERS, **options)
    agent = BestOfN(make_policy(), venv, 3, rows=7)
    assert agent.batch.num_rows == 6, "two prompts at once"
    for i, answer in enumerate(agent.answers(range(9))):
        venv.reset(options={"prompt_id": venv.prompts[i].id})
        for said, token in enumerate(answer, start=1):
            *_, terminated, _, _ = venv.step(np.array([token]))
            assert terminated[0] == (said == len(answer))


def test_same_seed_same_answers(make_policy: Make, make_venv: Make) -> None:
    one, two, other = (
        BestOfN(make_policy(), make_venv(1, prompts=LETTERS), 4, seed=seed).answers(range(10))
        for seed in (0, 0, 1)
    )
    assert one == two != other


def test_plays_a_single_environment_and_needs_its_state(make_policy: Make, make_venv: Make) -> None:
    venv = make_venv(1)
    agent = BestOfN(make_policy(), venv, 2)
    observation, _ = venv.reset(seed=0)
    single = {key: value[0] for key, value in observation.items()}
    action, state = agent.predict(single)
    assert action.shape == () and action == state.tokens[0, 0]
    observation, *_ = venv.step(np.array([70]))
    single = {key: value[0] for key, value in observation.items()}
    assert agent.predict(single, state)[0] == state.tokens[0, 1]
    with pytest.raises(ConfigError, match="this one is under way; pass the state"):
        agent.predict(single)


def test_kl_bound(make_policy: Make, make_venv: Make) -> None:
    bounds = [BestOfN(make_policy(), make_venv(1), n).kl_bound for n in (1, 4)]
    assert bounds == pytest.approx([0.0, math.log(4) - 0.75])


def test_refuses_what_cannot_work(
    make_policy: Make, make_venv: Make, uniform_policy: CausalLMPolicy
) -> None:
    for options in ({"n": 0}, {"n": True}, {"rows": 0}):
        with pytest.raises(ConfigError, match="a whole number of at least 1"):
            BestOfN(make_policy(), make_venv(1), **options)
    with pytest.raises(ModelError, match="knows 6 tokens"):
        BestOfN(uniform_policy, make_venv(1))
