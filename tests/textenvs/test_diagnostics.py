"""The diagnostics: what they pay, how they end, and their exact optimum."""

import json
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from textenvs.errors import ConfigError, RewardError, TokenizerError, UnknownNameError
from textenvs.suite.delayed_credit import DelayedCreditEnv
from textenvs.suite.enumerable import EnumerableEnv, score_table
from textenvs.suite.token_bandit import TokenBanditEnv, arm_means
from textenvs.symbols import SymbolTokenizer
from textenvs.tokenization import TextTokenizer, load_tokenizer
from textenvs.types import Prompt

IDS = ["textenvs/TokenBandit-v0", "textenvs/Enumerable-v0", "textenvs/DelayedCredit-v0"]
ENVS = [TokenBanditEnv, EnumerableEnv, DelayedCreditEnv]


def play(env: Any, prompt: Prompt, tokens: list[int]) -> tuple[float, dict[str, Any]]:
    """Step through tokens until the end; return the reward and the last info."""
    env.reset(options={"prompt_id": prompt.id})
    for i, token in enumerate(tokens):
        _, reward, terminated, truncated, info = env.step(token)
        assert not truncated
        if terminated:
            assert i == len(tokens) - 1, "the episode ended before its last token"
            return reward, info
        assert reward == 0
    raise AssertionError("the episode did not end")


# The tokenizer


def test_symbols_round_trip() -> None:
    tokenizer = SymbolTokenizer("AB-")
    assert isinstance(tokenizer, TextTokenizer) and load_tokenizer(tokenizer) is tokenizer
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.vocab_size) == (0, 1, 5)
    assert tokenizer.encode("B-A") == tokenizer.encode_completion("B-A") == [3, 4, 2]
    assert tokenizer.encode_batch(["A", ""]) == [[2], []]
    assert tokenizer.decode([3, 1, 4, 0]) == "B-_"
    assert tokenizer.encode("B-_") == [3, 4, 0]
    assert tokenizer == SymbolTokenizer("AB-") != SymbolTokenizer("BA-")


def test_symbols_refuse() -> None:
    with pytest.raises(TokenizerError, match="the character 'x' of 'Ax' is not in the alphabet"):
        SymbolTokenizer("AB").encode("Ax")
    for ids in ([4], [-1]):
        with pytest.raises(TokenizerError, match=r"ids outside 0\.\.3"):
            SymbolTokenizer("AB").decode(ids)
    for symbols in ("", "ABA"):
        with pytest.raises(ConfigError, match="at least one character and none twice"):
            SymbolTokenizer(symbols)
    with pytest.raises(ConfigError, match="stands for padding"):
        SymbolTokenizer("A_")


# What all have in common


@pytest.mark.parametrize("make", ENVS)
def test_the_oracle_attains_the_optimum(make: Any) -> None:
    env = make()
    scores = [env.score(p, [env.oracle(p)]).scores[0] for p in env.prompts]
    assert scores == [env.reward.bounds(p)[1] for p in env.prompts]
    assert env.optimum() == pytest.approx(np.mean(scores), abs=1e-12)
    assert env.optimum(beta=0.1) < env.optimum() - 0.1


@pytest.mark.parametrize("make", ENVS)
def test_stepping_pays_what_the_text_is_worth(make: Any) -> None:
    """For every completion of a prompt, of which padding and EOS are a part."""
    env = make()
    eos, prompt = env.tokenizer.eos_id, env.prompts[1]
    for ids, _ in env.optimum(1.0).policy(prompt)[::97]:
        reward, info = play(env, prompt, list(ids))
        said = env.tokenizer.decode(ids)
        assert info["completion"] == said
        assert reward == env.score(prompt, [said]).scores[0]
        assert info["finish_reason"] == ("eos" if ids[-1] == eos else "length")
        assert 0 not in ids or reward == 0 or make is DelayedCreditEnv


@pytest.mark.parametrize("make", ENVS)
def test_empty_and_illegal_answers_get_the_floor(make: Any) -> None:
    env = make()
    texts = ["", " ", "\n", "_", "é", "abc" * 1000, "\x00"]
    for prompt in env.prompts:
        assert not env.score(prompt, texts).scores.any()
    floor, info = play(env, env.prompts[0], [env.tokenizer.eos_id])
    assert floor == 0 and info["completion"] == ""


