"""Curricula decide which prompts are drawn, the same in single and vector environments."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from textenvs.curriculum import GrowingShare, as_schedule, draw_index
from textenvs.env import TextEnv
from textenvs.errors import ConfigError
from textenvs.vector_env import TextVectorEnv


def by_parity(episode: int) -> list[int]:
    """Return even prompts in even episodes, odd ones in odd episodes."""
    return [i for i in range(7) if i % 2 == episode % 2]


def last_only(episode: int) -> range:
    """Return the last prompt."""
    return range(6, 7)


def number(info: dict[str, Any]) -> int:
    return int(info["prompt_id"].removeprefix("p"))


def test_a_growing_share() -> None:
    share = GrowingShare(0.2, 1.0, episodes=8)
    assert [share(i) for i in (0, 4, 8, 100)] == pytest.approx([0.2, 0.6, 1.0, 1.0])
    generator = np.random.default_rng(0)
    drawn = {draw_index(share, 10, 0, generator) for _ in range(100)}
    assert drawn == {0, 1}
    assert len({draw_index(share, 10, 99, generator) for _ in range(200)}) == 10


def test_the_schedule_decides(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy, curriculum=by_parity)
    seen = [number(env.reset(seed=3)[1])] + [number(env.reset()[1]) for _ in range(20)]
    assert [i % 2 for i in seen] == [i % 2 for i in range(21)]
    assert len(set(seen)) == 7
    plain = TextEnv(**toy)  # negative control
    free = [number(plain.reset(seed=3)[1])] + [number(plain.reset()[1]) for _ in range(20)]
    assert [i % 2 for i in free] != [i % 2 for i in range(21)]


def test_a_replay_is_no_draw(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy, curriculum=by_parity)
    env.reset(seed=0)
    assert number(env.reset(options={"prompt_id": "p4"})[1]) == 4
    assert number(env.reset()[1]) % 2 == 1


def test_a_saved_environment_goes_on_in_its_curriculum(toy: dict[str, Any]) -> None:
    env, other = TextEnv(**toy, curriculum=by_parity), TextEnv(**toy, curriculum=by_parity)
    env.reset(seed=0)
    other.load_state_dict(env.state_dict())
    assert env.reset()[1] == other.reset()[1]
    assert number(env.reset()[1]) % 2 == 0 == number(other.reset()[1]) % 2


@pytest.mark.parametrize("group", [1, 2])
def test_vector_rows_follow_it_too(group: int, toy: dict[str, Any]) -> None:
    venv = TextVectorEnv(**toy, num_envs=4, samples_per_prompt=group, curriculum=by_parity)
    eos = np.full(4, venv.tokenizer.eos_id)
    for episode in range(6):
        infos = venv.reset(seed=1)[1] if episode == 0 else venv.step(eos)[4]
        numbers = [int(i.removeprefix("p")) for i in infos["prompt_id"]]
        assert {i % 2 for i in numbers} == {episode % 2}
        assert all(len(set(numbers[i : i + group])) == 1 for i in range(0, 4, group))
        venv.step(eos)


def test_by_name_in_a_registered_environment(select_options: dict[str, Any]) -> None:
    name = "textenvs/ContextSelect-v0"
    options = {**select_options, "curriculum": "textenvs.curriculum:GrowingShare"}
    env: Any = gym.make(name, **options)
    first = {prompt.id for prompt in [env.unwrapped.prompts[i] for i in range(5)]}
    assert {env.reset(seed=s)[1]["prompt_id"] for s in range(30)} == first


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        (lambda episode: 0.0, "share 0.0 for episode 0"),
        (lambda episode: 1.5, "share 1.5"),
        (lambda episode: [], "allows no prompt for episode 0"),
        (lambda episode: [9], "prompt index 9"),
        (lambda episode: [-1], "prompt index -1"),
    ],
)
def test_bad_schedules(schedule: Any, message: str, toy: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=message):
        TextEnv(**toy, curriculum=schedule).reset(seed=0)


def test_what_is_no_schedule(toy: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="curriculum must be a function"):
        TextEnv(**toy, curriculum=3)
    with pytest.raises(ConfigError, match="cannot be imported"):
        as_schedule("nowhere:at_all")
    with pytest.raises(ConfigError, match="cannot be imported"):
        as_schedule("nothing")
    with pytest.raises(ConfigError, match="needs 0 < start"):
        GrowingShare(0.5, 0.2)
