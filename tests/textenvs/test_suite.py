"""Every registered environment, by one test each: the whole of Gymnasium's contract, and ours."""

from collections.abc import Callable, Iterator
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3.common.env_checker import check_env as sb3_check_env

import textenvs
from textenvs.checker import check
from textenvs.registration import describe
from textenvs.suite import SUITE
from textenvs.vector_env import TextVectorEnv

IDS = sorted(SUITE)
SCORED_BY_TORCH = {"textenvs/Instruct-v0"}
"""A forked worker must not enter torch after its parent did: its threads are not there."""
MODES = list(AutoresetMode)
STEPS, ROWS = 40, 3
SECONDS = {"t", "_t"}
"""`RecordEpisodeStatistics` reports them; everything else must agree."""


@pytest.mark.parametrize("env_id", IDS)
def test_gymnasium_and_sb3_accept_it(env_id: str) -> None:
    for mode in (None, "ansi"):
        env = gym.make(env_id, render_mode=mode).unwrapped
        check_env(env)
        env.close()
    sb3_check_env(gym.make(env_id).unwrapped, warn=True)


@pytest.mark.parametrize("env_id", IDS)
def test_its_spec_round_trips_through_json(env_id: str) -> None:
    options = {"max_new_tokens": 5, "split": "test"} if takes_budget(env_id) else {"split": "test"}
    env = gym.make(env_id, **options)
    assert env.spec is not None
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    assert again.spec == env.spec
    assert as_plain(env.reset(seed=1)) == as_plain(again.reset(seed=1))


def takes_budget(env_id: str) -> bool:
    """Whether the number of tokens of an answer is the user's to choose."""
    return env_id == "textenvs/ContextSelect-v0"


@pytest.mark.parametrize("env_id", IDS)
def test_the_checker_finds_nothing(env_id: str) -> None:
    report = check(env_id)
    assert report.ok, [str(failure) for failure in report.failures]


@pytest.mark.parametrize("env_id", IDS)
def test_it_is_described(env_id: str) -> None:
    env = gym.make(env_id).unwrapped
    page = type(env).__doc__ or ""
    for word in ("Observation", "Action", "Reward", "nds", "Version history"):
        assert word.casefold() in page.casefold(), f"{env_id}: the page does not say {word}"
    assert describe(env_id) and SUITE[env_id].licence and SUITE[env_id].text


@pytest.fixture
def closing() -> Iterator[Callable[[VectorEnv], VectorEnv]]:
    """Close what a test made, worker processes above all."""
    made: list[VectorEnv] = []

    def keep(venv: VectorEnv) -> VectorEnv:
        made.append(venv)
        return venv

    yield keep
    for venv in made:
        venv.close()


@pytest.mark.parametrize("mode", MODES, ids=lambda mode: mode.name)
@pytest.mark.parametrize("env_id", IDS)
def test_native_sync_and_async_agree(
    env_id: str, mode: AutoresetMode, closing: Callable[[VectorEnv], VectorEnv]
) -> None:
    """The same seeds and actions give the same trajectories, text in `info` included."""
    native = closing(gym.make_vec(env_id, num_envs=ROWS, autoreset_mode=mode))
    assert isinstance(native, TextVectorEnv)
    context = "spawn" if env_id in SCORED_BY_TORCH else "fork"
    settings: dict[str, dict[str, Any]] = {
        "sync": {"autoreset_mode": mode},
        "async": {"autoreset_mode": mode, "context": context},
    }
    others = [
        closing(gym.make_vec(env_id, num_envs=ROWS, vectorization_mode=kind, vector_kwargs=given))
        for kind, given in settings.items()
    ]
    actions = play(native)
    expected = trajectory(native, actions, mode)
    ends = sum("completion" in str(entry) for entry in expected)
    assert ends > 0
    for other in others:
        found = trajectory(other, actions, mode)
        for step, (one, two) in enumerate(zip(expected, found, strict=True)):
            assert one == two, f"{other.__class__.__name__}, call {step}"


def play(venv: TextVectorEnv) -> np.ndarray:
    """Return tokens [STEPS, ROWS]: mostly of right answers, EOS now and then, some noise."""
    generator = np.random.default_rng(0)
    vocab = venv.tokenizer.vocab_size
    answer = venv.tokenizer.encode_completion(venv.oracle(venv.prompts[0]))
    tokens = generator.integers(vocab, size=(STEPS, ROWS))
    kind = generator.random((STEPS, ROWS))
    tokens = np.where(kind < 0.7, generator.choice(answer or [0], (STEPS, ROWS)), tokens)
    return np.where(kind > 0.85, venv.tokenizer.eos_id, tokens).astype(np.int64)


def trajectory(venv: VectorEnv, actions: np.ndarray, mode: AutoresetMode) -> list[Any]:
    """Play the actions; return everything the environment said, as plain data."""
    venv = RecordEpisodeStatistics(venv)
    said = [as_plain(venv.reset(seed=5))]
    over = np.zeros(ROWS, bool)
    for row_actions in actions:
        if mode is AutoresetMode.DISABLED and over.any():
            said.append(as_plain(venv.reset(options={"reset_mask": over.copy()})))
        result = venv.step(row_actions)
        over = result[2] | result[3]
        if mode is AutoresetMode.DISABLED:
            # Gymnasium's Sync and Async take the mask out of the options before the wrapper
            # reads them, so that it forgets the lengths of the rows that go on.
            result[4].pop("episode", None), result[4].pop("_episode", None)
        said.append(as_plain(result))
    return said


def as_plain(value: Any) -> Any:
    """Return plain Python data without what may differ: wall-clock times, absent rows."""
    if isinstance(value, dict):
        return {k: as_plain(v) for k, v in value.items() if k not in SECONDS}
    if isinstance(value, (np.ndarray, list, tuple)):
        return [as_plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def test_async_text_is_right(closing: Callable[[VectorEnv], VectorEnv]) -> None:
    """Shared memory corrupts Text spaces in silence; ours has none, and `info` is pickled."""
    venv = closing(gym.make_vec(IDS[0], num_envs=2, vectorization_mode="async"))
    assert getattr(venv, "shared_memory", True)
    _, infos = venv.reset(seed=0)
    env: Any = gym.make(IDS[0])
    for row in range(2):
        assert infos["prompt"][row] == env.reset(seed=row)[1]["prompt"]
        assert len(set(infos["prompt"][row])) > 3  # not "00000000"


def test_the_list_is_the_registry() -> None:
    listed = {env_id for env_id in textenvs.list_envs() if env_id.startswith("textenvs/")}
    assert listed == {env_id for env_id in gym.registry if env_id.startswith("textenvs/")}


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("env_id", IDS)
def test_time_limits_truncate_alike(env_id: str, steps: int) -> None:
    native = gym.make_vec(env_id, num_envs=2, max_episode_steps=steps)
    sync = gym.make_vec(env_id, num_envs=2, max_episode_steps=steps, vectorization_mode="sync")
    actions = play(native)[:, :2]  # type: ignore[arg-type]
    native.reset(seed=0)
    sync.reset(seed=0)
    for tokens in actions[:12]:
        assert as_plain(native.step(tokens)) == as_plain(sync.step(tokens))
