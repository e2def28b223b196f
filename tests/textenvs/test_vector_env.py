"""`TextVectorEnv` against `TextEnv` and against Gymnasium's own vector environments."""

import json
from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.vector import AutoresetMode

from textenvs.env import TextEnv
from textenvs.errors import ActionError, ConfigError, EpisodeOverError
from textenvs.vector_env import TextVectorEnv, vectorised

ID = "textenvs/ContextSelect-v0"
Actions = Callable[..., np.ndarray]
MODES = list(AutoresetMode)


def same_observation(one: Any, two: Any) -> bool:
    return set(one) == set(two) and all(np.array_equal(one[key], two[key]) for key in one)


def test_single_and_vector_agree(
    toy: dict[str, Any], random_actions: Actions, as_plain: Callable[[Any], Any]
) -> None:
    """Ten episodes of each of four rows, of every length from 1 to 5."""
    rows = 4
    venv = TextVectorEnv(**toy, num_envs=rows, autoreset_mode=AutoresetMode.SAME_STEP)
    envs = [TextEnv(**toy) for _ in range(rows)]
    observation, info = venv.reset(seed=11)
    lengths = set()
    for row, env in enumerate(envs):
        alone, alone_info = env.reset(seed=11 + row)
        assert same_observation(alone, {key: value[row] for key, value in observation.items()})
        assert alone_info["prompt_id"] == info["prompt_id"][row]
    for actions in random_actions(0, (40, rows)):
        observation, rewards, terminated, truncated, info = venv.step(actions)
        for row, env in enumerate(envs):
            alone, reward, over, _, final = env.step(int(actions[row]))
            assert (reward, over) == (rewards[row], terminated[row])
            if over:
                batched = info["final_info"]
                names = ("completion", "completion_ids", "finish_reason", "scored", "task_reward")
                told = {name: batched[name][row] for name in names}
                for name in ("reward_terms", "reward_raw"):
                    told[name] = {"count_a": batched[name]["count_a"][row]}
                assert as_plain({**told, "metrics": {}}) == final
                assert same_observation(alone, info["final_obs"][row])
                lengths.add(len(final["completion_ids"]))
                alone, _ = env.reset()
            assert same_observation(alone, {key: value[row] for key, value in observation.items()})
        assert not truncated.any()
    assert lengths == {1, 2, 3, 4, 5}


@pytest.mark.parametrize("mode", MODES)
def test_native_equals_gymnasium_sync(
    mode: AutoresetMode,
    select_options: dict[str, Any],
    random_actions: Actions,
    as_plain: Callable[[Any], Any],
) -> None:
    native = gym.make_vec(ID, num_envs=3, autoreset_mode=mode, **select_options)
    sync = gym.make_vec(
        ID,
        num_envs=3,
        vectorization_mode="sync",
        vector_kwargs={"autoreset_mode": mode},
        **select_options,
    )
    assert isinstance(native, TextVectorEnv)
    assert native.metadata["autoreset_mode"] is mode
    assert native.observation_space == sync.observation_space
    assert native.action_space == sync.action_space
    one, two = native.reset(seed=2), sync.reset(seed=2)
    assert same_observation(one[0], two[0]) and as_plain(one[1]) == as_plain(two[1])
    ends = 0
    for actions in random_actions(1, (30, 3)):
        one, two = native.step(actions), sync.step(actions)
        assert same_observation(one[0], two[0])
        for ours, theirs in zip(one[1:4], two[1:4], strict=True):
            assert ours.dtype == theirs.dtype and ours.tolist() == theirs.tolist()
        ours, theirs = dict(one[4]), dict(two[4])
        for row, (mine, other) in enumerate(
            zip(ours.pop("final_obs", ()), theirs.pop("final_obs", ()), strict=True)
        ):
            assert (mine is None) == (other is None) == (not one[2][row])
            assert mine is None or same_observation(mine, other)
        assert as_plain(ours) == as_plain(theirs)
        ends += int(one[2].sum())
        if mode is AutoresetMode.DISABLED and one[2].any():
            options = {"reset_mask": one[2]}
            one, two = native.reset(options=dict(options)), sync.reset(options=dict(options))
            assert same_observation(one[0], two[0]) and as_plain(one[1]) == as_plain(two[1])
    assert ends > 10, "the play must cross many ends"
    assert native.np_random_seed == sync.np_random_seed
    sync.close()
    native.close()


