"""`textenvs bench`: what it prints, what it refuses, what it leaves behind."""

import importlib
import re
from pathlib import Path

import pytest

from agents.cli import main
from textenvs.benchmark.store import CellStore

RUNNER = """
import json
from pathlib import Path


def resolve_cell(cell):
    return dict(cell)


def run_cell(cell, folder, study):
    if cell["design"]["name"] == "bad":
        raise ValueError("bad luck")
    count = Path("ran.txt")
    number = len(count.read_text()) if count.exists() else 0
    count.write_text("x" * (number + 1))
    drift = number if cell["design"]["name"] == "drifting" else 0
    line = {"checkpoint": 0, "metrics": {"proxy": drift}}
    (folder / "checkpoints.jsonl").write_text(json.dumps(line))
"""
STUDY = """
name = "Three designs"
seeds = "0..1"
runner = "bench_runner:run_cell"
environments.bandit.id = "textenvs/TokenBandit-v0"
designs.good.reward = "length"
designs.drifting.reward = "distinct-1"
designs.bad.reward = "distinct-2"
agents.ppo = {}
"""
NO_REPORT = "--no-report"


@pytest.fixture(autouse=True)
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A study and its runner in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "bench_runner.py").write_text(RUNNER)
    (tmp_path / "mine.toml").write_text(STUDY)


def cell_of(design: str, seed: int = 0, folder: str = "out") -> str:
    store = CellStore(folder)
    found = [cell for cell in map(store.read, store.ids()) if design in cell.names]
    return next(cell.id for cell in found if cell.seed == seed)


def test_a_dry_run_shows_the_cells_and_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "run", "mine.toml", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert printed.count("missing bandit / ") == 6
    assert "6 cells, 6 to run, in runs/bench-mine" in printed
    assert re.search(r"Time: about \d+ s with \d+ side by side, from short runs of 1\n", printed)
    assert main(["bench", "run", "mine.toml", "--dry-run", "--no-probe"]) == 0
    assert "Time: unknown until a first cell is finished" in capsys.readouterr().out
    assert not Path("runs").exists()


def test_run_again_verify_and_status(capsys: pytest.CaptureFixture[str]) -> None:
    run = ["bench", "run", "mine.toml", "--out", "out", "--jobs", "1", NO_REPORT]
    assert main([*run, "--seeds", "0"]) == 1
    printed = capsys.readouterr().out
    assert "[1/3] bandit / good / ppo, seed 0: done in 0 s" in printed
    assert "bandit / bad / ppo, seed 0: FAILED: ValueError: bad luck" in printed
    assert "2 of 3 cells are finished, 1 failed; 3 ended in this run" in printed
    assert main([*run, "--seeds", "1", "--only", "good"]) == 0
    assert "1 of 1 cells are finished" in capsys.readouterr().out
    assert (Path("out") / "study.toml").read_text().count("seeds = [\n    0,\n    1,\n]") == 1
    assert main([*run, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "6 cells, 2 to run" in printed and "from 3 finished cells" in printed
    assert main(["bench", "verify", cell_of("good"), "--out", "out"]) == 0
    assert "the same, checkpoints.jsonl" in capsys.readouterr().out
    assert main(["bench", "verify", cell_of("drifting")[:8], "--out", "out"]) == 1
    printed = capsys.readouterr().out
    assert "differs: checkpoints.jsonl: line 1, metrics.proxy: 1 and " in printed
    assert main(["bench", "status", "out"]) == 0
    printed = capsys.readouterr().out
    assert "bandit / bad / ppo" in printed and "attempts: 1. ValueError: bad luck" in printed
    assert main([*run, "--seeds", "0", "--retry-failed"]) == 1
    assert "attempts: 2. ValueError" in capsys.readouterr().out


def test_a_run_ends_with_a_summary_and_a_report(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "textenvs"))
    grids = importlib.import_module("benchmark_grids")
    grids.write_study(Path("dummy.toml"), seeds=[0, 1])
    summaries = []
    for folder in ("one", "two"):
        assert main(["bench", "run", "dummy.toml", "--out", folder, "--jobs", "1"]) == 0
        assert f"Report: {folder}/report.html" in capsys.readouterr().out
        assert "</html>" in Path(folder, "report.html").read_text(encoding="utf-8")
        summaries.append(Path(folder, "summary.json").read_bytes())
    assert summaries[0] == summaries[1]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["rnu"], "Did you mean 'run'"),
        (["run"], "name the study file"),
        (["run", "missing.toml"], "the study file 'missing.toml' cannot be read"),
        (["run", "mine.toml", "--only", "goood"], "Did you mean 'good'"),
        (["run", "mine.toml", "--seeds", "x"], "seeds are numbers and ranges"),
        (["run", "mine.toml", "--gpus-per-cell", "1", NO_REPORT], "need --engine ray"),
        (["run", "mine.toml", "--jobs", "0", NO_REPORT], "--jobs must be at least 1"),
        (["verify", "abc"], "name the study's folder"),
        (["status", "."], "holds no study.toml"),
    ],
)
def test_a_mistake_gets_a_remedy_and_code_2(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["bench", *words]) == 2
    assert expected in capsys.readouterr().err


def test_help_names_the_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--help"]) == 0
    assert "verify CELL" in capsys.readouterr().out
    assert main(["bench"]) == 2
    assert main(["bench", "run", "--help"]) == 0
    assert "--ray-address" in capsys.readouterr().out


def test_the_example_is_a_study(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path(__file__).parents[2])
    assert main(["bench", "run", "examples/benchmark_rewards.toml", "--dry-run", "--no-probe"]) == 0
    assert "20 cells, " in capsys.readouterr().out
