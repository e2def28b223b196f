"""`SB3VecEnv`: the native batch as Stable-Baselines3 expects one."""

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode, VectorWrapper
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import preprocess_obs
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

from textenvs.bridges.sb3 import SB3VecEnv
from textenvs.env import TextEnv
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.reference import CausalLMReference
from textenvs.vector_env import TextVectorEnv
from textenvs.wrappers.action_mask import VectorActionMask
from textenvs.wrappers.reference_kl import VectorReferenceKL

ID = "textenvs/ContextSelect-v0"
Actions = Callable[..., np.ndarray]
MODES = list(AutoresetMode)
ROWS = 4


class LettersOnly(VectorWrapper):
    """Row i may say the tokens up to 70 + i."""

    def action_masks(self) -> np.ndarray:
        vocab_size = self.env.single_action_space.n
        return np.arange(vocab_size) <= 70 + np.arange(self.num_envs)[:, None]


class Fixed:
    """A policy that always says one token."""

    def __init__(self, token: int) -> None:
        self.token = token

    def predict(self, observation: Any, state: Any = None, **_: Any) -> tuple[np.ndarray, Any]:
        return np.full(len(observation["input_ids"]), self.token, np.int64), state


def adapted(toy: dict[str, Any], mode: Any = "next_step", **options: Any) -> SB3VecEnv:
    return SB3VecEnv(TextVectorEnv(**{**toy, **options}, num_envs=ROWS, autoreset_mode=mode))


def at(observation: Any, row: int) -> dict[str, list[int]]:
    return {key: value[row].tolist() for key, value in observation.items()}


def listed(observation: Any) -> dict[str, list[int]]:
    return {key: value.tolist() for key, value in observation.items()}


@pytest.mark.parametrize("mode", MODES)
def test_equals_single_environments(
    mode: AutoresetMode, toy: dict[str, Any], random_actions: Actions
) -> None:
    """Observations, rewards, ends, infos and last observations of 40 steps of each row."""
    venv = adapted(toy, mode)
    envs = [TextEnv(**toy) for _ in range(ROWS)]
    assert venv.seed(11) == [11, 12, 13, 14]
    observation = venv.reset()
    returns, lengths = np.zeros(ROWS), np.zeros(ROWS)
    for row, env in enumerate(envs):
        alone, info = env.reset(seed=11 + row)
        assert at(observation, row) == listed(alone) and venv.reset_infos[row] == info
    ended = 0
    for actions in random_actions(0, (40, ROWS)):
        observation, rewards, dones, infos = venv.step(actions)
        assert (rewards.dtype, dones.dtype) == (np.float32, np.bool_)
        for row, env in enumerate(envs):
            alone, reward, over, _, info = env.step(int(actions[row]))
            returns[row] += reward
            lengths[row] += 1
            told = dict(infos[row])
            assert (rewards[row], dones[row]) == (reward, over)
            assert told.pop("TimeLimit.truncated") is False
            if over:
                ended += 1
                assert listed(told.pop("terminal_observation")) == listed(alone)
                episode = told.pop("episode")
                assert (episode["r"], episode["l"]) == (returns[row], lengths[row])
                assert episode["t"] >= 0 and set(episode) == {"r", "l", "t"}
                alone, begun = env.reset()
                assert venv.reset_infos[row] == begun
                returns[row] = lengths[row] = 0
            assert told == info
            assert at(observation, row) == listed(alone)
    assert ended > 20
    venv.close()


@pytest.mark.parametrize("mode", MODES)
def test_a_truncated_row_may_be_bootstrapped(mode: AutoresetMode, toy: dict[str, Any]) -> None:
    venv = adapted(toy, mode, max_episode_steps=2)
    venv.reset()
    eos = venv.venv.unwrapped.tokenizer.eos_id
    venv.step(np.full(ROWS, 70))
    _, rewards, dones, infos = venv.step(np.array([70, 70, 70, eos]))
    assert dones.all() and rewards[:3].tolist() == [0, 0, 0] and rewards[3] > 0
    assert [info["TimeLimit.truncated"] for info in infos] == [True, True, True, False]
    assert all(info["terminal_observation"]["attention_mask"][9:].sum() == 2 for info in infos)
    assert "completion" not in infos[0] and infos[3]["finish_reason"] == "eos"


