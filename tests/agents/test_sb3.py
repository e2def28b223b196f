"""Stable-Baselines3's own algorithms on text environments."""

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector import VectorWrapper
from sb3_contrib import MaskablePPO, RecurrentPPO
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import CallbackList, CheckpointCallback, EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure

import agents
from agents.config import LoRAConfig
from agents.policy import CausalLMPolicy
from agents.sb3 import (
    CausalLMActorCriticPolicy,
    TransformerExtractor,
    read_observation,
    vocabulary_size,
)
from agents.sb3_maskable import MaskableCausalLMPolicy
from textenvs.bridges.sb3 import SB3VecEnv
from textenvs.errors import ConfigError, MissingDependencyError, ModelError
from textenvs.wrappers.action_mask import VectorActionMask

Make = Callable[..., Any]
SMALL = {"features_extractor_class": TransformerExtractor, "features_extractor_kwargs": {}}
QUICK: dict[str, Any] = {"n_steps": 8, "device": "cpu", "seed": 0}
QUICK_PPO = {**QUICK, "batch_size": 32}
LETTERS = range(40, 90)


class LettersOnly(VectorWrapper):
    """Only some fifty bytes may be said."""

    def action_masks(self) -> np.ndarray:
        mask = np.zeros((self.num_envs, self.env.single_action_space.n), bool)
        mask[:, LETTERS] = True
        return mask


def spoken(venv: Any, seed: int = 0, steps: int = 2) -> dict[str, torch.Tensor]:
    """Return an observation of rows of unequal length, as the policy gets it."""
    generator = np.random.default_rng(seed)
    venv.reset(seed=seed)
    observation: Any = {}
    for _ in range(steps):
        observation, *_ = venv.step(generator.integers(40, 90, venv.num_envs))
    ended = np.arange(venv.num_envs) % 2 == 0
    observation, _ = venv.reset(options={"reset_mask": ended})
    return {key: torch.as_tensor(value).float() for key, value in observation.items()}


@pytest.fixture
def make_language_model(make_venv: Make, model_folder: Callable[..., Path]) -> Make:
    """Return a maker of SB3 policies around a small language model."""

    def make(kind: str = "llama", cls: Any = CausalLMActorCriticPolicy, **options: Any) -> Any:
        venv = make_venv(6)
        options = {"model": model_folder(kind), **options}
        spaces_of = (venv.single_observation_space, venv.single_action_space)
        return cls(*spaces_of, lambda _: 1e-3, **options)

    return make


def test_reading_moves_the_newest_token_to_the_last_column() -> None:
    ids = torch.tensor([[0, 0, 5, 6, 7, 0], [0, 3, 4, 8, 0, 0]])
    read = read_observation({"input_ids": ids.float(), "attention_mask": (ids > 0).float()})
    assert read.input_ids.tolist() == [[5, 6, 7], [3, 4, 8]]
    assert read.columns.tolist() == [[2, 3, 4], [1, 2, 3]]
    assert read.mask.all()
    ids = torch.tensor([[5, 6, 7, 8], [0, 3, 0, 0]])
    read = read_observation({"input_ids": ids.float(), "attention_mask": (ids > 0).float()})
    assert read.mask.tolist() == [[True] * 4, [False, False, False, True]]
    assert read.input_ids[1, -1] == 3 and read.columns[1, -1] == 1


def test_a_vocabulary_beyond_float32_is_refused() -> None:
    def space(size: int) -> spaces.Dict:
        return spaces.Dict(
            input_ids=spaces.Box(0, size - 1, (4,), np.int64),
            attention_mask=spaces.Box(0, 1, (4,), np.int8),
        )

    assert vocabulary_size(space(2**24)) == 2**24
    assert int(torch.tensor(2**24 - 1).float().long()) == 2**24 - 1
    assert int(torch.tensor(2**24 + 1).float().long()) != 2**24 + 1
    with pytest.raises(ConfigError, match="exact up to 16777216"):
        vocabulary_size(space(2**24 + 2))
    with pytest.raises(ConfigError, match="input_ids"):
        TransformerExtractor(spaces.Box(0, 1, (4,)))


@pytest.mark.parametrize("sizes", [{"width": 10, "n_heads": 4}, {"n_layers": 0}, {"n_heads": 0}])
def test_wrong_sizes_are_refused(sizes: dict[str, int], make_venv: Make) -> None:
    with pytest.raises(ConfigError, match="multiple of n_heads"):
        TransformerExtractor(make_venv().single_observation_space, **sizes)


