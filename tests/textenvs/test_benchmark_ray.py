"""Ray: the same files as the pool leaves, failures included."""

import importlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from textenvs.benchmark.engines.pool import PoolEngine
from textenvs.benchmark.engines.ray import RayEngine
from textenvs.benchmark.store import CellStore
from textenvs.errors import ConfigError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")


@pytest.fixture
def grids(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `benchmark_grids` beside this file."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("benchmark_grids")


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayEngine]:
    """A Ray cluster on this machine, which the engines of the tests find running."""
    with RayEngine(local_cpus=2) as engine:
        yield engine


def test_pool_and_ray_leave_equal_files(grids: Any, tmp_path: Path, cluster: RayEngine) -> None:
    assert cluster.slots == 2
    design = 'reward = "rouge-l"\nagent_options = { fate = "segfault" }'
    file = grids.write_study(tmp_path / "study.toml", seeds=[0], design=design)
    on_pool = grids.run_grid(file, tmp_path / "pool", PoolEngine(2))
    on_ray = grids.run_grid(file, tmp_path / "ray", RayEngine())
    assert [bool(e.error) for e in on_ray] == [bool(e.error) for e in on_pool]
    failed = next(event for event in on_ray if event.error)
    assert "WorkerCrashed" in failed.error
    assert CellStore(tmp_path / "ray").state(failed.cell.id) == "failed"
    name = f"cells/{failed.cell.id}/FAILED.json"
    pool, ray = grids.contents(tmp_path / "pool"), grids.contents(tmp_path / "ray")
    assert pool.pop(name) != ray.pop(name)
    assert len(ray) == 3 + 5 + 1 and ray == pool


def test_resources_are_reserved_for_a_cell(cluster: RayEngine) -> None:
    assert RayEngine(cpus_per_cell=0.5).slots == 4
    assert RayEngine(cpus_per_cell=2, slots=1).slots == 1
    with pytest.raises(ConfigError, match="a cell is to have 3 CPU, 0 GPU, but the whole"):
        RayEngine(cpus_per_cell=3)
    with pytest.raises(ConfigError, match="--gpus-per-cell must be at least 0"):
        RayEngine(gpus_per_cell=-1)
