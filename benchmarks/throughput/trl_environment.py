"""A virtual environment with TRL 1.12.0, the last release line with a `PPOTrainer`."""

import subprocess
import tempfile
import venv
from importlib.metadata import distributions
from pathlib import Path

TRL = "trl==1.12.0"
OURS_ALONE = ("textenvs", "trl")
"""Packages whose installed version binds nobody else."""


def trl_python(folder: Path) -> str:
    """Return the interpreter of an environment that holds TRL; make it if it is absent.

    Every package that the project has as well is held to the same version, torch to the same
    build, so the two sides differ in the trainer alone.

    Args:
        folder: Of the environment. It is complete once it holds the file `trl-is-installed`.

    Raises:
        subprocess.CalledProcessError: if pip cannot install it.
    """
    python, done = folder / "bin" / "python", folder / "trl-is-installed"
    if not done.is_file():
        venv.create(folder, with_pip=True, clear=True)
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
            constraints.write("\n".join(_installed()) + "\n")
            constraints.flush()
            install = [str(python), "-m", "pip", "install", "-q", TRL, "-c", constraints.name]
            subprocess.run(install, check=True)
        done.touch()
    return str(python)


def _installed() -> list[str]:
    return sorted(
        f"{distribution.name}=={distribution.version}"
        for distribution in distributions()
        if distribution.name not in OURS_ALONE
    )
