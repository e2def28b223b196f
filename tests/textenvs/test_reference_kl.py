"""The KL wrappers: both timings, single and vector, every autoreset mode."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from textenvs.env import TextEnv
from textenvs.errors import (
    ActionError,
    ConfigError,
    DoubleCountingError,
    ModelError,
    UnknownNameError,
)
from textenvs.kl import KLCoefficient, kl_estimate
from textenvs.reference import CausalLMReference
from textenvs.vector_env import TextVectorEnv
from textenvs.wrappers.reference_kl import ReferenceKL, VectorReferenceKL, find_shaping

Actions = Callable[..., np.ndarray]
MODES = list(AutoresetMode)
COEF, ROWS, STEPS = 0.25, 3, 24


@pytest.fixture(scope="module")
def model(make_model: Callable[..., Any]) -> Any:
    return make_model("llama", seed=3)


def reference(model: Any) -> CausalLMReference:
    return CausalLMReference(model, bfloat16=False)


@torch.no_grad()
def full_logprobs(model: Any, prompt: list[int], completion: list[int]) -> np.ndarray:
    """Return log pi of every token of a completion [T, V], by one plain unpadded pass."""
    logits = model(torch.tensor([prompt + completion])).logits[0, len(prompt) - 1 : -1]
    return logits.double().log_softmax(-1).numpy()


def plain_logprobs(model: Any, prompt: list[int], completion: list[int]) -> np.ndarray:
    return full_logprobs(model, prompt, completion)[np.arange(len(completion)), completion]


def play(env: Any, actions: np.ndarray, words: np.ndarray | None = None) -> list[dict[str, Any]]:
    """Step a vector environment; return each ended episode with what was paid for it."""
    mode, observation = env.metadata["autoreset_mode"], env.reset(seed=5)[0]
    start = env.unwrapped.batch.num_prompt_columns
    paid: list[list[float]] = [[] for _ in range(ROWS)]
    said: list[list[float]] = [[] for _ in range(ROWS)]
    over = np.zeros(ROWS, bool)
    episodes = []
    for step, tokens in enumerate(actions):
        before, given = observation, None if words is None else words[step]
        taken = tokens if given is None else {"token": tokens, "logprob": given}
        observation, rewards, ended, _, info = env.step(taken)
        finals = info.get("final_info", info)
        for row in np.flatnonzero(~over):
            paid[row].append(float(rewards[row]))
            if "reference_logprob" in info:
                said[row].append(float(info["reference_logprob"][row]))
            if ended[row]:
                prompt = before["input_ids"][row, :start][
                    before["attention_mask"][row, :start].astype(bool)
                ]
                episodes.append(
                    {
                        "row": int(row),
                        "prompt": prompt.tolist(),
                        "ids": finals["completion_ids"][row],
                        "score": float(finals["reward_terms"]["count_a"][row]),
                        "coef": float(finals["kl"]["coef"][row]),
                        "logprobs": finals["kl"]["reference_logprob"][row],
                        "terms": finals["kl"]["terms"][row],
                        "paid": paid[row],
                        "said": said[row],
                    }
                )
            if ended[row]:
                paid[row], said[row] = [], []
        over = ended if mode is AutoresetMode.NEXT_STEP else np.zeros(ROWS, bool)
        if mode is AutoresetMode.DISABLED and ended.any():
            observation, _ = env.reset(options={"reset_mask": ended})
    return episodes


def vector_kl(toy: dict[str, Any], model: Any, mode: Any, timing: str, **options: Any) -> Any:
    venv = TextVectorEnv(**toy, num_envs=ROWS, autoreset_mode=mode)
    return VectorReferenceKL(venv, reference(model), COEF, timing=timing, **options)


@pytest.mark.parametrize("mode", MODES)
def test_both_timings_give_the_terms_of_a_plain_pass(
    mode: AutoresetMode, toy: dict[str, Any], model: Any, random_actions: Actions
) -> None:
    actions = random_actions(7, (STEPS, ROWS))
    by_step = play(vector_kl(toy, model, mode, "step"), actions)
    by_episode = play(vector_kl(toy, model, mode, "episode"), actions)
    assert len(by_step) == len(by_episode) > 15
    assert len({len(episode["ids"]) for episode in by_step}) > 3
    for one, two in zip(by_step, by_episode, strict=True):
        assert one["ids"] == two["ids"]
        expected = plain_logprobs(model, one["prompt"], one["ids"])
        for episode in (one, two):
            np.testing.assert_allclose(episode["logprobs"], expected, atol=1e-4)
            np.testing.assert_allclose(episode["terms"], COEF * expected, atol=1e-4)
            np.testing.assert_allclose(
                sum(episode["paid"]), episode["score"] + COEF * expected.sum(), atol=1e-4
            )
        np.testing.assert_allclose(one["said"], expected, atol=1e-4)
        np.testing.assert_allclose(one["paid"][:-1], COEF * expected[:-1], atol=1e-4)
        assert two["paid"][:-1] == [0.0] * (len(expected) - 1) and not two["said"]


@pytest.mark.parametrize("timing", ["step", "episode"])
def test_single_equals_vector(
    timing: str, toy: dict[str, Any], model: Any, random_actions: Actions
) -> None:
    actions = random_actions(8, (STEPS, ROWS))
    together = play(vector_kl(toy, model, AutoresetMode.SAME_STEP, timing), actions)
    for row in range(ROWS):
        env = ReferenceKL(TextEnv(**toy), reference(model), COEF, timing=timing)
        env.reset(seed=5 + row)
        expected = iter([episode for episode in together if episode["row"] == row])
        paid = 0.0
        for token in actions[:, row]:
            _, reward, over, _, info = env.step(token)
            paid += reward
            if timing == "step":
                assert info["reference_logprob"] < 0
            if over:
                episode = next(expected)
                assert info["completion_ids"] == episode["ids"]
                np.testing.assert_allclose(info["kl"]["terms"], episode["terms"], atol=1e-4)
                assert paid == pytest.approx(sum(episode["paid"]), abs=1e-4)
                paid = 0.0
                env.reset()


@pytest.mark.parametrize("estimator", ["k1", "k2", "k3", "full"])
@pytest.mark.parametrize("timing", ["step", "episode"])
def test_zero_for_the_reference_itself_and_by_formula_for_another(
    timing: str, estimator: str, toy: dict[str, Any], model: Any, make_model: Callable[..., Any]
) -> None:
    other = make_model("llama", seed=4)
    for policy, is_reference in ((model, True), (other, False)):
        env = ReferenceKL(
            TextEnv(**toy),
            reference(model),
            COEF,
            timing=timing,
            policy_logprob=True,
            estimator=estimator,
        )
        observation, info = env.reset(options={"prompt_id": "p3"})
        prompt = env.unwrapped.tokenizer.encode(info["prompt"])  # type: ignore[attr-defined]
        ids = [*env.unwrapped.tokenizer.encode_completion("tab"), 1]  # type: ignore[attr-defined]
        words = full_logprobs(policy, prompt, ids).astype(np.float32)
        total = 0.0
        for t, token in enumerate(ids):
            action: dict[str, Any] = {"token": token, "logprob": words[t, token]}
            if estimator == "full":
                action["logprobs"] = words[t]
                assert action.keys() == env.action_space.spaces.keys()  # type: ignore[attr-defined]
            _, reward, over, _, info = env.step(action)
            total += reward
        theirs = full_logprobs(model, prompt, ids)
        if estimator == "full":
            expected = -COEF * kl_estimate(words, theirs, "full")
        else:
            steps = np.arange(len(ids))
            expected = -COEF * kl_estimate(words[steps, ids], theirs[steps, ids], estimator)
        assert over
        np.testing.assert_allclose(info["kl"]["terms"], expected, atol=1e-4)
        np.testing.assert_allclose(
            info["kl"]["reference_logprob"], theirs[np.arange(len(ids)), ids], atol=1e-4
        )
        score = sum(info["reward_terms"].values())
        assert total == pytest.approx(score + expected.sum(), abs=1e-4)
        assert bool(np.abs(info["kl"]["terms"]).max() < 1e-4) is is_reference


@pytest.mark.parametrize("timing", ["step", "episode"])
def test_adaptive_coefficient_follows_the_episodes(
    timing: str, toy: dict[str, Any], model: Any, random_actions: Actions
) -> None:
    """Beta by hand, and the terms told are the terms paid although beta moves meanwhile."""
    coefficient = KLCoefficient(COEF, target=2.0, horizon=10)
    venv = TextVectorEnv(**toy, num_envs=ROWS, autoreset_mode=AutoresetMode.SAME_STEP)
    env = VectorReferenceKL(venv, reference(model), coefficient, timing=timing, policy_logprob=True)
    actions = random_actions(9, (STEPS, ROWS))
    words = -np.random.default_rng(0).random((STEPS, ROWS)).astype(np.float32)
    episodes = play(env, actions, words)
    for episode in episodes:
        assert sum(episode["paid"]) == pytest.approx(episode["score"] + sum(episode["terms"]))
    by_hand = KLCoefficient(COEF, target=2.0, horizon=10)
    env = VectorReferenceKL(
        TextVectorEnv(**{**toy, "max_new_tokens": 1}, num_envs=ROWS, autoreset_mode="SameStep"),
        reference(model),
        by_hand,
        timing=timing,
        policy_logprob=True,
    )
    env.reset(seed=0)
    *_, info = env.step({"token": actions[0], "logprob": words[0]})
    told = info["final_info"]["kl"]
    kl = np.mean([words[0, row] - told["reference_logprob"][row][0] for row in range(ROWS)])
    assert by_hand.value == pytest.approx(
        COEF * (1 + np.clip(kl / 2.0 - 1, -0.2, 0.2) * ROWS / 10), rel=1e-6
    )
    assert told["coef"].tolist() == [COEF] * ROWS, "the batch is charged before beta moves"


def test_outer_time_limit_is_charged_too(toy: dict[str, Any], model: Any) -> None:
    env = ReferenceKL(gym.wrappers.TimeLimit(TextEnv(**toy), 2), reference(model), COEF)
    env.reset(seed=0)
    env.step(70)
    _, reward, terminated, truncated, info = env.step(71)
    assert (terminated, truncated) == (False, True)
    assert len(info["kl"]["terms"]) == 2 and reward == pytest.approx(sum(info["kl"]["terms"]))


@pytest.mark.parametrize("timing", ["step", "episode"])
def test_a_longer_prompt_after_a_shorter_one(timing: str, toy: dict[str, Any], model: Any) -> None:
    """The cache grows to the left."""
    env = ReferenceKL(TextEnv(**toy), reference(model), COEF, timing=timing)
    for prompt_id in ("p0", "p3", "p1"):
        _, start = env.reset(options={"prompt_id": prompt_id})
        ids = [70, 80, 1]
        for token in ids:
            info = env.step(token)[4]
        prompt = env.unwrapped.tokenizer.encode(start["prompt"])  # type: ignore[attr-defined]
        expected = plain_logprobs(model, prompt, ids)
        np.testing.assert_allclose(info["kl"]["reference_logprob"], expected, atol=1e-4)


def test_temperature_is_applied(toy: dict[str, Any], model: Any) -> None:
    env = ReferenceKL(
        TextEnv(**toy), CausalLMReference(model, temperature=2.0, bfloat16=False), 1.0
    )
    _, start = env.reset(seed=0)
    *_, info = env.step(1)
    prompt = env.unwrapped.tokenizer.encode(start["prompt"])  # type: ignore[attr-defined]
    with torch.no_grad():
        logits = model(torch.tensor([prompt])).logits[0, -1] / 2.0
    assert info["kl"]["terms"] == pytest.approx([logits.log_softmax(-1)[1].item()], abs=1e-4)


def test_make_vec_applies_the_wrapper(select_options: dict[str, Any], model: Any) -> None:
    make = gym.make_vec
    venv = make(
        "textenvs/ContextSelect-v0", num_envs=2, **select_options, reference=model, kl_coef=0.1
    )
    shaping = find_shaping(venv)
    assert shaping is not None and (shaping.coef, shaping.timing) == (0.1, "episode")
    plain = make(
        "textenvs/ContextSelect-v0", num_envs=2, **select_options, reference=model, kl_coef=0
    )
    assert find_shaping(plain) is None


def test_wrapping_twice_raises(toy: dict[str, Any], model: Any) -> None:
    env = ReferenceKL(TextEnv(**toy), model, COEF)
    with pytest.raises(DoubleCountingError, match="already charges a reference KL"):
        ReferenceKL(gym.wrappers.TimeLimit(env, 3), model, COEF)
    venv = VectorReferenceKL(TextVectorEnv(**toy, num_envs=2), model, COEF)
    with pytest.raises(DoubleCountingError, match="wrap it once"):
        VectorReferenceKL(venv, model, COEF)


def test_bad_options(toy: dict[str, Any], model: Any, make_model: Callable[..., Any]) -> None:
    env = TextEnv(**toy)
    with pytest.raises(UnknownNameError, match="unknown KL timing 'steps'. Did you mean 'step'"):
        ReferenceKL(env, model, COEF, timing="steps")
    with pytest.raises(UnknownNameError, match="unknown KL estimator 'k9'"):
        ReferenceKL(env, model, COEF, estimator="k9")
    with pytest.raises(ConfigError, match="needs the policy's log-probabilities"):
        ReferenceKL(env, model, COEF, estimator="k3")
    with pytest.raises(ModelError, match="knows 100 tokens.*tokenizer has 258"):
        ReferenceKL(env, make_model(vocab_size=100), COEF)
    told = ReferenceKL(env, model, COEF, policy_logprob=True)
    told.reset(seed=0)
    with pytest.raises(ActionError, match="a dict with 'token' and 'logprob'"):
        told.step(5)
