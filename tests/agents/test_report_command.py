"""`textenvs report`: the page of a run, from the command line."""

import json
from pathlib import Path

import pytest

from agents.cli import main
from agents.runs import RunFolder


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run folder, unfinished."""
    run = RunFolder(tmp_path / "train-0", {"env": "textenvs/ContextSelect-v0"})
    for i in range(3):
        run.log({"timesteps": 10 * i, "score": 0.1 * i})
    return run


def test_it_writes_a_page_of_a_run(run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    run.finish({"before": {"correct": [0.1, 0.0, 0.2]}})
    assert main(["report", str(run.path)]) == 0
    page = run.path / "report.html"
    assert str(page) in capsys.readouterr().out
    assert "0.100 [0.000, 0.200]" in page.read_text(encoding="utf-8")
    assert (run.path / "report.md").is_file()


def test_an_unfinished_run_has_a_page(run: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere" / "page.html"
    assert main(["report", str(run.path), "--out", str(out)]) == 0
    assert "This run is not finished" in out.read_text(encoding="utf-8")


def test_it_makes_the_same_page_twice(run: RunFolder) -> None:
    page = run.path / "report.html"
    assert main(["report", str(run.path)]) == 0
    first = page.read_bytes()
    assert main(["report", str(run.path)]) == 0
    assert page.read_bytes() == first


@pytest.mark.parametrize("name", ["absent", "empty", "cell"])
def test_another_folder_is_a_mistake(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / name
    if name != "absent":
        folder.mkdir()
    if name == "cell":
        (folder / "cell.json").write_text(json.dumps({"id": "x"}))
    assert main(["report", str(folder)]) == 2
    told = capsys.readouterr().err
    assert "study" in told and "Traceback" not in told


def test_a_folder_is_needed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report"]) == 2
    assert "RUN_OR_BENCH" in capsys.readouterr().err
