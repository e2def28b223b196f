"""Text generation as Gymnasium environments: one token an action."""

from textenvs.registration import list_envs, register_suite

__version__ = "0.1.0"

register_suite()

__all__ = ["__version__", "list_envs"]