def test_groups_share_prompts(toy: dict[str, Any], random_actions: Actions) -> None:
    venv = adapted(toy, "same_step", samples_per_prompt=2)
    venv.seed(3)
    venv.reset()
    prompts = [[info["prompt_id"]] for info in venv.reset_infos]
    for actions in random_actions(4, (30, ROWS)):
        *_, dones, _ = venv.step(actions)
        for row in np.flatnonzero(dones):
            prompts[row].append(venv.reset_infos[row]["prompt_id"])
    for one, two in zip(prompts[::2], prompts[1::2], strict=True):
        shared = min(len(one), len(two))
        assert shared > 5 and one[:shared] == two[:shared]
    assert prompts[0][:5] != prompts[2][:5]


@pytest.mark.parametrize("timing", ["episode", "step"])
def test_kl_and_statistics_are_the_same_in_every_mode(
    timing: str, toy: dict[str, Any], make_model: Callable[..., Any], random_actions: Actions
) -> None:
    reference = CausalLMReference(make_model("llama", seed=3), bfloat16=False)
    runs = []
    for mode in MODES:
        venv = TextVectorEnv(**toy, num_envs=ROWS, autoreset_mode=mode)
        shaped = VectorReferenceKL(RecordEpisodeStatistics(venv), reference, 0.5, timing=timing)
        adapter = SB3VecEnv(shaped)
        adapter.seed(7)
        adapter.reset()
        episodes = []
        for actions in random_actions(5, (16, ROWS)):
            _, rewards, dones, infos = adapter.step(actions)
            for row in np.flatnonzero(dones):
                info = infos[row]
                if timing == "step":
                    assert info["reference_logprob"] == info["kl"]["reference_logprob"][-1]
                score = info["reward_terms"]["count_a"]
                # The statistics were recorded below the shaping: the user's choice stands.
                assert info["episode"]["r"] == score
                assert info["episode"]["l"] == len(info["completion_ids"])
                paid = float(rewards[row]) - score
                terms = info["kl"]["terms"]
                whole = sum(terms) if timing == "episode" else terms[-1]
                assert paid == pytest.approx(whole, abs=1e-4)
                episodes.append((int(row), info["completion_ids"], round(sum(terms), 3)))
        runs.append(episodes)
    assert runs[0] == runs[1] == runs[2] and len(runs[0]) > 10


def test_infos_are_fresh(toy: dict[str, Any]) -> None:
    venv = adapted(toy)
    venv.reset()
    _, _, _, first = venv.step(np.full(ROWS, 70))
    _, _, _, second = venv.step(np.full(ROWS, 70))
    assert len({id(info) for info in [*first, *second]}) == 2 * ROWS
    venv.step(np.full(ROWS, 70))
    observation, _, _, infos = venv.step(np.full(ROWS, venv.venv.unwrapped.tokenizer.eos_id))
    before = listed(infos[0]["terminal_observation"])
    observation["input_ids"][:] = 0
    venv.step(np.full(ROWS, 70))
    assert listed(infos[0]["terminal_observation"]) == before


def test_seeds_hold_for_one_reset(toy: dict[str, Any]) -> None:
    venv = adapted(toy)
    venv.seed(5)
    first = listed(venv.reset())
    drawn = [listed(venv.reset()) for _ in range(4)]
    venv.seed(5)
    assert listed(venv.reset()) == first
    assert [listed(venv.reset()) for _ in range(4)] == drawn
    assert any(one != first for one in drawn)


