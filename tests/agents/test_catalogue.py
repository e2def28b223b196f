"""Learners by name: built-in ones, and one's own as `module:Class`."""

import sys
from pathlib import Path
from typing import Any

import pytest

import agents
from agents.command_line.catalogue import (
    LEARNERS,
    find_learner,
    make_own,
    takes_callback,
    takes_policy,
)
from agents.on_policy import OnPolicyAgent
from textenvs.errors import ConfigError, UnknownNameError

MODULE = """
from agents.ppo import PPO

class Whole:
    def __init__(self, env, *, seed, width=8):
        self.env, self.seed, self.width = env, seed, width
    def learn(self, total_timesteps, callback=None): ...
    def save(self, path): ...

class NoSave:
    def learn(self, total_timesteps): ...

class MyPPO(PPO):
    pass

constant = 3
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module in the current directory, with a name of its own: imports are remembered."""
    name = f"own_{tmp_path.name}".replace("-", "_")
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return name


@pytest.mark.parametrize("name", LEARNERS)
def test_every_built_in_learner_is_found(name: str) -> None:
    learner = find_learner(name)
    assert learner.__name__ == name
    assert takes_policy(learner)
    assert learner is getattr(agents, name)
    assert learner.config_class()


@pytest.mark.parametrize("name", agents.__all__)
def test_every_public_name_can_be_imported(name: str) -> None:
    assert getattr(agents, name) is not None


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("RLO", "Did you mean 'RLOO'"),
        ("ppo", "Did you mean 'PPO'"),
        ("my_agent.MyAgent", "given as module:Class"),
        ("no_such_module:MyAgent", "there is no module 'no_such_module'"),
        ("no_such_module.part:MyAgent", "there is no module 'no_such_module'"),
        ("agents.no_such_part:MyAgent", "there is no module 'agents.no_such_part'"),
        ("folder/my_agent.py:MyAgent", "no module:Class with a dotted module"),
        (":MyAgent", "no module:Class"),
        ("agents.ppo:", "no module:Class"),
    ],
)
def test_what_is_no_learner_is_refused_with_a_remedy(name: str, message: str) -> None:
    with pytest.raises((ConfigError, UnknownNameError), match=message):
        find_learner(name)


def test_a_class_in_the_current_directory_is_found(own_module: str) -> None:
    whole = find_learner(f"{own_module}:Whole")
    assert not takes_policy(whole) and takes_callback(whole)
    mine = find_learner(f"{own_module}:MyPPO")
    assert issubclass(mine, OnPolicyAgent) and takes_policy(mine)
    with pytest.raises(UnknownNameError, match="Did you mean 'Whole'"):
        find_learner(f"{own_module}:Whle")
    with pytest.raises(ConfigError, match="has no save; a learner has learn"):
        find_learner(f"{own_module}:NoSave")
    with pytest.raises(ConfigError, match="is a int, not a class"):
        find_learner(f"{own_module}:constant")


def test_a_module_that_fails_is_told_from_one_that_is_missing(own_module: str) -> None:
    Path(f"{own_module}_needy.py").write_text("import no_such_package\n")
    with pytest.raises(ConfigError, match="cannot be imported: No module named 'no_such_package'"):
        find_learner(f"{own_module}_needy:Any")
    Path(f"{own_module}_broken.py").write_text("1 / 0\n")
    with pytest.raises(ConfigError, match="ZeroDivisionError"):
        find_learner(f"{own_module}_broken:Any")


def test_a_class_that_brings_its_model_is_made_with_the_environment(own_module: str) -> None:
    whole: Any = find_learner(f"{own_module}:Whole")
    env = object()
    made = make_own(whole, env, 3, {"width": 16})
    assert (made.env, made.seed, made.width) == (env, 3, 16)
    with pytest.raises(UnknownNameError, match="Did you mean 'width'"):
        make_own(whole, env, 3, {"widht": 16})
    with pytest.raises(ConfigError, match="cannot be made as dict"):
        make_own(type("dict", (), {"__init__": lambda self: None}), env, 3, {})
