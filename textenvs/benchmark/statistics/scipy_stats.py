"""scipy's distributions and ranks, loaded when a statistic first needs them."""

from typing import Any

from textenvs.errors import MissingDependencyError


def scipy_stats() -> Any:
    """Return the module `scipy.stats`.

    Raises:
        MissingDependencyError: if scipy is not installed.
    """
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingDependencyError(
            "scipy", "the statistics of a benchmark", 'pip install "textenvs[bench]"'
        ) from error
    return stats
