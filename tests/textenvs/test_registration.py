"""`register`, splits, and what Gymnasium keeps of it."""

import json
from collections.abc import Iterator
from typing import Any

import datasets
import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env

import textenvs
from textenvs.env import TextEnv
from textenvs.errors import ConfigError, RegistrationError, TextEnvsError, UnknownNameError
from textenvs.prompts import GeneratedPrompts, PromptList, split_of
from textenvs.rewards import reward
from textenvs.types import Prompt

MANY = [f"Say {i}:" for i in range(60)]


@reward
def polite(prompt: Prompt, completion: str) -> float:
    return float("please" in completion)


@pytest.fixture
def own_id() -> Iterator[str]:
    env_id = "me/Polite-v0"
    yield env_id
    if env_id in textenvs.list_envs():
        textenvs.unregister(env_id)


def test_a_new_environment_in_one_line(own_id: str) -> None:
    textenvs.register(own_id, prompts=["Ask for salt:", "Ask for tea:"], reward=polite)
    assert own_id in textenvs.list_envs()
    env: Any = gym.make(own_id, max_new_tokens=4).unwrapped
    check_env(env, skip_render_check=True)
    assert isinstance(env, TextEnv)
    _, info = env.reset(seed=0)
    assert info["prompt"] in ("Ask for salt:", "Ask for tea:")
    assert env.score(env.prompts[0], ["please", "now"]).scores.tolist() == [1.0, 0.0]
    venv = gym.make_vec(own_id, num_envs=3, samples_per_prompt=3, max_new_tokens=2)
    assert len(set(venv.reset(seed=0)[1]["prompt_id"])) == 1


def test_options_reach_the_environment(own_id: str, byte_folder: Any) -> None:
    textenvs.register(own_id, MANY, polite, max_new_tokens=9, max_prompt_tokens=50)
    env: Any = gym.make(own_id, tokenizer=str(byte_folder), reward="context-match").unwrapped
    assert env.batch.max_new_tokens == 9 and env.batch.num_prompt_columns == 50
    assert env.tokenizer.vocab_size == 258 and env.reward.name == "context_match"
    with pytest.raises(UnknownNameError, match="'max_new_token'. Did you mean 'max_new_tokens'"):
        gym.make(own_id, max_new_token=3)


@pytest.mark.parametrize("kind", ["list", "generator", "dataset", "file", "source", "function"])
def test_every_kind_of_prompts(kind: str, own_id: str, tmp_path: Any) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}) for text in MANY))
    sources: dict[str, Any] = {
        "list": MANY,
        "generator": (text for text in MANY),
        "dataset": datasets.Dataset.from_dict({"text": MANY}),
        "file": str(path),
        "source": PromptList(MANY),
        "function": lambda split: [text for text in MANY if split_of(text) == split],
    }
    textenvs.register(own_id, sources[kind], polite)
    seen: dict[str, set[str]] = {}
    for split in ("train", "validation", "test", "train"):
        env: Any = gym.make(own_id, split=split).unwrapped
        seen[split] = {prompt.text for prompt in env.prompts}
        assert env.prompts.index_of(env.prompts[1].id) == 1
    assert set.union(*seen.values()) == set(MANY)
    assert sum(map(len, seen.values())) == len(MANY)
    assert len(seen["train"]) > len(seen["test"]) > 0


def test_splits_given_by_the_user(own_id: str) -> None:
    textenvs.register(own_id, {"train": ["a", "b"], "test": ["c"]}, polite)
    assert [p.text for p in gym.make(own_id, split="test").unwrapped.prompts] == ["c"]  # type: ignore[attr-defined]
    with pytest.raises(UnknownNameError, match="unknown split of this environment 'validation'"):
        gym.make(own_id, split="validation")
    with pytest.raises(UnknownNameError, match="unknown split 'tset'. Did you mean 'test'"):
        gym.make(own_id, split="tset")


def test_a_prompt_of_another_split_cannot_be_replayed(own_id: str) -> None:
    textenvs.register(own_id, MANY, polite)
    held_out = gym.make(own_id, split="test").unwrapped.prompts[0].id  # type: ignore[attr-defined]
    with pytest.raises(UnknownNameError, match="prompt id of this split"):
        gym.make(own_id).reset(options={"prompt_id": held_out})


