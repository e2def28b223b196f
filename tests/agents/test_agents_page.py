"""docs/agents.md names every learner, every setting, and the defaults as they are."""

import dataclasses
import importlib
import re
from pathlib import Path
from typing import Any

import pytest

from agents.command_line.catalogue import LEARNERS
from agents.config import OnPolicyConfig, PPOConfig

PAGE = Path(__file__).parents[2] / "docs" / "agents.md"
ROW = re.compile(r"^\| `(\w+)` \| ([^|]*) \|", re.MULTILINE)


def tables() -> dict[str, dict[str, str]]:
    """Return, for each config named on the page, its settings and their defaults as written."""
    found = {}
    for block in PAGE.read_text(encoding="utf-8").split("\n\n"):
        head = block.splitlines()[0]
        if head.startswith("| setting"):
            name = re.search(r"`(\w+)`", head)
            found[name[1] if name else "OnPolicyConfig"] = dict(ROW.findall(block))
    return found


def written(config: type[Any]) -> dict[str, str]:
    """Return what a table should say: 1 and 0 are numbers, not True and False."""
    return {
        field.name: str(field.default).lower()
        if field.default is None or isinstance(field.default, bool)
        else str(field.default)
        for field in dataclasses.fields(config)
    }


def test_settings_of_all() -> None:
    assert tables()["OnPolicyConfig"] == written(OnPolicyConfig)


@pytest.mark.parametrize("name", LEARNERS)
def test_settings_of_each(name: str) -> None:
    """What a config adds, or changes; PPO's own epochs stand in the table of all."""
    config = getattr(importlib.import_module(LEARNERS[name]), name).config_class
    known = written(
        PPOConfig if issubclass(config, PPOConfig) and name != "PPO" else OnPolicyConfig
    )
    added = {k: v for k, v in written(config).items() if known.get(k) != v and k != "n_epochs"}
    assert added and tables()[config.__name__] == added


def test_every_agent_has_a_command() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for name, module in LEARNERS.items():
        assert f"](../{module.replace('.', '/')}.py)" in page
        assert name == "PPO" or f"textenvs train --agent {name}" in page
