"""Text generation as Gymnasium environments: one token an action."""

import importlib
from types import ModuleType

from textenvs.registration import list_envs, register, register_all, unregister

__version__ = "0.1.0"

register_all()

_PARTS = ("audit", "bridges", "checker")
"""Imported when first asked for, so that `import textenvs` stays quick."""


def __getattr__(name: str) -> ModuleType:
    """Import a part of the package by its name."""
    if name in _PARTS:
        return importlib.import_module(f"textenvs.{name}")
    raise AttributeError(f"module 'textenvs' has no attribute {name!r}")


__all__ = ["__version__", "list_envs", "register", "unregister"]
