"""Cells on a Ray cluster, with resources for each.

The nodes must see the study's folder under the same path, as on a shared disk, and have the
same packages installed.
"""

import logging
import math
import os
import time
from types import ModuleType, TracebackType
from typing import Any

from textenvs.benchmark.engines.job import ONE_THREAD, Job, Outcome, run_job
from textenvs.errors import ConfigError, MissingDependencyError


class RayEngine:
    """A Ray cluster; one of this machine's own is started where no address is given."""

    def __init__(
        self,
        address: str | None = None,
        *,
        cpus_per_cell: float = 1.0,
        gpus_per_cell: float = 0.0,
        slots: int | None = None,
        local_cpus: int | None = None,
    ) -> None:
        """Connect.

        Args:
            address: Of the head node, such as "ray://head:10001" or "auto".
            cpus_per_cell: Processors that a cell reserves.
            gpus_per_cell: GPUs that a cell reserves; a share of one is allowed.
            slots: Cells side by side; None for as many as the cluster has room for.
            local_cpus: Processors of a cluster started here; None for all.

        Raises:
            MissingDependencyError: if Ray is absent.
            ConfigError: if a number is out of range, there is no cluster at the address, or
                it has no room for a single cell.
        """
        for name, value, least in (
            ("--cpus-per-cell", cpus_per_cell, 0.001),
            ("--gpus-per-cell", gpus_per_cell, 0.0),
            ("--jobs", 1 if slots is None else slots, 1),
        ):
            if not least <= value < math.inf:
                raise ConfigError(f"{name} must be at least {least:g}, got {value:g}")
        self._ray, self._owns = _import_ray(), False
        self._under_way: dict[Any, tuple[str, float]] = {}
        self._connect(address, local_cpus)
        need = {"CPU": cpus_per_cell, "GPU": gpus_per_cell}
        room = self._room(need)
        self.slots = room if slots is None else slots
        self._run = self._ray.remote(
            num_cpus=cpus_per_cell,
            num_gpus=gpus_per_cell,
            max_retries=0,  # a cell that kills its worker is a failed cell, not one to try again
            runtime_env={"env_vars": ONE_THREAD},
        )(run_job)

    def submit(self, job: Job) -> None:
        """Start a job."""
        self._under_way[self._run.remote(job)] = (job.id, time.perf_counter())

    def wait(self, timeout_s: float) -> list[Outcome]:
        """Return the jobs that have ended since, at once if some have; [] when time is up."""
        if not self._under_way:
            time.sleep(timeout_s)
            return []
        pending = list(self._under_way)
        ready, _ = self._ray.wait(pending, num_returns=1, timeout=timeout_s)
        return [self._outcome(reference) for reference in ready]

    def __enter__(self) -> "RayEngine":
        """Return the engine."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the jobs under way, and the cluster if it was started here."""
        for reference in self._under_way:
            self._ray.cancel(reference, force=True)
        self._under_way = {}
        if self._owns:
            self._ray.shutdown()

    def _connect(self, address: str | None, local_cpus: int | None) -> None:
        if self._ray.is_initialized():
            return
        options = {} if address is not None else {"num_cpus": local_cpus}
        try:
            self._ray.init(
                address=address or "local",
                include_dashboard=None if address else False,
                log_to_driver=False,
                logging_level=logging.WARNING,
                **options,
            )
        except (ConnectionError, ValueError, RuntimeError) as error:
            raise ConfigError(
                f"there is no Ray cluster at {address!r}: {error}; start one with `ray start "
                "--head`, or leave out --ray-address to start one on this machine"
            ) from error
        self._owns = True

    def _room(self, need: dict[str, float]) -> int:
        """Return how many cells the cluster has room for."""
        has = self._ray.cluster_resources()
        room = min(int(has.get(k, 0.0) // share) for k, share in need.items() if share)
        if room < 1:
            found = ", ".join(f"{has.get(k, 0.0):g} {k}" for k in need)
            asked = ", ".join(f"{share:g} {k}" for k, share in need.items())
            self.__exit__(None, None, None)
            raise ConfigError(f"a cell is to have {asked}, but the whole cluster has {found}")
        return room

    def _outcome(self, reference: Any) -> Outcome:
        cell_id, start = self._under_way.pop(reference)
        try:
            outcome: Outcome = self._ray.get(reference)
        except self._ray.exceptions.RayError as error:
            words = str(error).strip()
            first = words.partition("\n")[0]
            seconds = time.perf_counter() - start
            return Outcome(cell_id, seconds, f"{type(error).__name__}: {first}", words)
        return outcome


def _import_ray() -> ModuleType:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # read when it is imported
    try:
        import ray
    except ImportError as error:
        raise MissingDependencyError(
            "ray", "--engine ray", 'pip install "textenvs[ray]"'
        ) from error
    return ray