@pytest.mark.parametrize("env_id", IDS)
def test_the_splits_are_equal_on_purpose(env_id: str) -> None:
    train, test = (gym.make(env_id, split=s).unwrapped for s in ("train", "test"))
    assert list(train.prompts) == list(test.prompts)  # type: ignore[attr-defined]
    with pytest.raises(UnknownNameError, match="split"):
        gym.make(env_id, split="dev")


@pytest.mark.parametrize("env_id", IDS)
@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_native_equals_sync(env_id: str, mode: AutoresetMode, as_plain: Any) -> None:
    native = gym.make_vec(env_id, num_envs=3, autoreset_mode=mode)
    sync = gym.make_vec(
        env_id, 3, vectorization_mode="sync", vector_kwargs={"autoreset_mode": mode}
    )
    json.dumps(gym.make(env_id).spec.to_json())  # type: ignore[union-attr]
    generator = np.random.default_rng(0)
    assert as_plain(native.reset(seed=4)) == as_plain(sync.reset(seed=4))
    for _ in range(40):
        actions = generator.integers(native.single_action_space.n, size=3)  # type: ignore[attr-defined]
        one, two = native.step(actions), sync.step(actions)
        for key in ("final_obs",):  # Gymnasium keeps it in an array of objects
            one[4].pop(key, None), two[4].pop(key, None)
        assert as_plain(one) == as_plain(two)
        if mode is AutoresetMode.DISABLED and one[2].any():
            options = {"reset_mask": one[2]}
            assert as_plain(native.reset(options=dict(options))) == as_plain(
                sync.reset(options=dict(options))
            )
    sync.close()


# TokenBandit


def test_bandit_pays_the_mean_of_the_arm() -> None:
    env = TokenBanditEnv(n_contexts=3, n_arms=4, task_seed=5)
    means = arm_means(3, 4, 5)
    assert env.optimum() == pytest.approx(means.max(axis=1).mean())
    for x, prompt in enumerate(env.prompts):
        for a, arm in enumerate("ABCD"):
            reward, info = play(env, prompt, env.tokenizer.encode(arm))
            assert reward == means[x, a]
            assert info["metrics"]["best"] == (means[x, a] == means[x].max())
            assert info["metrics"]["regret"] == pytest.approx(means[x].max() - means[x, a])
        reward, info = play(env, prompt, env.tokenizer.encode("b"))  # the letter of a context
        assert (reward, info["metrics"]["legal"]) == (0, 0)


def test_the_best_arm_depends_on_the_context() -> None:
    for seed in range(20):
        means = arm_means(5, 5, seed)
        assert sorted(means.argmax(axis=1)) == [0, 1, 2, 3, 4]
        assert means.min() >= 0 and means.max() <= 1
        ordered = np.sort(means, axis=1)
        assert (ordered[:, -1] - ordered[:, -2] > 0.2).all()
    assert arm_means(5, 5, 0).tolist() == arm_means(5, 5, 0).tolist() != arm_means(5, 5, 1).tolist()


def test_bandit_optimum_by_hand() -> None:
    """One token: pi*(a) is the softmax of r / beta over all V tokens."""
    env = TokenBanditEnv(n_contexts=2, n_arms=3)
    beta, means = 0.2, arm_means(2, 3, 0)
    others = env.tokenizer.vocab_size - 3
    mass = (np.exp(means / beta).sum(axis=1) + others) / env.tokenizer.vocab_size
    found = env.optimum(beta)
    assert found == pytest.approx((beta * np.log(mass)).mean(), rel=1e-12)
    arms = env.tokenizer.encode("ABC")
    weights = np.exp(means[0] / beta)
    told = found.token_policy(env.prompts[0])[arms]
    assert told == pytest.approx(weights / (weights.sum() + others), rel=1e-12)


# Enumerable


