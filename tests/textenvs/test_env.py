"""`TextEnv`: ends, infos, replay, checkers."""

import json
import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.wrappers import TimeLimit
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import textenvs
from textenvs.env import TextEnv
from textenvs.errors import (
    ActionError,
    ConfigError,
    EpisodeOverError,
    RewardError,
    UnknownNameError,
)

ID = "textenvs/ContextSelect-v0"


def say(env: Any, text: str) -> tuple[Any, float, bool, bool, dict[str, Any]]:
    """Act the tokens of a text; return the last step."""
    for token in env.unwrapped.tokenizer.encode_completion(text):
        step = env.step(token)
    return step


def test_layout_of_the_observation(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy)
    encode, pad = env.tokenizer.encode_completion, env.tokenizer.pad_id
    observation, info = env.reset(options={"prompt_id": "p1"})
    assert info == {"prompt_id": "p1", "prompt": "abab1"}
    assert observation["input_ids"].tolist() == [pad] * 4 + encode("abab1") + [pad] * 5
    assert observation["attention_mask"].tolist() == [0] * 4 + [1] * 5 + [0] * 5
    observation, reward, terminated, truncated, info = say(env, "xy")
    assert observation["input_ids"].tolist() == [pad] * 4 + encode("abab1xy") + [pad] * 3
    assert observation["attention_mask"].tolist() == [0] * 4 + [1] * 7 + [0] * 3
    assert (reward, terminated, truncated, info) == (0.0, False, False, {})
    assert observation in env.observation_space


def test_eos_ends_the_episode(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy)
    env.reset(options={"prompt_id": "p0"})
    say(env, "aba")
    _, reward, terminated, truncated, info = env.step(env.tokenizer.eos_id)
    assert (terminated, truncated) == (True, False)
    assert reward == 2 + 0.125 * 3
    assert info == {
        "completion": "aba",
        "completion_ids": [*env.tokenizer.encode_completion("aba"), env.tokenizer.eos_id],
        "finish_reason": "eos",
        "reward_terms": {"count_a": reward},
        "reward_raw": {"count_a": reward},
        "metrics": {},
        "scored": True,
        "task_reward": reward,
    }


def test_eos_on_the_last_token_is_eos_not_length(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy)
    env.reset(seed=0)
    say(env, "abcd")
    assert env.step(env.tokenizer.eos_id)[4]["finish_reason"] == "eos"


def test_budget_ends_the_episode(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy)
    env.reset(seed=0)
    assert not say(env, "aaaa")[2]
    _, _, terminated, truncated, info = say(env, "a")
    assert (terminated, truncated) == (True, False)
    assert (info["finish_reason"], info["completion"]) == ("length", "aaaaa")


def test_budget_of_one_token(toy: dict[str, Any]) -> None:
    env = TextEnv(**{**toy, "max_new_tokens": 1})
    for text, reason in (("a", "length"), (None, "eos")):
        env.reset(options={"prompt_id": "p0"})
        token = env.tokenizer.eos_id if text is None else env.tokenizer.encode_completion(text)[0]
        _, reward, terminated, truncated, info = env.step(token)
        assert (terminated, truncated, info["finish_reason"]) == (True, False, reason)
        assert reward == (text == "a") + 0.375


def test_stop_string_spanning_two_tokens(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy, stop=["END", "xy"])
    env.reset(seed=0)
    assert not say(env, "ax")[2]
    _, _, terminated, _, info = say(env, "y")
    assert terminated
    assert (info["finish_reason"], info["completion"]) == ("stop", "a")
    assert info["completion_ids"] == env.tokenizer.encode_completion("axy")
    env.reset(seed=0)
    assert not say(env, "yxab")[2], "the letters in another order are no stop string"


def test_stop_string_of_several_bytes_a_letter(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy, stop="é")
    env.reset(seed=0)
    assert len(env.tokenizer.encode_completion("é")) == 2
    assert say(env, "aé")[4]["completion"] == "a"


def test_stop_inside_one_token_cuts_at_the_first() -> None:
    env = TextEnv(
        ["go"], lambda prompt, completion: 0.0, "tiny-lm", stop=("\n",), max_prompt_tokens=8
    )
    env.reset(seed=0)
    *_, info = say(env, "word\n")
    assert (info["completion"], info["finish_reason"]) == ("word", "stop")


def test_same_seed_same_prompts_and_another_seed_others(toy: dict[str, Any]) -> None:
    def prompts(seed: int) -> list[str]:
        env = TextEnv(**{**toy, "max_new_tokens": 1})
        first = env.reset(seed=seed)[1]["prompt_id"]
        return [first, *(env.reset()[1]["prompt_id"] for _ in range(12))]

    assert prompts(3) == prompts(3)
    assert prompts(3) != prompts(4)