def test_too_few_prompts_serve_every_split(own_id: str) -> None:
    textenvs.register(own_id, ["one", "two"], polite)
    for split in ("train", "validation", "test"):
        assert len(gym.make(own_id, split=split).unwrapped.prompts) == 2  # type: ignore[attr-defined]


def test_a_task_with_options_of_its_own(own_id: str) -> None:
    def counting(*, letter: str = "a", split: str = "train") -> dict[str, Any]:
        """Write one letter, often."""
        return {
            "prompts": GeneratedPrompts(lambda i, _: Prompt(f"{split}-{i}", f"{letter}{i}"), 5),
            "reward": lambda prompt, completion: completion.count(letter),
            "max_new_tokens": 3,
        }

    textenvs.register(own_id, task=counting)
    env: Any = gym.make(own_id, letter="b", max_prompt_tokens=7).unwrapped
    assert env.prompts[1].text == "b1"
    assert env.score(env.prompts[1], ["abba"]).scores[0] == 2
    with pytest.raises(UnknownNameError, match="'leter'. Did you mean 'letter'"):
        gym.make(own_id, leter="b")


def test_specs_round_trip_through_json(own_id: str) -> None:
    textenvs.register(own_id, MANY, polite)
    spec = gym.make(own_id, max_new_tokens=3).spec
    assert spec is not None
    again: Any = gym.make(EnvSpec.from_json(spec.to_json())).unwrapped
    assert again.batch.max_new_tokens == 3 and again.reward.name == "polite"


BAD: list[tuple[tuple[Any, ...], dict[str, Any], type[TextEnvsError], str]] = [
    (("Polite",), {"prompts": ["a"], "reward": polite}, RegistrationError, "namespace/Name-vN"),
    (("a/b/C-v0",), {"prompts": ["a"], "reward": polite}, RegistrationError, "is no id"),
    (("textenvs/My-v0",), {"prompts": ["a"], "reward": polite}, RegistrationError, "belongs to"),
    (("me/X-v0",), {"prompts": ["a"]}, ConfigError, "needs prompts and a reward, or a task"),
    (("me/X-v0", ["a"], polite), {"task": dict}, ConfigError, "got a task"),
]


@pytest.mark.parametrize(("arguments", "options", "error", "message"), BAD)
def test_bad_registrations(
    arguments: Any, options: dict[str, Any], error: type[TextEnvsError], message: str
) -> None:
    with pytest.raises(error, match=message):
        textenvs.register(*arguments, **options)
    assert "me/X-v0" not in textenvs.list_envs()


def test_duplicate_ids_raise(own_id: str) -> None:
    textenvs.register(own_id, ["a"], polite)
    with pytest.raises(RegistrationError, match="is taken"):
        textenvs.register(own_id, ["b"], polite)
    with pytest.raises(RegistrationError, match="is taken"):
        textenvs.register("CartPole-v1", ["b"], polite)
    textenvs.unregister(own_id)
    textenvs.register(own_id, ["b"], polite)
    assert gym.make(own_id).unwrapped.prompts[0].text == "b"  # type: ignore[attr-defined]
    with pytest.raises(UnknownNameError, match="unknown registered environment"):
        textenvs.unregister("textenvs/ContextSelect-v0")


def test_a_task_that_returns_no_task(own_id: str) -> None:
    textenvs.register(own_id, task=lambda: {"prompts": ["a"]})
    with pytest.raises(ConfigError, match="must return the arguments of TextEnv"):
        gym.make(own_id)
    textenvs.unregister(own_id)
    textenvs.register(own_id, task=lambda: {"prompts": ["a"], "reward": polite, "max_tokens": 3})
    with pytest.raises(UnknownNameError, match="'max_tokens'. Did you mean"):
        gym.make(own_id)


def test_async_workers_know_the_task(own_id: str) -> None:
    textenvs.register(own_id, MANY, polite, max_new_tokens=2)
    venv = gym.make_vec(own_id, num_envs=2, vectorization_mode="async")
    native = gym.make_vec(own_id, num_envs=2)
    assert venv.reset(seed=3)[1]["prompt"].tolist() == native.reset(seed=3)[1]["prompt"].tolist()
    tokens = np.array([5, 6])
    for _ in range(2):
        one, two = venv.step(tokens), native.step(tokens)
    assert one[4]["completion"].tolist() == two[4]["completion"].tolist()
    venv.close()