def test_options_replay_prompts_once(toy: dict[str, Any]) -> None:
    venv = adapted(toy)
    venv.set_options({"prompt_id": "p2"})
    venv.reset()
    assert [info["prompt_id"] for info in venv.reset_infos] == ["p2"] * ROWS
    venv.set_options([{"prompt_id": "p1"}, {}, {"prompt_id": "p4"}, {}])
    venv.seed(0)
    venv.reset()
    ids = [info["prompt_id"] for info in venv.reset_infos]
    assert (ids[0], ids[2]) == ("p1", "p4")
    venv.seed(0)
    venv.reset()
    assert [info["prompt_id"] for info in venv.reset_infos][1::2] == ids[1::2]
    assert [info["prompt_id"] for info in venv.reset_infos][::2] != ["p1", "p4"]


def test_wrong_options_are_refused(toy: dict[str, Any]) -> None:
    venv = adapted(toy)
    venv.set_options({"prompt": "p2"})
    with pytest.raises(UnknownNameError, match="Did you mean 'prompt_id'"):
        venv.reset()
    venv.set_options([{}])
    with pytest.raises(ConfigError, match="options for 1 rows of 4"):
        venv.reset()


def test_attributes_and_methods(toy: dict[str, Any]) -> None:
    inner = TextVectorEnv(**toy, num_envs=ROWS, render_mode="ansi")
    venv = SB3VecEnv(LettersOnly(inner))
    venv.seed(2)
    venv.reset()
    assert venv.has_attr("action_masks") and not adapted(toy).has_attr("action_masks")
    masks = venv.env_method("action_masks", indices=[2, 0])
    assert [int(mask.sum()) for mask in masks] == [73, 71]
    assert len(venv.env_method("action_masks")) == ROWS
    assert venv.get_attr("tokenizer", [0, 1]) == [inner.tokenizer] * 2
    assert venv.get_attr("np_random_seed", 3) == [5]
    assert venv.get_attr("render_mode") == ["ansi"] * ROWS
    prompt = inner.prompts[0]
    assert venv.env_method("probes", prompt, indices=1) == [{}]
    assert venv.env_is_wrapped(LettersOnly, [0]) == [True]
    assert venv.env_is_wrapped(gym.wrappers.TimeLimit) == [False] * ROWS
    venv.set_attr("max_episode_steps", 1)
    assert inner.max_episode_steps == 1
    with pytest.raises(ConfigError, match="share 'max_episode_steps'"):
        venv.set_attr("max_episode_steps", 1, indices=0)
    with pytest.raises(AttributeError, match="'max_steps'"):
        venv.set_attr("max_steps", 1)
    with pytest.raises(ConfigError, match=r"SB3VecEnv\.reset"):
        venv.env_method("reset")
    with pytest.raises(AttributeError, match="'nonsense'"):
        venv.env_method("nonsense")


@pytest.mark.parametrize("mode", MODES)
def test_masks_are_those_of_the_new_episodes(
    mode: AutoresetMode, select_options: dict[str, Any]
) -> None:
    """Only listed titles can be said, so every answer that is said ends by EOS."""
    options = {**select_options, "max_new_tokens": 20, "autoreset_mode": mode}
    venv = SB3VecEnv(VectorActionMask(gym.make_vec(ID, num_envs=3, **options), "context-trie"))
    venv.seed(0)
    venv.reset()
    generator = np.random.default_rng(0)
    answers = []
    for _ in range(60):
        masks = venv.env_method("action_masks")
        listing = [info["prompt"] for info in venv.reset_infos]
        actions = np.array([generator.choice(np.flatnonzero(mask)) for mask in masks])
        *_, dones, infos = venv.step(actions)
        for row in np.flatnonzero(dones):
            assert infos[row]["finish_reason"] == "eos"
            assert all(line in listing[row] for line in infos[row]["completion"].splitlines())
            answers.append(infos[row]["completion"])
    assert len(answers) > 8 and len(set(answers)) > 5


