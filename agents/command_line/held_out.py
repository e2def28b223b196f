"""What the commands share: resolved settings printed, held-out prompts answered."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomli_w
from transformers.utils import logging as transformers_logging

from agents.command_line.console import Console
from agents.command_line.inspection import require_id
from agents.command_line.settings import EnvSettings
from agents.evaluation import Answer, answer_prompts
from agents.publishing import stage_model
from agents.runs import plain
from textenvs.models import model_folder

# The commands show their own progress; a library's bars would tear it.
transformers_logging.disable_progress_bar()

TITLE = "Held-out prompts, greedy, 95% intervals"
"""Of the table that a command prints before it ends."""


def print_resolved(settings: Any, dry_run: bool, console: Console) -> bool:
    """Print the settings if that is all that was asked for; return whether it was.

    Args:
        settings: A dataclass or a mapping.
        dry_run: What `read_settings` returned.
        console: Prints.
    """
    if dry_run:
        console.say(tomli_w.dumps(plain(settings)).rstrip())
    return dry_run


def named_model(name: str) -> str:
    """Return the last checkpoint of a run folder; the name of any other model as it is.

    Raises:
        CheckpointError: if the run is unfinished, or it is open which checkpoint is meant.
        ModelError: if it holds no language model; says which command makes one.
        UnknownNameError: if there is no such folder or alias.
    """
    found = stage_model(name)
    return found if Path(name).is_dir() else name


def model_options(settings: EnvSettings, model: str) -> dict[str, Any]:
    """Return the environment's options, with the model's own tokenizer.

    Raises:
        UnknownNameError: if there is no such environment.
        ModelError: if the folder of the model holds none.
    """
    require_id(settings.env)
    return {"tokenizer": model_folder(model), **settings.options()}


def answer_held_out(
    agent: Any, settings: EnvSettings, options: Mapping[str, Any], n_prompts: int, rows: int
) -> list[Answer]:
    """Let an agent answer prompts of the test split, greedily.

    Args:
        agent: Has `predict`.
        settings: Say which environment.
        options: Of the environment.
        n_prompts: Prompts to answer.
        rows: Prompts answered side by side.
    """
    test = {"split": "test", **options}
    return answer_prompts(agent, settings.env, n_prompts, num_envs=rows, env_kwargs=test)


def metric_names(table: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Return the metrics of a table, in the order in which its rows name them."""
    return list(dict.fromkeys(name for row in table.values() for name in row))


def as_lists(
    table: Mapping[str, Mapping[str, Sequence[float]]],
) -> dict[str, dict[str, list[float]]]:
    """Return a table of intervals as what JSON can hold: stage -> metric -> [mean, low, high]."""
    return {stage: {n: list(v) for n, v in row.items()} for stage, row in table.items()}