def test_async_vector_env_agrees(
    select_options: dict[str, Any], random_actions: Actions, as_plain: Callable[[Any], Any]
) -> None:
    native = gym.make_vec(ID, num_envs=2, **select_options)
    several = gym.make_vec(
        ID,
        num_envs=2,
        vectorization_mode="async",
        vector_kwargs={"context": "spawn"},
        **select_options,
    )
    try:
        one, two = native.reset(seed=9), several.reset(seed=9)
        assert same_observation(one[0], two[0]) and as_plain(one[1]) == as_plain(two[1])
        for actions in random_actions(2, (8, 2)):
            one, two = native.step(actions), several.step(actions)
            assert same_observation(one[0], two[0]) and as_plain(one[4]) == as_plain(two[4])
            assert one[1].tolist() == two[1].tolist()
    finally:
        several.close()


def test_next_step_ignores_the_action_of_an_ended_row(toy: dict[str, Any]) -> None:
    venv = TextVectorEnv(**toy, num_envs=2)
    venv.reset(seed=0)
    eos, letter = venv.tokenizer.eos_id, 70
    *_, terminated, _, _ = venv.step(np.array([eos, letter]))
    assert terminated.tolist() == [True, False]
    observation, rewards, terminated, _, info = venv.step(np.array([eos, letter]))
    assert rewards[0] == 0 and not terminated[0]
    assert observation["attention_mask"][:, 9:].sum(1).tolist() == [0, 2]
    assert info["_prompt_id"].tolist() == [True, False]


def test_disabled_refuses_to_step_an_ended_row(toy: dict[str, Any]) -> None:
    venv = TextVectorEnv(**toy, num_envs=2, autoreset_mode="disabled")
    with pytest.raises(EpisodeOverError, match="no episode has begun"):
        venv.step(np.array([5, 5]))
    venv.reset(seed=0)
    venv.step(np.array([venv.tokenizer.eos_id, 5]))
    with pytest.raises(EpisodeOverError, match="the episode is over"):
        venv.step(np.array([5, 5]))
    before = venv.batch.observation()
    observation, info = venv.reset(options={"reset_mask": np.array([True, False])})
    assert observation["input_ids"][1].tolist() == before["input_ids"][1].tolist()
    assert info["_prompt_id"].tolist() == [True, False]


def test_prompt_ids_replay(toy: dict[str, Any]) -> None:
    venv = TextVectorEnv(**toy, num_envs=3)
    _, info = venv.reset(options={"prompt_id": ["p6", "p0", "p6"]})
    assert info["prompt_id"].tolist() == ["p6", "p0", "p6"]
    _, info = venv.reset(options={"prompt_id": "p2"})
    assert info["prompt_id"].tolist() == ["p2"] * 3
    with pytest.raises(ConfigError, match="2 prompt ids for 3 rows"):
        venv.reset(options={"prompt_id": ["p1", "p2"]})


def test_observations_are_fresh_copies(toy: dict[str, Any]) -> None:
    venv = TextVectorEnv(**toy, num_envs=2)
    first, _ = venv.reset(seed=0)
    kept = first["input_ids"].copy()
    second, *_ = venv.step(np.array([5, 6]))
    assert np.array_equal(first["input_ids"], kept)
    second["attention_mask"][:] = 0
    third, *_ = venv.step(np.array([5, 6]))
    assert third["attention_mask"][:, 9:].sum(1).tolist() == [2, 2]


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
def test_groups_share_prompts(
    mode: AutoresetMode, toy: dict[str, Any], random_actions: Actions
) -> None:
    """The k-th episodes of a group share a prompt although its rows end at other times."""
    venv = TextVectorEnv(**toy, num_envs=6, samples_per_prompt=3, autoreset_mode=mode)
    _, info = venv.reset(seed=0)
    told: list[list[str]] = [[prompt] for prompt in info["prompt_id"]]
    for actions in random_actions(3, (60, 6)):
        info = venv.step(actions)[4]
        for row in np.flatnonzero(info.get("_prompt_id", np.zeros(6, bool))):
            told[row].append(info["prompt_id"][row])
    assert len({len(row) for row in told}) > 1, "rows must have drifted apart"
    for group in (told[:3], told[3:]):
        shared = min(map(len, group))
        assert shared > 10
        assert group[0][:shared] == group[1][:shared] == group[2][:shared]
    assert told[0][:10] != told[3][:10]
    _, info = venv.reset()
    assert len(set(info["prompt_id"][:3])) == len(set(info["prompt_id"][3:])) == 1


