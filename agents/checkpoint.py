"""Saved agents: a Hugging Face folder, and beside it what training needs to go on.

Safetensors and JSON only. A folder is written under a temporary name and renamed, and
`training.json` is written last, so a folder that holds it is whole.
"""

import dataclasses
import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from agents.config import LoRAConfig
from agents.policy import CausalLMPolicy
from textenvs.errors import CheckpointError

if TYPE_CHECKING:
    from agents.on_policy import OnPolicyAgent

TRAINING_JSON = "training.json"
TRAINING_TENSORS = "training.safetensors"
FORMAT = 2


def save_training_state(agent: "OnPolicyAgent", path: Path) -> Path:
    """Write a folder from which the agent's `load` goes on exactly.

    Raises:
        CheckpointError: if the path exists and is no saved agent, or adapters have no named
            base model.
    """
    if path.exists() and not (path / TRAINING_JSON).is_file() and any(path.iterdir()):
        raise CheckpointError(
            f"{path} exists and is no saved agent; it is not overwritten. Choose another folder"
        )
    if agent.policy.lora is not None and not agent.policy.source:
        raise CheckpointError(
            "an agent with LoRA is saved as adapters on a named base model, but this model was "
            "made in memory; save the base with save_pretrained and load the policy from there"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    agent.policy.save_pretrained(partial)
    tensors = {"generator": agent.generator.get_state()}
    for i, parameter in enumerate(agent.parameters):
        for key, value in agent.optimizer.state.get(parameter, {}).items():
            tensors[f"optimizer.{i}.{key}"] = value.detach().clone().contiguous()
    lora = agent.policy.lora
    if lora is not None:  # the folder holds merged weights, so the adapters are kept too
        tensors |= {
            f"trainable.{name}": parameter.detach().clone().contiguous()
            for name, parameter in agent.policy.named_parameters()
            if parameter.requires_grad
        }
    if agent.average is not None:
        tensors |= {f"average.{k}": v for k, v in agent.average.state_dict().items()}
    extra_tensors, extra_values = agent.extra_state()
    tensors |= {f"extra.{name}": value.contiguous() for name, value in extra_tensors.items()}
    save_file(tensors, partial / TRAINING_TENSORS)
    environment: Any = agent.env.unwrapped
    state = {
        "format": FORMAT,
        "algorithm": type(agent).__name__,
        "config": dataclasses.asdict(agent.config),
        "seed": agent.seed,
        "num_timesteps": agent.num_timesteps,
        "num_updates": agent.num_updates,
        "learning_rates": [group["lr"] for group in agent.optimizer.param_groups],
        "policy": {
            "critic": agent.policy.critic,
            "temperature": agent.policy.temperature,
            "bfloat16": agent.policy.use_bfloat16,
            "trainable_layers": agent.policy.trainable_layers,
            "gradient_checkpointing": agent.policy.gradient_checkpointing,
            "compile": agent.policy.compiled,
        },
        "lora": None if lora is None else dataclasses.asdict(lora),
        "base_model": agent.policy.source,
        "kl_coefficient": agent.shaping.coefficient.state_dict() if agent.shaping else None,
        "pretraining": agent.pretraining.state_dict() if agent.pretraining else None,
        "extra": extra_values,
        "environment": environment.state_dict(),
    }
    text = json.dumps(state, indent=1)
    (partial / TRAINING_JSON).write_text(text + "\n", encoding="utf-8")
    replaced = path.with_name(f".{path.name}.replaced-{os.getpid()}")
    if path.exists():  # moved aside first, so that a whole folder exists at every moment
        path.rename(replaced)
    partial.rename(path)
    shutil.rmtree(replaced, ignore_errors=True)
    return path


def read_training_json(path: Path) -> dict[str, Any]:
    """Return the JSON half of a saved agent.

    Raises:
        CheckpointError: if it is missing, damaged, or of another format.
    """
    file = path / TRAINING_JSON
    if not file.is_file():
        raise CheckpointError(
            f"{path} holds no {TRAINING_JSON}, so it is no saved agent; to begin from a plain "
            "model use CausalLMPolicy.from_pretrained, or textenvs train --model"
        )
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is damaged: {error}; use an earlier checkpoint") from error
    if state.get("format") != FORMAT:
        raise CheckpointError(
            f"{file} has the format {state.get('format')!r}; this version reads {FORMAT}"
        )
    return dict(state)


def policy_from_checkpoint(
    path: Path, learner: "type[OnPolicyAgent]"
) -> tuple[CausalLMPolicy, Any, int]:
    """Return the policy, the settings and the seed of a saved agent.

    Raises:
        CheckpointError: if another class saved it, or its settings are not known here.
    """
    state = read_training_json(path)
    if state["algorithm"] != learner.__name__:
        raise CheckpointError(
            f"{path} was saved by {state['algorithm']}, not by {learner.__name__}; load it with "
            f"{state['algorithm']}.load, or begin anew from its weights with "
            "CausalLMPolicy.from_pretrained"
        )
    try:
        config = learner.config_class(**state["config"])
    except TypeError as error:
        raise CheckpointError(
            f"{path} has settings that this version does not know ({error}); begin anew from its "
            "weights with CausalLMPolicy.from_pretrained"
        ) from error
    options = state["policy"]
    if state["lora"] is None:
        policy = CausalLMPolicy.from_pretrained(path, **options)
    else:
        lora = LoRAConfig(**state["lora"])
        policy = CausalLMPolicy.from_pretrained(state["base_model"], lora=lora, **options)
    return policy, config, int(state["seed"])


def load_training_state(agent: "OnPolicyAgent", path: Path) -> None:
    """Put optimiser, random state, counters and environment back.

    Raises:
        CheckpointError: if the tensors do not fit the agent.
    """
    state = read_training_json(path)
    tensors = load_file(path / TRAINING_TENSORS)
    named = dict(agent.policy.named_parameters())
    with torch.no_grad():
        for key, value in tensors.items():
            kind, _, rest = key.partition(".")
            if kind == "trainable":
                if rest not in named or named[rest].shape != value.shape:
                    raise CheckpointError(f"{path}: the tensor {rest!r} does not fit this policy")
                named[rest].copy_(value)
            elif kind == "optimizer":
                index, _, name = rest.partition(".")
                if int(index) >= len(agent.parameters):
                    raise CheckpointError(f"{path}: the optimiser state is of another model")
                parameter = agent.parameters[int(index)]
                moved = value if name == "step" else value.to(parameter.device)
                agent.optimizer.state[parameter][name] = moved
    agent.generator.set_state(tensors["generator"])
    agent.num_timesteps, agent.num_updates = state["num_timesteps"], state["num_updates"]
    for group, rate in zip(agent.optimizer.param_groups, state["learning_rates"], strict=True):
        group["lr"] = rate
    if agent.shaping is not None and state["kl_coefficient"] is not None:
        agent.shaping.coefficient.load_state_dict(state["kl_coefficient"])
    if agent.average is not None:
        agent.average.load_state_dict(_under("average.", tensors))
    if agent.pretraining is not None:
        agent.pretraining.load_state_dict(state["pretraining"])
    agent.load_extra_state(_under("extra.", tensors), state["extra"])
    environment: Any = agent.env.unwrapped
    environment.load_state_dict(state["environment"])


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors whose names begin so, without the prefix."""
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
