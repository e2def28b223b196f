"""Stable-Baselines3's own tools on registered environments: evaluation, callbacks, checkpoints."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import (
    CheckpointCallback,
    EvalCallback,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_checker import check_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

import agents
from agents.sb3 import CausalLMActorCriticPolicy, TransformerExtractor
from textenvs.bridges.sb3 import SB3VecEnv
from textenvs.wrappers.action_mask import VectorActionMask

BANDIT, SELECT = "textenvs/TokenBandit-v0", "textenvs/ContextSelect-v0"
SELECT_TASK = {"n_items": 3, "n_prompts": 20, "max_prompt_tokens": 160, "max_new_tokens": 8}
SMALL: dict[str, Any] = {
    "features_extractor_class": TransformerExtractor,
    "features_extractor_kwargs": {"width": 16, "n_heads": 2},
    "net_arch": [],
}
QUICK: dict[str, Any] = {"n_steps": 8, "device": "cpu", "seed": 0, "gamma": 1.0}
QUICK_PPO = {**QUICK, "batch_size": 16}


class Fixed:
    """Says one token, or none."""

    def __init__(self, token: int) -> None:
        self.token = token

    def predict(self, observation: Any, *_: Any, **__: Any) -> tuple[np.ndarray, None]:
        return np.full(len(observation["input_ids"]), self.token), None


def bandit(num_envs: int = 16) -> SB3VecEnv:
    venv = SB3VecEnv(gym.make_vec(BANDIT, num_envs=num_envs))
    venv.seed(0)  # the contexts are drawn, so a mean over episodes depends on it
    return venv


def test_evaluate_policy_returns_the_reward_of_the_environment() -> None:
    """A policy that says one arm earns the mean of that arm over the contexts."""
    env: Any = gym.make(BANDIT).unwrapped
    arm = env.tokenizer.encode_completion("B")[0]
    expected = np.mean([env.score(prompt, ["B"]).scores[0] for prompt in env.prompts])
    model: Any = Fixed(arm)
    mean, _ = evaluate_policy(model, bandit(), 512)
    assert abs(mean - expected) < 0.05
    nothing: Any = Fixed(env.tokenizer.eos_id)
    assert evaluate_policy(nothing, bandit(), 64) == (0.0, 0.0)
    rewards, lengths = evaluate_policy(model, bandit(), 32, return_episode_rewards=True)
    assert len(rewards) == 32 and set(lengths) == {1}


def test_without_a_monitor_sb3_warns_that_rewards_may_be_modified() -> None:
    venv = SB3VecEnv(gym.make_vec(BANDIT, num_envs=2), monitor=False)
    model: Any = Fixed(3)
    with pytest.warns(UserWarning, match="not wrapped with a ``Monitor``"):
        evaluate_policy(model, venv, 2)


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_training_stops_when_the_evaluation_reaches_a_threshold(
    algorithm: Any, tmp_path: Path
) -> None:
    settings = QUICK_PPO if algorithm is PPO else QUICK
    model = algorithm(
        "MultiInputPolicy", bandit(), learning_rate=1e-2, policy_kwargs=SMALL, **settings
    )
    stop = StopTrainingOnRewardThreshold(0.7, verbose=0)
    evaluation = EvalCallback(
        bandit(),
        callback_on_new_best=stop,
        n_eval_episodes=32,
        eval_freq=16,
        best_model_save_path=str(tmp_path),
        log_path=str(tmp_path),
        verbose=0,
    )
    before, _ = evaluate_policy(model, bandit(), 512)
    model.learn(16 * 8 * 100, evaluation)
    assert model.num_timesteps < 16 * 8 * 100, "the threshold was reached"
    found = np.load(tmp_path / "evaluations.npz")["results"].mean(1)
    assert before < 0.7 <= found[-1] and (found[:-1] < 0.7).all()
    best = algorithm.load(tmp_path / "best_model", device="cpu")
    assert evaluate_policy(best, bandit(), 512)[0] > before + 0.2


def test_a_checkpoint_of_recurrent_ppo_goes_on(tmp_path: Path) -> None:
    model = RecurrentPPO("MultiInputLstmPolicy", bandit(4), policy_kwargs=SMALL, **QUICK_PPO)
    model.learn(64, CheckpointCallback(8, str(tmp_path), "lstm"))
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["lstm_32_steps", "lstm_64_steps"]
    again = RecurrentPPO.load(tmp_path / "lstm_64_steps", env=bandit(4), device="cpu")
    assert again.learn(32, reset_num_timesteps=False).num_timesteps == 96
    again.save(tmp_path / "last")
    last = RecurrentPPO.load(tmp_path / "last", device="cpu")
    observation = bandit(4).reset()
    said, state = again.predict(observation, deterministic=True)
    assert last.predict(observation, deterministic=True)[0].tolist() == said.tolist()
    assert state is not None
    assert 0 <= agents.evaluate(again, BANDIT, 5)["reward"].mean <= 1


def test_maskable_evaluation_sees_the_masks(tmp_path: Path) -> None:
    """Every held-out answer names a listed title; without the mask none does."""
    options = {**SELECT_TASK, "max_new_tokens": 24}

    def venv(split: str, *, masked: bool = True) -> SB3VecEnv:
        made = gym.make_vec(SELECT, num_envs=2, split=split, **options)
        made.reset(seed=0)
        return SB3VecEnv(VectorActionMask(made, "context-trie") if masked else made)

    model = MaskablePPO("MultiInputPolicy", venv("train"), policy_kwargs=SMALL, **QUICK_PPO)
    evaluation = MaskableEvalCallback(
        venv("test"), n_eval_episodes=4, eval_freq=8, log_path=str(tmp_path), verbose=0
    )
    model.learn(32, evaluation)
    assert np.load(tmp_path / "evaluations.npz")["results"].shape == (2, 4)
    listed: list[float] = []

    def note(told: dict[str, Any], _: Any) -> None:
        if told["done"]:
            listed.append(told["info"]["metrics"]["listed"])

    evaluate_masked(model, venv("test"), 4, callback=note)
    evaluate_policy(model, venv("test", masked=False), 4, callback=note)
    assert listed[:4] == [1.0] * 4 and listed[4:] == [0.0] * 4


def test_a_language_model_is_evaluated_and_kept(
    model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    folder = model_folder()
    task = {**SELECT_TASK, "tokenizer": str(folder), "max_prompt_tokens": 512}

    def venv(split: str) -> SB3VecEnv:
        return SB3VecEnv(gym.make_vec(SELECT, num_envs=2, split=split, **task))

    model = PPO(
        CausalLMActorCriticPolicy, venv("train"), policy_kwargs={"model": folder}, **QUICK_PPO
    )
    best = str(tmp_path / "best")
    evaluation = EvalCallback(
        venv("test"), n_eval_episodes=2, eval_freq=8, best_model_save_path=best, verbose=0
    )
    model.learn(16, [evaluation, CheckpointCallback(8, best, "lm")])
    again = PPO.load(Path(best) / "best_model", device="cpu")
    measured = agents.evaluate(again, SELECT, 4, env_kwargs=task)
    direct = agents.evaluate(again.policy.lm, SELECT, 4, env_kwargs=task)
    assert measured == direct, "the model inside answers alike, with a cache"
    assert (Path(best) / "lm_16_steps.zip").is_file()


def test_single_environments_go_into_sb3_s_own_vector_environment() -> None:
    env = gym.make(BANDIT)
    check_env(env.unwrapped, warn=False)
    model = PPO(
        "MultiInputPolicy",
        DummyVecEnv([lambda: Monitor(gym.make(BANDIT)) for _ in range(4)]),
        policy_kwargs=SMALL,
        **QUICK_PPO,
    )
    assert model.learn(32).num_timesteps == 32
    assert len(model.ep_info_buffer) == 32
    assert 0 <= evaluate_policy(model, Monitor(gym.make(BANDIT)), 4)[0] <= 1
