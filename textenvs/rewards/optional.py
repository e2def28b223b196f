"""Optional packages of the rewards: found without being imported, named when absent."""

import importlib.util

from textenvs.errors import MissingDependencyError

INSTALL = 'pip install "textenvs[rewards]"'


def require_package(package: str, purpose: str) -> None:
    """Raise if a package of the extra `rewards` is absent, without importing it.

    Args:
        package: As it is imported.
        purpose: What needs it, for the error.

    Raises:
        MissingDependencyError: naming the command that installs it.
    """
    if importlib.util.find_spec(package) is None:
        raise MissingDependencyError(package, purpose, INSTALL)
