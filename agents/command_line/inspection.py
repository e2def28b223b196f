"""`textenvs list`, `info` and `doctor`: commands that train nothing."""

import argparse
import inspect
import math
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from rich.table import Column, Table
from rich.text import Text

import textenvs
from agents.command_line.console import Console
from agents.command_line.doctor import examine
from agents.command_line.settings import DEFAULT_ENV, EnvSettings
from textenvs.errors import UnknownNameError
from textenvs.plugins import PLUGIN_FAULTS
from textenvs.registration import describe
from textenvs.suite import SUITE


def make_env(env_id: str, **options: Any) -> Any:
    """Make one text environment.

    Raises:
        UnknownNameError: if the id is not registered.
    """
    require_id(env_id)
    return gym.make(env_id, **options).unwrapped


def require_id(env_id: str) -> None:
    """Refuse an id that is not registered, with near ones."""
    if env_id not in gym.registry:
        raise UnknownNameError("environment", env_id, textenvs.list_envs())


def print_list(arguments: Sequence[str], console: Console) -> int:
    """Print the registered environments: what they ask, of what text, under which licence."""
    argparse.ArgumentParser(prog="textenvs list", description=print_list.__doc__).parse_args(
        list(arguments)
    )
    table = Table(Column("id", no_wrap=True), "what it asks", "text", "licence")
    for env_id in textenvs.list_envs():
        family = SUITE.get(env_id)
        text = "" if family is None else family.text
        if family is not None and family.needs:
            text += f" ({family.needs})"
        licence = "" if family is None else family.licence
        table.add_row(env_id, *(Text(cell) for cell in (describe(env_id), text, licence)))
    console.print(table)
    for fault in PLUGIN_FAULTS:
        console.say(fault)
    return 0


def print_info(arguments: Sequence[str], console: Console) -> int:
    """Print an environment's spaces, a prompt with its right answer, and the reward of it."""
    parser = argparse.ArgumentParser(prog="textenvs info", description=print_info.__doc__)
    parser.add_argument("id", nargs="?", default=DEFAULT_ENV)
    parser.add_argument("-o", "--option", action="append", default=[], metavar="NAME=VALUE")
    given = parser.parse_args(list(arguments))
    options = EnvSettings(env=given.id, option=tuple(given.option)).options()
    env = make_env(given.id, **options)
    prompt = env.prompts[0]
    answer = env.oracle(prompt)
    tokens = len(env.tokenizer.encode(prompt.text))
    console.say(f"{given.id}\n\n{inspect.cleandoc(type(env).__doc__ or '')}\n")
    console.say(f"observation  {env.observation_space}")
    console.say(f"action       {env.action_space}")
    console.say(f"prompts      {len(env.prompts)} in this split; the first has {tokens} tokens")
    console.say(f"reward       {env.reward.name}")
    console.say(f"\n--- a prompt ({prompt.id})\n{prompt.text.rstrip()}")
    console.say(f"--- a right answer\n{answer}\n---")
    for words, text in (("right answer", answer), ("empty answer", "")):
        result = env.score(prompt, [text])
        weighted = {name: float(term.weighted[0]) for name, term in result.terms.items()}
        terms = {name: value for name, value in weighted.items() if math.isfinite(value)}
        console.say(f"reward of the {words}: {float(result.scores[0]):g}  {terms}")
    return 0


def print_doctor(arguments: Sequence[str], console: Console) -> int:
    """Print what is installed and what is wrong; 1 if something is."""
    argparse.ArgumentParser(prog="textenvs doctor", description=print_doctor.__doc__).parse_args(
        list(arguments)
    )
    findings = examine()
    table = Table("", "part", "finding")
    for finding in findings:
        mark = "FAULT" if finding.fault else "ok"
        table.add_row(mark, Text(finding.name), Text(finding.words))
    console.print(table)
    return int(any(finding.fault for finding in findings))