def test_rows_without_groups_draw_apart(toy: dict[str, Any]) -> None:
    _, info = TextVectorEnv(**toy, num_envs=6).reset(seed=0)
    assert len(set(info["prompt_id"])) > 1


@pytest.mark.parametrize("samples", [1, 2])
def test_state_round_trip(
    samples: int, toy: dict[str, Any], random_actions: Actions, as_plain: Callable[[Any], Any]
) -> None:
    options = {**toy, "num_envs": 4, "samples_per_prompt": samples}
    venv, other = TextVectorEnv(**options), TextVectorEnv(**options)
    venv.reset(seed=1)
    for actions in random_actions(4, (7, 4)):
        venv.step(actions)
    other.load_state_dict(json.loads(json.dumps(venv.state_dict())))
    for actions in random_actions(5, (20, 4)):
        one, two = venv.step(actions), other.step(actions)
        assert same_observation(one[0], two[0]) and as_plain(one[1:]) == as_plain(two[1:])
    with pytest.raises(ConfigError, match="has 4 rows, this environment 2"):
        TextVectorEnv(**{**options, "num_envs": 2}).load_state_dict(venv.state_dict())


def test_vectorised_keeps_the_task(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy, stop=["zz"], on_unscored=1.5)
    venv = vectorised(env, 2, AutoresetMode.DISABLED)
    assert venv.batch.task_arguments() == env.batch.task_arguments()
    assert (venv.num_envs, venv.autoreset_mode) == (2, AutoresetMode.DISABLED)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_envs": 0}, "num_envs must be at least 1"),
        ({"num_envs": 3, "samples_per_prompt": 2}, "must divide num_envs, got 2 and 3"),
        ({"autoreset_mode": "sometimes"}, "autoreset_mode must be one of"),
        ({"max_new_tokens": 0}, "max_new_tokens must be at least 1, got 0"),
        ({"max_new_tokens": 2.5}, "max_new_tokens must be at least 1, got 2.5"),
        ({"max_prompt_tokens": True}, "max_prompt_tokens must be at least 1"),
        ({"stop": [""]}, "stop must hold non-empty strings"),
        ({"overlong": "cut"}, 'overlong must be "error" or "truncate"'),
        ({"on_unscored": "drop"}, 'on_unscored must be "raise", "skip" or a finite number'),
    ],
)
def test_bad_options(toy: dict[str, Any], options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TextVectorEnv(**{**toy, **options})


def test_bad_calls(toy: dict[str, Any]) -> None:
    venv = TextVectorEnv(**toy, num_envs=2)
    venv.reset(seed=0)
    for actions in ([1], [1, 2, 3], [0.5, 1.0], [[1, 2]], [-1, 2], [1, 258]):
        with pytest.raises(ActionError):
            venv.step(np.array(actions))
    with pytest.raises(ConfigError, match="2 rows; give one each"):
        venv.reset(seed=[1, 2, 3])
    for mask in ([True], [False, False], [1, 0]):
        with pytest.raises(ConfigError, match="reset_mask"):
            venv.reset(options={"reset_mask": np.array(mask)})


def test_a_seeded_reset_forgets_what_was_drawn_ahead(
    toy: dict[str, Any], random_actions: Actions
) -> None:
    """Groups whose rows have drifted apart start afresh, every group of them."""
    venv = TextVectorEnv(**toy, num_envs=6, samples_per_prompt=3)

    def play() -> list[list[str]]:
        told = [venv.reset(seed=0)[1]["prompt_id"].tolist()]
        for actions in random_actions(6, (40, 6)):
            told.append(venv.step(actions)[4].get("prompt_id", np.array([])).tolist())
        return told

    assert play() == play()


def test_seeding_one_group_leaves_the_other_alone_and_repeats_its_prompts(
    toy: dict[str, Any],
) -> None:
    venv = TextVectorEnv(**toy, num_envs=4, samples_per_prompt=2, autoreset_mode="DISABLED")
    first = venv.reset(seed=5)[1]["prompt_id"].tolist()
    venv.reset()
    before = [prompt.id for prompt in venv.batch.current if prompt is not None]
    second_group = np.array([False, False, True, True])
    options = {"reset_mask": second_group}
    again = venv.reset(seed=[None, None, 7, 8], options=options)[1]["prompt_id"].tolist()
    now = [prompt.id for prompt in venv.batch.current if prompt is not None]
    assert now[:2] == before[:2]
    assert again[2] == again[3] == first[2]  # row 2 was seeded with 5 + 2 at first
