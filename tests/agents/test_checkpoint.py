"""Saved agents: a resumed run equals an unbroken one bit for bit."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gymnasium.vector import AutoresetMode
from transformers import AutoModelForCausalLM

from agents.config import LoRAConfig, PPOConfig
from agents.policy import CausalLMPolicy
from agents.ppo import PPO
from textenvs.errors import CheckpointError
from textenvs.kl import KLCoefficient
from textenvs.reference import CausalLMReference
from textenvs.wrappers.reference_kl import VectorReferenceKL

CONFIG = PPOConfig(learning_rate=1e-2, n_epochs=2, batch_size=4, rollout_episodes=8)
GOAL, BROKEN_OFF = 8 * 4 * 5, 2
Make = Callable[..., Any]


def everything(agent: PPO) -> dict[str, Any]:
    """Return all that decides how the training goes on."""
    state = {f"policy.{k}": v.clone() for k, v in agent.policy.state_dict().items()}
    for i, parameter in enumerate(agent.parameters):
        for key, value in agent.optimizer.state[parameter].items():
            state[f"optimizer.{i}.{key}"] = value.clone()
    return {
        **state,
        "generator": agent.generator.get_state(),
        "environment": agent.env.unwrapped.state_dict(),
        "timesteps": agent.num_timesteps,
        "updates": agent.num_updates,
        "coef": agent.shaping.coef if agent.shaping else None,
    }


def differences(one: dict[str, Any], two: dict[str, Any]) -> list[str]:
    assert one.keys() == two.keys()
    return [
        key
        for key, value in one.items()
        if not (torch.equal(value, two[key]) if torch.is_tensor(value) else value == two[key])
    ]


@pytest.fixture
def make_env(make_venv: Make, make_model: Make) -> Make:
    """Return a maker of environments, with an adaptive KL where asked for."""

    def make(
        *, kl: bool = False, policy_logprob: bool = False, temperature: float = 1.0, **options: Any
    ) -> Any:
        venv = make_venv(4, **options)
        if not kl:
            return venv
        return VectorReferenceKL(
            venv,
            CausalLMReference(make_model("llama"), temperature=temperature, bfloat16=False),
            KLCoefficient(0.2, target=0.5, horizon=50),
            policy_logprob=policy_logprob,
        )

    return make


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.SAME_STEP])
@pytest.mark.parametrize(
    ("policy_options", "env_options"),
    [
        ({}, {}),
        ({"critic": "separate"}, {"samples_per_prompt": 2}),
        ({"lora": LoRAConfig(r=2)}, {}),
        ({"lora": LoRAConfig(r=2)}, {"kl": True}),
        ({"temperature": 0.8}, {"kl": True, "policy_logprob": True, "temperature": 0.8}),
    ],
)
def test_resumed_equals_unbroken(
    mode: AutoresetMode,
    policy_options: dict[str, Any],
    env_options: dict[str, Any],
    model_folder: Make,
    make_env: Make,
    tmp_path: Path,
) -> None:
    folder = model_folder()
    env_options = {**env_options, "autoreset_mode": mode}

    def fresh() -> PPO:
        policy = CausalLMPolicy.from_pretrained(folder, bfloat16=False, **policy_options)
        return PPO(policy, make_env(**env_options), CONFIG, seed=3)

    unbroken = fresh().learn(GOAL)
    assert unbroken.num_updates > BROKEN_OFF
    broken = fresh().learn(GOAL, lambda metrics: metrics["update"] < BROKEN_OFF)
    assert differences(everything(broken), everything(unbroken))
    path = broken.save(tmp_path / "checkpoint")
    resumed = PPO.load(path, make_env(**env_options))
    assert resumed.config == CONFIG and resumed.seed == 3
    assert differences(everything(resumed), everything(broken)) == []
    resumed.learn(GOAL, reset_num_timesteps=False)
    assert differences(everything(resumed), everything(unbroken)) == []
    if env_options.get("kl"):
        assert resumed.shaping is not None and resumed.shaping.coef != 0.2


def test_forgetting_the_generator_is_seen(
    model_folder: Make, make_env: Make, tmp_path: Path
) -> None:
    """Negative control: a resumed run with another generator is another run."""
    policy = CausalLMPolicy.from_pretrained(model_folder(), bfloat16=False)
    agent = PPO(policy, make_env(), CONFIG)
    agent.step()
    path = agent.save(tmp_path / "checkpoint")
    resumed = PPO.load(path, make_env())
    resumed.generator.manual_seed(99)
    agent.step()
    resumed.step()
    assert differences(everything(agent), everything(resumed))


@pytest.mark.parametrize("lora", [None, LoRAConfig(r=2)])
def test_saved_agent_is_a_plain_model(
    lora: Any, model_folder: Make, make_env: Make, tmp_path: Path
) -> None:
    policy = CausalLMPolicy.from_pretrained(model_folder(), bfloat16=False, lora=lora)
    agent = PPO(policy, make_env(), CONFIG).learn(GOAL)
    path = agent.save(tmp_path / "saved")
    plain = AutoModelForCausalLM.from_pretrained(path)
    ids = torch.arange(20, 30)[None]
    with torch.no_grad():
        torch.testing.assert_close(
            plain(ids).logits, policy.model(ids).logits, atol=1e-4 if lora else 0, rtol=0
        )
    assert not [f.name for f in path.iterdir() if f.suffix in (".bin", ".pt", ".pkl")]
    assert agent.save(path) == path, "a saved agent may be saved over"
    assert not [f.name for f in tmp_path.iterdir() if "partial" in f.name]


def test_bad_folders(model_folder: Make, make_env: Make, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no training.json"):
        PPO.load(model_folder(), make_env())
    policy = CausalLMPolicy.from_pretrained(model_folder(), bfloat16=False)
    agent = PPO(policy, make_env(), CONFIG)
    with pytest.raises(CheckpointError, match="is no saved agent; it is not overwritten"):
        agent.save(model_folder())
    path = agent.save(tmp_path / "saved")
    file = path / "training.json"
    state = json.loads(file.read_text())
    file.write_text(json.dumps({**state, "format": 99}))
    with pytest.raises(CheckpointError, match="has the format 99"):
        PPO.load(path, make_env())
    file.write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        PPO.load(path, make_env())