def test_render(toy: dict[str, Any]) -> None:
    inner = TextVectorEnv(**toy, num_envs=ROWS, render_mode="ansi")
    venv = SB3VecEnv(inner)
    venv.reset()
    assert venv.render() == inner.render() == tuple(venv.env_method("render"))
    assert venv.get_images() == [None] * ROWS
    with pytest.warns(UserWarning, match="render_mode"):
        assert adapted(toy).render() is None
    with pytest.warns(UserWarning, match="human"):
        assert venv.render("human") is None


def test_evaluate_policy_counts_whole_episodes(toy: dict[str, Any]) -> None:
    """Without a warning: the adapter does the work of a `Monitor`."""
    venv = adapted({**toy, "reward": lambda prompt, completion: float(len(completion))})
    assert venv.env_is_wrapped(Monitor) == [True] * ROWS
    letter = Fixed(70)
    rewards, lengths = evaluate_policy(letter, venv, 10, return_episode_rewards=True)
    assert rewards == [5.0] * 10 and lengths == [5] * 10


def test_a_monitor_of_ones_own(toy: dict[str, Any], tmp_path: Any) -> None:
    venv = SB3VecEnv(TextVectorEnv(**toy, num_envs=ROWS), monitor=False)
    with pytest.warns(UserWarning, match="not wrapped with a ``Monitor``"):
        evaluate_policy(Fixed(70), venv, 2)
    venv.reset()
    *_, infos = venv.step(np.full(ROWS, venv.venv.unwrapped.tokenizer.eos_id))
    assert "episode" not in infos[0]
    watched = VecMonitor(venv, str(tmp_path / "log"), info_keywords=("finish_reason",))
    evaluate_policy(Fixed(70), watched, 2)
    watched.close()
    assert (tmp_path / "log.monitor.csv").read_text().count("length") == 4
    with pytest.warns(UserWarning, match="already wrapped"):
        VecMonitor(adapted(toy))


def test_ids_reach_the_policy_unchanged(toy: dict[str, Any]) -> None:
    """No image, nothing scaled: the columns hold 0 to 257, like the pixels of one."""
    venv = adapted(toy)
    assert PPO._wrap_env(venv) is venv
    venv.seed(0)
    observation = venv.reset()
    tensors = {key: torch.as_tensor(value) for key, value in observation.items()}
    read = preprocess_obs(tensors, venv.observation_space)
    assert isinstance(read, dict)
    for key, value in read.items():
        assert value.dtype == torch.float32 and value.long().tolist() == observation[key].tolist()


def test_a_registered_environment(select_options: dict[str, Any]) -> None:
    venv = SB3VecEnv(gym.make_vec(ID, num_envs=2, **select_options))
    assert venv.spec.id == ID
    assert venv.reset()["input_ids"].shape == (2, 166)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda o: gym.make(ID, **o), "single environment"),
        (lambda o: gym.make_vec(ID, num_envs=1, vectorization_mode="sync", **o), "DummyVecEnv"),
        (lambda o: gym.make_vec("CartPole-v1", num_envs=1), "TextVectorEnv"),
        (lambda o: DummyVecEnv([lambda: gym.make(ID, **o)]), "use it as it is"),
        (lambda o: ID, "make_vec"),
    ],
    ids=["single", "sync", "foreign", "sb3", "name"],
)
def test_what_is_no_native_environment_is_refused(
    make: Callable[..., Any], words: str, select_options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=words):
        SB3VecEnv(make(select_options))


def test_actions_with_logprobs_are_refused(
    toy: dict[str, Any], make_model: Callable[..., Any]
) -> None:
    venv = TextVectorEnv(**toy, num_envs=2)
    reference = CausalLMReference(make_model("llama"), bfloat16=False)
    with pytest.raises(ConfigError, match="policy_logprob"):
        SB3VecEnv(VectorReferenceKL(venv, reference, 0.1, policy_logprob=True))