@pytest.mark.parametrize("n_layers", [1, 2])
def test_features_depend_on_the_tokens_of_their_row_alone(n_layers: int, make_venv: Make) -> None:
    venv = make_venv(6)
    torch.manual_seed(0)
    extractor = TransformerExtractor(venv.single_observation_space, 16, n_layers, 2)
    observation = spoken(venv)
    features = extractor(observation)
    assert features.shape == (6, 16) and torch.isfinite(features).all()
    for row in range(6):
        alone = extractor({key: value[row : row + 1] for key, value in observation.items()})
        torch.testing.assert_close(alone[0], features[row], atol=1e-5, rtol=1e-5)
    garbage = dict(observation)
    garbage["input_ids"] = torch.where(
        observation["attention_mask"].bool(), observation["input_ids"], 77.0
    )
    torch.testing.assert_close(extractor(garbage), features)
    first = dict(observation)
    first["input_ids"] = observation["input_ids"].clone()
    start = observation["attention_mask"].int().argmax(1)
    first["input_ids"][torch.arange(6), start] += 1
    assert (extractor(first) - features).abs().amax(1).min() > 1e-4, "every real token counts"


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_learns_a_toy(algorithm: Any, make_venv: Make) -> None:
    """From chance, about 0.3, to the letters that pay; a flat reward leads nowhere."""
    settings: dict[str, Any] = {"learning_rate": 5e-3, "gamma": 1.0, "device": "cpu", "seed": 0}
    if algorithm is PPO:
        settings |= {"n_steps": 8, "batch_size": 128, "n_epochs": 3}
    shares = {}
    for name, options in (("paid", {}), ("flat", {"reward": lambda prompt, completion: 1.0})):
        model = algorithm(
            "MultiInputPolicy",
            SB3VecEnv(make_venv(32, **options)),
            policy_kwargs={**SMALL, "features_extractor_kwargs": {"width": 32}},
            **settings,
        )
        before, _ = evaluate_policy(model, SB3VecEnv(make_venv(32)), 64, deterministic=False)
        model.learn(32 * 8 * 20)
        after, _ = evaluate_policy(model, SB3VecEnv(make_venv(32)), 64, deterministic=False)
        shares[name] = (before, after)
    assert shares["paid"][0] < 0.5 and shares["paid"][1] > 0.9
    assert shares["flat"][1] < 0.5


def test_callbacks_and_logs(make_venv: Make, tmp_path: Path) -> None:
    model = PPO("MultiInputPolicy", SB3VecEnv(make_venv(4)), policy_kwargs=SMALL, **QUICK_PPO)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    evaluation = EvalCallback(
        SB3VecEnv(make_venv(2)),
        n_eval_episodes=4,
        eval_freq=8,
        log_path=str(tmp_path),
        best_model_save_path=str(tmp_path),
        verbose=0,
    )
    checkpoints = CheckpointCallback(8, str(tmp_path), "toy")
    model.learn(64, CallbackList([evaluation, checkpoints]))
    model.logger.close()
    logged = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True)
    rows = logged[np.isfinite(logged["timeiterations"])]  # the others are of EvalCallback
    assert len(rows) == 2
    assert np.all(rows["rolloutep_len_mean"] > 1) and np.all(rows["rolloutep_len_mean"] <= 4)
    assert np.all(rows["rolloutep_rew_mean"] > 0) and np.all(rows["rolloutep_rew_mean"] < 1)
    found = np.load(tmp_path / "evaluations.npz")
    assert found["timesteps"].tolist() == [32, 64] and found["results"].shape == (2, 4)
    again = PPO.load(tmp_path / "toy_64_steps.zip", env=SB3VecEnv(make_venv(4)), device="cpu")
    observation = again.env.reset()
    expected = model.predict(observation, deterministic=True)[0]
    assert again.predict(observation, deterministic=True)[0].tolist() == expected.tolist()
    assert again.learn(32, reset_num_timesteps=False).num_timesteps == 96
    assert (tmp_path / "best_model.zip").is_file()