def test_global_randomness_is_not_touched(toy: dict[str, Any]) -> None:
    before = np.random.get_state()[1].tolist()  # type: ignore[union-attr]
    TextEnv(**toy).reset(seed=1)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[union-attr]


def test_unknown_prompt_id(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy)
    with pytest.raises(UnknownNameError, match="unknown prompt id 'p11'. Did you mean 'p1'"):
        env.reset(options={"prompt_id": "p11"})
    with pytest.raises(ConfigError, match="must be the id of a prompt"):
        env.reset(options={"prompt_id": 3})


def test_step_before_reset_and_after_the_end(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy)
    with pytest.raises(EpisodeOverError, match="no episode has begun"):
        env.step(5)
    env.reset(seed=0)
    env.step(env.tokenizer.eos_id)
    with pytest.raises(EpisodeOverError, match="the episode is over"):
        env.step(5)


@pytest.mark.parametrize("action", [-1, 258, 1.5, True, None, "a", np.array([1, 2])])
def test_bad_actions(toy: dict[str, Any], action: Any) -> None:
    env = TextEnv(**toy)
    env.reset(seed=0)
    with pytest.raises(ActionError):
        env.step(action)
    assert not env.step(np.int32(5))[2], "a refused action takes no token"


def test_observations_and_infos_are_fresh(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy)
    first, info = env.reset(options={"prompt_id": "p0"})
    kept = {key: value.copy() for key, value in first.items()}
    first["input_ids"][:] = 7
    second, *_ = env.step(5)
    assert (
        second["input_ids"][: env.batch.num_prompt_columns].tolist()
        == kept["input_ids"][:9].tolist()
    )
    third, *_ = env.step(6)
    assert second["attention_mask"].sum() + 1 == third["attention_mask"].sum()
    info["prompt_id"] = "changed"
    assert env.reset(options={"prompt_id": "p0"})[1]["prompt_id"] == "p0"


def test_unscored_episodes(toy: dict[str, Any]) -> None:
    silent = {**toy, "reward": lambda prompt, completion: None if completion else 1.0}
    env = TextEnv(**silent)
    env.reset(seed=0)
    env.step(env.tokenizer.encode_completion("a")[0])
    with pytest.raises(RewardError, match="did not score the completion 'a'.*on_unscored=VALUE"):
        env.step(env.tokenizer.eos_id)
    env = TextEnv(**silent, on_unscored=-3)
    env.reset(seed=0)
    env.step(env.tokenizer.encode_completion("a")[0])
    _, reward, _, _, info = env.step(env.tokenizer.eos_id)
    assert (reward, info["scored"]) == (-3.0, False)
    env.reset(seed=0)
    assert env.step(env.tokenizer.eos_id)[1] == 1.0


def test_outer_time_limit_truncates(toy: dict[str, Any]) -> None:
    env = TimeLimit(TextEnv(**toy), 2)
    env.reset(seed=0)
    assert env.step(5)[2:4] == (False, False)
    _, reward, terminated, truncated, info = env.step(5)
    assert (reward, terminated, truncated) == (0.0, False, True)
    assert "completion" not in info


def test_state_round_trip(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy)
    env.reset(seed=5)
    say(env, "ab")
    state = json.loads(json.dumps(env.state_dict()))
    other = TextEnv(**toy)
    other.load_state_dict(state)
    for _ in range(3):
        one, two = say(env, "a"), say(other, "a")
        assert one[1:] == two[1:]
        assert one[0]["input_ids"].tolist() == two[0]["input_ids"].tolist()
    assert [env.reset()[1] for _ in range(6)] == [other.reset()[1] for _ in range(6)]


def test_render(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy, render_mode="ansi")
    assert env.render() is None
    env.reset(options={"prompt_id": "p0"})
    say(env, "xy")
    assert env.render() == "ab0xy"
    with pytest.raises(ConfigError, match="render_mode must be one of"):
        TextEnv(**toy, render_mode="human")


def test_score_and_oracle(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy)
    assert env.score("p0", ["", "aa"]).scores.tolist() == [0.375, 2.375]
    with pytest.raises(ConfigError, match="no right answer is known for the prompt 'p0'"):
        env.oracle(env.prompts[0])


def test_gymnasium_checker(select_options: dict[str, Any]) -> None:
    made = gym.make(ID, render_mode="ansi", **select_options)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(made.unwrapped)
        sb3_check_env(made.unwrapped)
    assert ID in textenvs.list_envs()


def test_default_environment_is_playable() -> None:
    env = gym.make(ID)
    env.reset(seed=0)
    *_, terminated, truncated, info = env.step(env.unwrapped.tokenizer.eos_id)  # type: ignore[attr-defined]
    assert terminated and not truncated
    assert info["metrics"]["empty"] == 1.0
