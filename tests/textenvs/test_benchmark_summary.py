"""The summary of a study: its schema, its determinism, its files, and gaps in the data."""

import importlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from textenvs.benchmark.results import load_study
from textenvs.benchmark.summary import SCHEMA, VERSION, summarise, write_summary
from textenvs.benchmark.verdicts import HEADLINES, UNTESTED
from textenvs.errors import CheckpointError, ConfigError, MissingDependencyError
from textenvs.files import replacing, write_text

FEW = 200


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module of made-up studies beside this file."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("benchmark_data")


@pytest.fixture
def study(made: Any, tmp_path: Path) -> Path:
    """A study of all kinds of designs, six seeds each, of which one crashed."""
    folder: Path = made.write_study(tmp_path / "study", seeds=range(6), prompts=20, checkpoints=4)
    return folder


def summary_of(folder: Path, **options: Any) -> dict[str, Any]:
    return summarise(load_study(folder), resamples=FEW, **options)


def design_of(summary: dict[str, Any], name: str) -> dict[str, Any]:
    found: dict[str, Any] = next(
        design for design in summary["groups"][0]["designs"] if design["name"] == name
    )
    return found


def cell_folder(study: Path, name: str) -> Path:
    return study / "cells" / f"films-rloo-{name}"


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change each line of a file of JSON lines; one that becomes None is left out."""
    rows = [change(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not None))


def floats(value: Any) -> Iterator[float]:
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        for part in value:
            yield from floats(part)
    elif isinstance(value, float):
        yield value


def test_the_schema(study: Path) -> None:
    summary = summary_of(study)
    assert (summary["schema"], summary["version"]) == (SCHEMA, VERSION)
    assert set(summary) == {
        "schema", "version", "study", "statistics", "warnings", "cells", "groups",
    }  # fmt: skip
    (group,) = summary["groups"]
    assert set(group) == {
        "environment", "agent", "gold", "hacking", "designs", "comparisons", "best",
        "matched_kl", "frontier", "profiles",
    }  # fmt: skip
    names = ["sound", "weaker", "hacked", "saturated", "lengthy", "collapsed"]
    assert [design["name"] for design in group["designs"]] == names
    for design in group["designs"]:
        assert set(design) == {
            "name", "seeds", "finished", "failed", "missing", "verdict", "verdicts", "curves",
            "final", "final_iqm", "gain", "win_rate", "learning", "length",
            "over_optimisation", "unscored",
        }  # fmt: skip
        assert design["verdict"] in HEADLINES
        assert [verdict["name"] for verdict in design["verdicts"]] == [
            "not-enough-seeds", "hacked", "collapsed", "length-biased", "saturated",
            "dominated", "best", "sound",
        ]  # fmt: skip
        for curve in design["curves"]["metrics"].values():
            assert len(curve["mean"]) == 5 and len(curve["seeds"]) == design["finished"]
    assert len(group["comparisons"]) == 15
    assert len(group["frontier"]) == 30
    # What JSON cannot hold would raise here; every number has six digits.
    json.dumps(summary, allow_nan=False)
    assert all(value == float(f"{value:.6g}") for value in floats(summary))


def test_the_numbers_are_those_of_the_files(study: Path) -> None:
    summary = summary_of(study)
    rows: list[dict[str, Any]] = []
    for seed in range(6):
        lines = (cell_folder(study, f"sound-{seed:04d}") / "answers.jsonl").read_text()
        rows.extend(json.loads(line) for line in lines.splitlines())
    last = [row for row in rows if row["checkpoint"] == 4]
    design = design_of(summary, "sound")
    for metric, value in {
        "gold/correct": lambda row: row["gold"]["correct"],
        "kl_sequence": lambda row: row["kl"],
        "win_rate": lambda row: row["win"],
        "length": lambda row: row["length"],
    }.items():
        mean = sum(map(value, last)) / len(last)
        assert design["final"][metric]["estimate"] == pytest.approx(mean, rel=1e-5)
        assert design["curves"]["metrics"][metric]["mean"][-1] == pytest.approx(mean, rel=1e-5)
    assert design["win_rate"] == design["final"]["win_rate"]
    assert design["learning"]["reached"] == 6


def test_two_calls_with_one_seed_are_equal_and_another_seed_differs(study: Path) -> None:
    assert json.dumps(summary_of(study, seed=1)) == json.dumps(summary_of(study, seed=1))
    assert summary_of(study, seed=1) != summary_of(study, seed=2)


def test_nothing_in_the_summary_differs_between_two_runs_of_a_grid(
    study: Path, tmp_path: Path
) -> None:
    before = summary_of(study)

    def slower(row: dict[str, Any]) -> dict[str, Any]:
        return {**row, "seconds": {name: 3 * value for name, value in row["seconds"].items()}}

    moved = tmp_path / "elsewhere"
    shutil.copytree(study, moved)
    for path in moved.glob("cells/*/checkpoints.jsonl"):
        rewrite(path, slower)
    assert summary_of(moved) == before


def test_crashed_and_absent_cells_are_counted(made: Any, tmp_path: Path) -> None:
    designs = {
        "gaps": made.Curves(crashed=(0,), absent=(1, 2)),
        "whole": made.Curves(),
        "none": made.Curves(crashed=tuple(range(6))),
    }
    made.write_study(tmp_path, designs, seeds=range(6), prompts=10, checkpoints=3)
    (tmp_path / "cells" / "films-rloo-whole-0005" / "DONE.json").unlink()
    summary = summary_of(tmp_path)
    cells = summary["cells"]
    assert [cells[key] for key in ("planned", "finished", "failed", "missing")] == [18, 8, 7, 3]
    crashed = cells["rows"][0]
    assert crashed["status"] == "failed" and "NaN" in crashed["error"]
    assert crashed["attempts"] == 2
    gaps, none = design_of(summary, "gaps"), design_of(summary, "none")
    assert (gaps["seeds"], gaps["failed"], gaps["missing"]) == ([3, 4, 5], 1, 2)
    assert gaps["verdict"] == "not-enough-seeds"
    assert none["verdict"] == "no-finished-cell" and none["final"] == {}
    assert "7 of 18 cells failed and 3 are missing" in summary["warnings"][0]
    decisions = {row["decision"] for row in summary["groups"][0]["comparisons"]}
    assert decisions == {"not enough seeds"}


@pytest.mark.parametrize(("seeds", "words"), [(4, "below 5"), (6, "below 10"), (10, None)])
def test_few_seeds_are_warned_of(made: Any, tmp_path: Path, seeds: int, words: str | None) -> None:
    designs = {"one": made.Curves()}
    made.write_study(tmp_path, designs, seeds=range(seeds), prompts=10, checkpoints=3)
    warnings = summary_of(tmp_path)["warnings"]
    assert (words is None and not warnings) or (words is not None and words in warnings[0])


def test_without_gold_the_summary_says_so(made: Any, tmp_path: Path) -> None:
    designs = {"one": made.Curves(), "two": made.Curves()}
    made.write_study(tmp_path, designs, seeds=range(6), prompts=10, checkpoints=3, gold=None)
    summary = summary_of(tmp_path)
    (group,) = summary["groups"]
    assert group["gold"] is None and group["hacking"] == UNTESTED
    assert any(UNTESTED in words for words in summary["warnings"])
    assert group["designs"][0]["verdict"] == UNTESTED
    assert group["comparisons"] == [] and group["best"]["design"] is None


def test_environments_and_agents_are_kept_apart(made: Any, tmp_path: Path) -> None:
    made.write_study(
        tmp_path,
        {"one": made.Curves()},
        seeds=range(3),
        prompts=6,
        checkpoints=3,
        environments=("films", "news"),
        agents=("rloo", "ppo"),
    )
    groups = summary_of(tmp_path)["groups"]
    assert [(group["environment"], group["agent"]) for group in groups] == [
        ("films", "rloo"), ("films", "ppo"), ("news", "rloo"), ("news", "ppo"),
    ]  # fmt: skip


def test_answers_without_a_score_are_counted_and_move_no_mean(made: Any, tmp_path: Path) -> None:
    made.write_study(tmp_path, {"one": made.Curves()}, seeds=range(5), prompts=10, checkpoints=3)
    before = design_of(summary_of(tmp_path), "one")

    def lose(row: dict[str, Any]) -> dict[str, Any]:
        lost = row["checkpoint"] == 3 and row["prompt_id"] == "list-003"
        return {**row, "proxy": None} if lost else row

    path = tmp_path / "cells" / "films-rloo-one-0002" / "answers.jsonl"
    rewrite(path, lose)
    after = design_of(summary_of(tmp_path), "one")
    assert before["unscored"]["proxy"] == 0 and after["unscored"]["proxy"] == 1
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    known = [r["proxy"] for r in rows if r["checkpoint"] == 3 and r["proxy"] is not None]
    mean = after["curves"]["metrics"]["proxy"]["seeds"][2][-1]
    assert mean == pytest.approx(sum(known) / 9, rel=1e-5)


def test_without_kl_the_rest_is_summarised(made: Any, tmp_path: Path) -> None:
    designs = {"one": made.Curves(), "two": made.DESIGNS["weaker"]}
    made.write_study(tmp_path, designs, seeds=range(5), prompts=10, checkpoints=3)
    for path in tmp_path.glob("cells/*/answers.jsonl"):
        rewrite(path, lambda row: {**row, "kl": None})
    (group,) = summary_of(tmp_path)["groups"]
    assert group["matched_kl"] is None and group["frontier"] == []
    assert group["comparisons"][0]["kl_difference"] is None
    assert group["designs"][0]["over_optimisation"] is None
    assert group["best"]["design"] == "one"


def test_the_files(study: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    summary = write_summary(study)
    assert json.loads((study / "summary.json").read_text()) == summary
    first = (study / "summary.json").read_bytes()
    write_summary(study)
    assert (study / "summary.json").read_bytes() == first
    table = parquet.read_table(study / "cells.parquet").to_pydict()
    assert len(table["cell"]) == 35 * 5 + 1
    crashed = table["status"].index("failed")
    assert table["checkpoint"][crashed] is None and table["gold/correct"][crashed] is None
    timings = json.loads((study / "timings.json").read_text())
    row = timings["cells"][0]
    assert len(timings["cells"]) == 35
    assert row["total"] == pytest.approx(
        sum(row[p] for p in ("rollout", "reward", "update")) + row["reference"], rel=1e-4
    )
    assert not [path for path in study.iterdir() if "partial" in path.name]


def test_without_pyarrow_the_error_names_it(study: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependencyError, match="textenvs\\[bench\\]"):
        write_summary(study)


def test_a_folder_without_cells_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="textenvs bench run"):
        load_study(tmp_path)


def test_two_cells_of_one_place_are_refused(study: Path) -> None:
    shutil.copytree(cell_folder(study, "sound-0000"), study / "cells" / "copy")
    with pytest.raises(ConfigError, match="seed 0"):
        load_study(study)


@pytest.mark.parametrize("file", ["checkpoints.jsonl", "answers.jsonl", "cell.json"])
def test_a_broken_file_is_named(study: Path, file: str) -> None:
    path = cell_folder(study, "sound-0000") / file
    path.write_text(path.read_text()[:-20])
    with pytest.raises(CheckpointError, match=file):
        load_study(study)


def test_a_cell_without_a_field_is_named(study: Path) -> None:
    path = cell_folder(study, "sound-0000") / "cell.json"
    path.write_text('{"id": "x"}')
    with pytest.raises(CheckpointError, match="no description of a cell"):
        load_study(study)


def test_preparations_are_no_cells(study: Path) -> None:
    folder = study / "cells" / "prep"
    folder.mkdir()
    (folder / "cell.json").write_text('{"id": "prep", "kind": "preparation"}')
    assert len(load_study(study).cells) == 36


def test_a_file_that_fails_half_way_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(RuntimeError), replacing(path) as partial:
        partial.write_text("new, but")
        raise RuntimeError
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]