def test_recurrent_ppo_runs(make_venv: Make) -> None:
    venv = SB3VecEnv(make_venv(4))
    model = RecurrentPPO("MultiInputLstmPolicy", venv, policy_kwargs=SMALL, **QUICK_PPO)
    assert model.learn(64).num_timesteps == 64
    mean, _ = evaluate_policy(model, venv, 4)
    assert 0 <= mean <= 1


@pytest.mark.parametrize("language_model", [False, True])
def test_maskable_ppo_says_only_what_is_allowed(
    language_model: bool, make_venv: Make, model_folder: Callable[..., Path]
) -> None:
    policy: Any = "MultiInputPolicy"
    options: dict[str, Any] = SMALL
    if language_model:
        policy, options = MaskableCausalLMPolicy, {"model": model_folder()}
    said: list[int] = []
    venv = SB3VecEnv(LettersOnly(make_venv(4)))
    model = MaskablePPO(policy, venv, policy_kwargs=options, **QUICK_PPO)
    model.learn(64, lambda seen, _: said.extend(seen["actions"]) or True)
    assert len(said) == 64 and set(said) <= set(LETTERS)
    evaluate_masked(model, venv, 4)
    with pytest.raises(ValueError, match="does not support action masking"):
        MaskablePPO(policy, SB3VecEnv(make_venv(4)), policy_kwargs=options, **QUICK_PPO).learn(8)