def test_exactly_one_answer_scores_one() -> None:
    for seed in range(20):
        table = score_table("ABCD", 3, np.random.default_rng(seed))
        scores = sorted(table.values())
        assert len(table) == 4 + 16 + 64
        assert scores[-1] == 1 and scores[-2] < 0.995 and scores[0] > 0
        assert len(max(table, key=table.__getitem__)) == 3
        assert all(table[text] > table[text[:-1]] for text in table if len(text) > 1)


def test_the_policy_must_end_its_answer() -> None:
    env = EnumerableEnv()
    prompt = env.prompts[0]
    best = env.tokenizer.encode(env.oracle(prompt))
    assert play(env, prompt, [*best, env.tokenizer.eos_id])[0] == 1
    assert play(env, prompt, [*best, env.tokenizer.pad_id])[0] == 0
    assert play(env, prompt, [*best, best[0]])[0] == 0
    assert 0 < play(env, prompt, [best[0], env.tokenizer.eos_id])[0] < 0.3


def test_tables_follow_prompt_and_seed() -> None:
    one, two = EnumerableEnv(), EnumerableEnv(task_seed=1)
    assert len({one.oracle(prompt) for prompt in one.prompts}) > 1
    assert one.reward.table != two.reward.table  # type: ignore[attr-defined]
    fewer = EnumerableEnv(n_prompts=2).reward.table  # type: ignore[attr-defined]
    assert fewer == {name: one.reward.table[name] for name in fewer}  # type: ignore[attr-defined]


# DelayedCredit


def test_delayed_credit_by_hand() -> None:
    env = DelayedCreditEnv(delay=2)
    prompt = env.prompts[1]
    paid = {
        "B--": 1.0,
        "B-A": 0.5,
        "BAA": 0.0,
        "A--": 0.2,
        "---": 0.2,
        "A-_": 0.1,
        "B": 0.0,
        "B-": 0.0,
        "B---": 0.0,
        "--B": 0.1,
    }
    assert dict(zip(paid, env.score(prompt, list(paid)).scores, strict=True)) == paid
    metrics = env.metrics(env.batch.episodes([prompt] * 3, ["B--", "A--", "BA-"]))
    assert {name: values.tolist() for name, values in metrics.items()} == {
        "key": [1, 0, 1],
        "waited": [1, 1, 0],
        "solved": [1, 0, 0],
    }


def test_credit_reaches_back_to_the_first_token() -> None:
    """The best policy is decided at once: nothing after the first token can mend it."""
    env = DelayedCreditEnv()
    found = env.optimum(0.02)
    key, wrong = env.tokenizer.encode("AB")
    first = found.token_policy(env.prompts[0])
    assert first[key] > 0.99
    filler = env.tokenizer.encode("-")[0]
    assert found.token_policy(env.prompts[0], (key,))[filler] > 0.99
    assert found.token_policy(env.prompts[0], (wrong,))[filler] > 0.5


# Mistakes


@pytest.mark.parametrize(
    ("make", "options", "message"),
    [
        (TokenBanditEnv, {"n_arms": 1}, "n_arms must be between 2 and 26, got 1"),
        (TokenBanditEnv, {"n_contexts": 27}, "n_contexts must be between 1 and 26, got 27"),
        (TokenBanditEnv, {"task_seed": -1}, "task_seed must be at least 0, got -1"),
        (EnumerableEnv, {"n_prompts": 5}, "n_prompts must be between 1 and 4, got 5"),
        (EnumerableEnv, {"horizon": 7}, "horizon must be between 1 and 6, got 7"),
        (EnumerableEnv, {"n_symbols": 2.0}, "n_symbols must be between 2 and 26, got 2.0"),
        (DelayedCreditEnv, {"delay": 0}, "delay must be at least 1, got 0"),
        (DelayedCreditEnv, {"n_keys": True}, "n_keys must be between 2 and 26, got True"),
    ],
)
def test_bad_options(make: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(**options)


def test_a_prompt_of_another_task_is_refused() -> None:
    with pytest.raises(RewardError, match="no scores for the prompt 'other'"):
        TokenBanditEnv().score(Prompt(id="other", text="a"), ["A"])
