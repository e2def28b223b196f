"""Thin adapters to other libraries, each imported when first asked for."""

import importlib
from types import ModuleType

_ADAPTERS = ("sb3", "trl")


def __getattr__(name: str) -> ModuleType:
    """Import an adapter by its name."""
    if name in _ADAPTERS:
        return importlib.import_module(f"textenvs.bridges.{name}")
    raise AttributeError(f"module 'textenvs.bridges' has no attribute {name!r}")
