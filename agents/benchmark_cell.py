"""Run one cell of a benchmark: prepare a start model, or train with a design and judge.

`textenvs bench run` calls `run_cell` in a process of its own; it is the default of `runner`
in a study file, "agents.benchmark_cell:run_cell".
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from gymnasium.vector import AutoresetMode

from agents.benchmarking.course import Course
from agents.benchmarking.held_out import HeldOut, HeldOutSettings
from agents.benchmarking.records import CellRecords
from agents.benchmarking.settings import (
    PREPARATION,
    agent_config,
    agent_spec,
    evaluation_spec,
    measure_settings,
    resolve_cell,
    sft_config,
    single_env,
    vector_env,
)
from agents.benchmarking.timed_reward import TimedReward
from agents.command_line.catalogue import find_learner, make_own, takes_policy
from agents.fine_tuning import sft
from agents.policy import CausalLMPolicy
from textenvs.benchmark.reward_spec import make_reward
from textenvs.errors import CheckpointError
from textenvs.kl import KLCoefficient
from textenvs.reference import CausalLMReference
from textenvs.vector_env import vectorised
from textenvs.wrappers.reference_kl import VectorReferenceKL

__all__ = ["resolve_cell", "run_cell"]

MODEL = "model"
"""Folder of a preparation in which the start model lies."""
ROWS = 128
"""Held-out prompts answered side by side."""


def run_cell(cell: Mapping[str, Any], folder: Path, study: Path) -> None:
    """Run a cell; on a CPU the same cell leaves the same bytes, timings apart.

    Args:
        cell: As in its `cell.json`; see `resolve_cell`.
        folder: Where its records go: `model/` of a preparation; `checkpoints.jsonl`,
            `answers.jsonl`, `rollouts.jsonl` and `updates.jsonl` of a cell.
        study: Folder of the study, under which the preparations that a cell `needs` lie.

    Raises:
        TextEnvsError: if the cell cannot be run as it is.
        FloatingPointError: if the training diverges.
    """
    with one_thread():
        if cell["kind"] == PREPARATION:
            _prepare(cell, Path(folder))
        else:
            _train(cell, Path(folder), Path(study))


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread: how sums are split over threads decides how they round."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _prepare(cell: Mapping[str, Any], folder: Path) -> None:
    """Fine-tune the model of an agent on right answers and keep it."""
    model = agent_spec(cell).model
    policy = CausalLMPolicy.from_pretrained(model)
    sft(policy, single_env(cell, model), sft_config(cell), seed=cell["seed"])
    policy.save_pretrained(folder / MODEL)


def _train(cell: Mapping[str, Any], folder: Path, study: Path) -> None:
    """Train an agent with the reward of a design, judging it on the way."""
    spec, evaluation = agent_spec(cell), evaluation_spec(cell)
    reward = TimedReward(make_reward(cell["design"]["reward"]))
    learner = find_learner(spec.agent)
    model = _start_model(cell, study) if takes_policy(learner) else None
    venv = vector_env(
        cell,
        "train",
        spec.num_envs,
        tokenizer=model,
        reward=reward,
        samples_per_prompt=spec.samples_per_prompt or 1,
    )
    policy = reference = None
    if model is None:
        agent = make_own(learner, venv, cell["seed"], spec.options)
    else:
        policy = CausalLMPolicy.from_pretrained(
            model, critic=spec.critic, lora=spec.lora, temperature=spec.temperature
        )
        reference = policy.reference()
        venv = _shaped(venv, reference, cell["design"])
        agent = learner(policy, venv, agent_config(cell), seed=cell["seed"])
    settings = HeldOutSettings(
        n_prompts=evaluation.prompts,
        greedy=evaluation.decoding == "greedy",
        seed=cell["seed"],
        gold=cell["gold"],
        self_bleu_texts=measure_settings(cell).self_bleu_texts,
    )
    asked = vector_env(cell, evaluation.split, 1, tokenizer=model, reward=reward)
    rows = min(ROWS, evaluation.prompts)
    asked = vectorised(asked.unwrapped, rows, AutoresetMode.DISABLED)
    Course(
        agent,
        HeldOut(asked, settings, policy, reference),
        CellRecords(folder),
        reward,
        total=spec.updates,
        every=evaluation.every,
        tokens_per_update=spec.num_envs * asked.batch.max_new_tokens,
    ).run()


def _start_model(cell: Mapping[str, Any], study: Path) -> str:
    """Return the model that training begins from: the preparation's, if one is needed.

    Raises:
        CheckpointError: if the preparation has left none.
    """
    if not cell["needs"]:
        return agent_spec(cell).model
    folder = study / "cells" / cell["needs"][0] / MODEL
    if not (folder / "config.json").is_file():
        raise CheckpointError(
            f"the preparation {cell['needs'][0]} has left no model in {folder}; run it again"
        )
    return str(folder)


def _shaped(venv: Any, reference: CausalLMReference, design: Mapping[str, Any]) -> Any:
    """Return the environment with the KL of the design charged; bind the reference to it."""
    task = venv.unwrapped
    reference.bind(task.batch.num_prompt_columns, task.tokenizer.vocab_size)
    if not design["kl_coef"]:
        return venv
    coefficient = KLCoefficient(design["kl_coef"], target=design["kl_target"])
    return VectorReferenceKL(venv, reference, coefficient, timing=design["kl_timing"])
