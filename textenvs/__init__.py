"""Text generation as Gymnasium environments: one token an action."""

from textenvs.registration import list_envs, register, register_all, unregister

__version__ = "0.1.0"

register_all()

__all__ = ["__version__", "list_envs", "register", "unregister"]
