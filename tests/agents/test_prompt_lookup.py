"""Finding the prompt that an observation shows."""

from typing import Any

import gymnasium as gym
import pytest

from agents.prompt_lookup import READ_WHOLE, PromptLookup
from textenvs.env import TextEnv
from textenvs.errors import ConfigError
from textenvs.prompts import GeneratedPrompts
from textenvs.types import Prompt


def make_env(prompts: Any, tokenizer: Any, **options: Any) -> TextEnv:
    columns = {"max_prompt_tokens": 6, "max_new_tokens": 3, **options}
    return TextEnv(prompts, lambda prompt, completion: 0.0, tokenizer, **columns)


def shown(env: Any, prompt_id: str) -> tuple[Any, Any]:
    observation, _ = env.reset(options={"prompt_id": prompt_id})
    return observation["input_ids"], observation["attention_mask"]


def test_finds_every_prompt_also_in_the_middle_of_an_answer(byte_tokenizer: Any) -> None:
    env = make_env(["a", "ba", "aa", "abab"], byte_tokenizer)
    lookup = PromptLookup(env)
    for i in (3, 0, 2, 1, 3):
        assert lookup.index_of(*shown(env, env.prompts[i].id)) == i
    observation, *_ = env.step(65)
    assert lookup.index_of(observation["input_ids"], observation["attention_mask"]) == 3


def test_reads_a_long_source_only_as_far_as_needed(byte_tokenizer: Any) -> None:
    made: list[int] = []

    def make(index: int, generator: Any) -> Prompt:
        made.append(index)
        return Prompt(f"p-{index}", f"{index}")

    env = make_env(GeneratedPrompts(make, READ_WHOLE + 1), byte_tokenizer)
    lookup, asked = PromptLookup(env), shown(env, "p-20")
    made.clear()
    assert lookup.index_of(*asked) == 20
    assert max(made) == 20
    with pytest.raises(ConfigError, match="shows the prompt 'zz', which is none"):
        lookup.index_of(*shown(make_env(["zz"], byte_tokenizer), "0"))
    assert max(made) == READ_WHOLE


def test_prompts_that_read_alike(byte_tokenizer: Any) -> None:
    """Two tasks behind one text are refused; the same task twice is not."""
    twice = [Prompt("x", "ab", reference="c"), Prompt("y", "ab", reference="c"), Prompt("z", "d")]
    env = make_env(twice, byte_tokenizer)
    assert PromptLookup(env).index_of(*shown(env, "y")) == 0
    env = make_env([*twice, Prompt("w", "ab", reference="e")], byte_tokenizer)
    assert PromptLookup(env).index_of(*shown(env, "z")) == 2
    with pytest.raises(ConfigError, match="'x', 'y', 'w' read alike"):
        PromptLookup(env).index_of(*shown(env, "x"))


def test_cut_prompts_are_found_by_what_is_left(byte_tokenizer: Any) -> None:
    env = make_env(["0123456789", "98765"], byte_tokenizer, overlong="truncate")
    assert PromptLookup(env).index_of(*shown(env, env.prompts[0].id)) == 0
    env = make_env(["0123456789", "xx23456789"], byte_tokenizer, overlong="truncate")
    with pytest.raises(ConfigError, match="read alike"):
        PromptLookup(env).index_of(*shown(env, env.prompts[0].id))


def test_other_environments_are_refused(byte_tokenizer: Any) -> None:
    lookup = PromptLookup(make_env(["a"], byte_tokenizer))
    wider = make_env(["a"], byte_tokenizer, max_new_tokens=4)
    with pytest.raises(ConfigError, match="has 10 columns, .* have 9"):
        lookup.index_of(*shown(wider, wider.prompts[0].id))


def test_generated_prompts_of_the_suite() -> None:
    env = gym.make("textenvs/ContextSelect-v0", split="test", n_prompts=8)
    lookup = PromptLookup(env)
    task: Any = env.unwrapped
    for i in (5, 2):
        assert lookup.index_of(*shown(env, task.prompts[i].id)) == i
