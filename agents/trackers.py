"""Experiment trackers: the metrics of a run shown elsewhere as well.

The JSON lines of the run folder are always written and are the record; a tracker is a copy
of them. So a tracker that fails while a run goes on is dropped with a word, and nothing is
lost. None sends anything over the network unless the user has told it to; see
docs/trackers.md.
"""

import importlib
import importlib.util
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, Self

from textenvs.errors import ConfigError, MissingDependencyError, UnknownNameError

PROJECT = "textenvs"
"""Under which trackio and Weights & Biases file the runs."""
OFFLINE = "offline"


class Tracker(Protocol):
    """What a tracker does."""

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Show finite numbers at a step; steps never fall."""

    def finish(self) -> None:
        """Write out what is left."""


class TensorBoard:
    """Event files in the folder `tensorboard` of the run, read by `tensorboard --logdir`."""

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Open an event file; the settings are shown as text.

        Args:
            folder: Of the run.
            config: Settings of the run.
        """
        module = importlib.import_module("torch.utils.tensorboard")
        self._writer = module.SummaryWriter(str(folder / "tensorboard"))
        lines = "\n".join(f"    {name} = {value!r}" for name, value in config.items())
        self._writer.add_text("settings", lines, 0)

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Add a scalar each."""
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def finish(self) -> None:
        """Close the file."""
        self._writer.close()


class Trackio:
    """A run of trackio, in its own folder on this machine; shown by `trackio show`.

    It goes elsewhere only if the user has set TRACKIO_SPACE_ID or TRACKIO_SERVER_URL.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Begin a run named after the folder.

        Args:
            folder: Of the run.
            config: Settings of the run.
        """
        self._run = importlib.import_module("trackio").init(
            project=PROJECT,
            name=folder.resolve().name,
            config=dict(config),
            embed=False,  # no dashboard is started: it would hold a port for the whole run
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log all at once."""
        self._run.log(dict(metrics), step=step)

    def finish(self) -> None:
        """Wait until everything is written."""
        self._run.finish()


class WeightsAndBiases:
    """A run of Weights & Biases, kept in the run folder; `wandb sync` sends it.

    It is sent as it goes only if the user has set WANDB_MODE=online.
    """

    def __init__(self, folder: Path, config: Mapping[str, Any]) -> None:
        """Begin a run named after the folder.

        Args:
            folder: Of the run.
            config: Settings of the run.
        """
        mode = os.environ.get("WANDB_MODE", OFFLINE)
        if mode != "online":  # its reports of its own errors are sent even offline
            os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
        self._run = importlib.import_module("wandb").init(
            project=PROJECT,
            name=folder.resolve().name,
            dir=str(folder),
            config=dict(config),
            mode=mode,
        )

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        """Log all at once."""
        self._run.log(dict(metrics), step=step)

    def finish(self) -> None:
        """Wait until everything is written."""
        self._run.finish()


TRACKERS: dict[str, Callable[[Path, Mapping[str, Any]], Tracker]] = {
    "tensorboard": TensorBoard,
    "trackio": Trackio,
    "wandb": WeightsAndBiases,
}
"""Name, which is that of the package too, -> tracker."""


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that cannot be used, before anything else is begun.

    Raises:
        UnknownNameError: if a name is none of `TRACKERS`.
        MissingDependencyError: if a package is absent.
    """
    for name in names:
        if name not in TRACKERS:
            raise UnknownNameError("tracker", name, TRACKERS)
        if importlib.util.find_spec(name) is None:
            raise MissingDependencyError(name, f"--track {name}", f"pip install {name}")


class Trackers:
    """Several trackers as one; whichever fails is dropped, and the run goes on.

    A context: leaving it finishes them.
    """

    def __init__(self, trackers: Mapping[str, Tracker], warn: Callable[[str], None]) -> None:
        """Keep trackers.

        Args:
            trackers: By name.
            warn: Told once of each that fails.
        """
        self._trackers, self._warn = dict(trackers), warn

    @property
    def names(self) -> tuple[str, ...]:
        """Those that still work."""
        return tuple(self._trackers)

    def log(self, metrics: Mapping[str, Any], step: int) -> None:
        """Show metrics; what is no finite number is left out.

        Args:
            metrics: Name -> value.
            step: Updates done.
        """
        numbers = {name: float(v) for name, v in metrics.items() if _is_number(v)}
        self._tell(lambda tracker: tracker.log(numbers, step))

    def finish(self) -> None:
        """Finish every tracker; further calls do nothing."""
        self._tell(lambda tracker: tracker.finish())
        self._trackers.clear()

    def _tell(self, what: Callable[[Tracker], None]) -> None:
        for name, tracker in list(self._trackers.items()):
            try:
                what(tracker)
            except Exception as error:  # another's code, another's disk and network
                del self._trackers[name]
                self._warn(
                    f"{name} failed and is left out from here on ({type(error).__name__}: "
                    f"{error}); metrics.jsonl has everything"
                )

    def __enter__(self) -> Self:
        """Begin."""
        return self

    def __exit__(self, *_: object) -> None:
        """Finish, whether or not the run failed."""
        self.finish()


def open_trackers(
    names: Sequence[str], folder: Path, config: Mapping[str, Any], warn: Callable[[str], None]
) -> Trackers:
    """Return trackers of a run.

    Args:
        names: Of `TRACKERS`; a repeated one counts once.
        folder: Of the run.
        config: Settings of the run, as TOML could hold them.
        warn: Told once of each that fails later.

    Raises:
        UnknownNameError: if a name is none of `TRACKERS`.
        MissingDependencyError: if a package is absent.
        ConfigError: if a tracker cannot begin.
    """
    check_trackers(names)
    opened: dict[str, Tracker] = {}
    for name in dict.fromkeys(names):
        try:
            opened[name] = TRACKERS[name](folder, config)
        except Exception as error:  # another's code, another's disk and network
            Trackers(opened, warn).finish()
            raise ConfigError(
                f"{name} cannot begin: {type(error).__name__}: {error}; mend it, or leave out "
                f"--track {name}"
            ) from error
    return Trackers(opened, warn)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