def test_maskable_ppo_runs_on_context_select() -> None:
    """Under the mask of listed titles an answer names one, and ends."""
    options = {"n_items": 3, "n_prompts": 20, "max_prompt_tokens": 160, "max_new_tokens": 24}
    venv = gym.make_vec("textenvs/ContextSelect-v0", num_envs=2, **options)
    masked = SB3VecEnv(VectorActionMask(venv, "context-trie"))
    model = MaskablePPO("MultiInputPolicy", masked, policy_kwargs=SMALL, **QUICK_PPO)
    ended: list[dict[str, Any]] = []
    model.learn(96, lambda seen, _: ended.extend(i for i in seen["infos"] if "episode" in i) or 1)
    assert ended and all(info["finish_reason"] == "eos" for info in ended)
    assert all(info["metrics"]["listed"] == 1 for info in ended if info["completion"])


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_log_probabilities_are_those_of_the_native_policy(
    kind: str,
    critic: str,
    make_venv: Make,
    model_folder: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Left-padded prompts of unequal length, completions of unequal length, a live critic."""
    venv = make_venv(6)
    lm = CausalLMPolicy.from_pretrained(
        model_folder(kind), critic=critic, temperature=1.3, bfloat16=False
    )
    torch.nn.init.normal_(lm.value_head.weight)
    spaces_of = (venv.single_observation_space, venv.single_action_space)
    policy = CausalLMActorCriticPolicy(*spaces_of, lambda _: 1e-3, model=lm)
    venv.reset(seed=1)
    generator = np.random.default_rng(1)
    steps, before = generator.integers(40, 90, (4, 6)), []
    observation = venv.batch.observation()
    for tokens in steps:
        before.append({k: torch.as_tensor(v).float() for k, v in observation.items()})
        observation, *_ = venv.step(tokens)
    native = lm.evaluate(
        torch.as_tensor(observation["input_ids"]), torch.as_tensor(observation["attention_mask"]), 7
    )
    for t, tokens in enumerate(steps):
        actions = torch.as_tensor(tokens)
        values, logprobs, entropy = policy.evaluate_actions(before[t], actions)
        torch.testing.assert_close(logprobs, native.logprobs[:, t], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(values[:, 0], native.values[:, t], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(entropy, native.entropy[:, t], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(policy.predict_values(before[t]), values)
        distribution = policy.get_distribution(before[t])
        torch.testing.assert_close(distribution.log_prob(actions), logprobs)
    # Negative control: with learned positions, counting the padding changes the answer.
    assert len(set(before[0]["attention_mask"].sum(1).tolist())) > 1
    monkeypatch.setattr(
        "agents.sb3.positions", lambda mask: torch.arange(mask.shape[1]).expand(mask.shape)
    )
    _, wrong, _ = policy.evaluate_actions(before[0], torch.as_tensor(steps[0]))
    differs = (wrong - native.logprobs[:, 0]).abs().max() > 1e-2
    assert differs == (kind == "gpt2")


@pytest.mark.parametrize("algorithm", [PPO, A2C])
def test_language_model_trains_and_comes_back(
    algorithm: Any, make_venv: Make, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    venv = SB3VecEnv(make_venv(4))
    options = {"model": model_folder(), "critic": "shared"}
    settings = QUICK_PPO if algorithm is PPO else QUICK
    model = algorithm(
        CausalLMActorCriticPolicy, venv, learning_rate=1e-3, policy_kwargs=options, **settings
    )
    observation = venv.reset()
    tensors = {key: torch.as_tensor(value) for key, value in observation.items()}
    assert not model.policy.predict_values(tensors).any(), "the value head begins at zero"
    start = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(64)
    changed = [not torch.equal(a, b) for a, b in zip(start, model.policy.parameters(), strict=True)]
    assert all(changed)
    said = model.predict(observation, deterministic=True)[0]
    values = model.policy.predict_values(tensors)

    model.save(tmp_path / "model")
    again = algorithm.load(tmp_path / "model", device="cpu")
    assert again.predict(observation, deterministic=True)[0].tolist() == said.tolist()
    torch.testing.assert_close(again.policy.predict_values(tensors), values)
    model.policy.save(tmp_path / "policy")
    alone = CausalLMActorCriticPolicy.load(tmp_path / "policy", device="cpu")
    assert alone.predict(observation, deterministic=True)[0].tolist() == said.tolist()

    model.policy.save_pretrained(tmp_path / "folder")
    native = CausalLMPolicy.from_pretrained(tmp_path / "folder", bfloat16=False)
    assert native.predict(observation, deterministic=True)[0].tolist() == said.tolist()
    assert torch.equal(native.value_head.weight, model.policy.value_net.weight)


def test_language_model_learns_a_toy(make_venv: Make, model_folder: Callable[..., Path]) -> None:
    model = PPO(
        CausalLMActorCriticPolicy,
        SB3VecEnv(make_venv(32)),
        policy_kwargs={"model": model_folder()},
        **{**QUICK, "learning_rate": 1e-2, "n_steps": 16, "batch_size": 128, "n_epochs": 4},
    )
    before, _ = evaluate_policy(model, SB3VecEnv(make_venv(32)), 64, deterministic=False)
    model.learn(32 * 16 * 8)
    after, _ = evaluate_policy(model, SB3VecEnv(make_venv(32)), 64, deterministic=False)
    assert before < 0.5 and after > 0.8


def test_adapters_alone_are_trained(make_venv: Make, make_language_model: Make) -> None:
    policy = make_language_model(lora=LoRAConfig(r=2))
    policy.set_training_mode(True)
    values, logprobs, _ = policy.evaluate_actions(
        spoken(make_venv(6)), torch.full((6,), 50, dtype=torch.long)
    )
    (logprobs.sum() + values.sum()).backward()
    trained = {name for name, p in policy.lm.named_parameters() if p.grad is not None}
    assert trained and all("lora" in name or "value_head" in name for name in trained)
    assert not policy.lm.model.training, "dropout stays off"


def test_a_policy_that_does_not_fit_is_refused(
    make_venv: Make, make_model: Make, make_language_model: Make
) -> None:
    lm = CausalLMPolicy(make_model("llama", vocab_size=100), bfloat16=False)
    with pytest.raises(ModelError, match="knows 100 tokens"):
        make_language_model(model=lm)
    with pytest.raises(ConfigError, match="critic"):
        make_language_model(model=lm, critic="separate")


def test_our_evaluation_takes_an_sb3_model(make_venv: Make) -> None:
    model = PPO("MultiInputPolicy", SB3VecEnv(make_venv(4)), policy_kwargs=SMALL, **QUICK_PPO)
    measured = agents.evaluate(model, make_venv(2), 6)
    assert 0 <= measured["reward"].mean <= 1 and measured["length"].mean <= 4


@pytest.mark.parametrize(
    ("module", "package"),
    [
        ("textenvs.bridges.sb3", "stable_baselines3"),
        ("agents.sb3", "stable_baselines3"),
        ("agents.sb3_maskable", "sb3_contrib"),
    ],
)
def test_a_missing_package_is_named(
    module: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [n for n in sys.modules if n.partition(".")[0] == package]:
        monkeypatch.setitem(sys.modules, name, None)
    spec: Any = importlib.util.find_spec(module)
    with pytest.raises(MissingDependencyError, match=f"{package}.*pip install"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
