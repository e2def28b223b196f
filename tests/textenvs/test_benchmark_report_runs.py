"""The report of one run folder: finished, unfinished, damaged."""

import importlib
import json
from pathlib import Path
from typing import Any

import pytest

from textenvs.benchmark.report import write_report
from textenvs.benchmark.report.run_page import MOST_POINTS

HOSTILE = "</script><img src=x onerror=alert(1)>"


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The module `report_pages` beside this file."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    return importlib.import_module("report_pages")


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def episode(i: int, completion: str) -> dict[str, Any]:
    return {
        "prompt_id": f"p{i}",
        "prompt": "Which?",
        "completion": completion,
        "completion_ids": [1, 2],
        "tokens": [completion, ""],
        "finish_reason": "eos",
        "scored": True,
        "reward": 0.5,
        "task_reward": 0.1 * i,
        "token_rewards": [0.0, 0.5],
        "reward_terms": {},
        "metrics": {"listed": 1.0, "correct": float(i % 2)},
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run of twelve updates and six episodes."""
    folder = tmp_path / "train-0"
    folder.mkdir()
    (folder / "config.toml").write_text(f'env = "{HOSTILE}"\n')
    rows = [
        {"timesteps": 100 * i, "score": 0.1 * i, "gold/correct": 0.5, "clip_fraction": None}
        for i in range(12)
    ]
    write_lines(folder / "metrics.jsonl", [*rows, {"timesteps": 1200, "score": None}])
    header = {"format": "textenvs-episodes", "version": 1}
    episodes = [episode(i, HOSTILE if i == 0 else f"answer {i}") for i in range(6)]
    write_lines(folder / "episodes.jsonl", [header, *episodes])
    manifest = {
        "finished": "2026-01-01T00:00:00+00:00",
        "packages": {"textenvs": "0.1.0", "peft": None},
        "python": "3.11",
        "machine": "x86_64, 2 processors",
        "summary": {
            "before": {"correct": [0.2, 0.15, 0.25]},
            "after": {"correct": [0.6, 0.55, None], "reward": [0.5, 0.4, 0.6]},
            "seconds": 12.5,
        },
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_finished_run_shows_results_curves_and_episodes(run: Path, pages: Any) -> None:
    page = pages.ParsedPage(write_report(run))
    for words in ("0.200 [0.150, 0.250]", "0.500 [0.400, 0.600]", "0.600", "12.5", "0.1.0"):
        assert words in page.text
    assert "not finished" not in page.text
    assert "Showing 6 of 6 recorded episodes" in page.text
    assert "by the metric correct" in page.text
    assert "reward an episode" in page.text and "tokens trained on" in page.text
    markdown = (run / "report.md").read_text()
    assert "| correct | 0.200 \\[0.150, 0.250\\] | 0.600 |" in markdown
    assert (run / "report_charts" / "curves-1.svg").is_file()


def test_nothing_of_a_run_acts(run: Path, pages: Any) -> None:
    page = pages.ParsedPage(write_report(run))
    assert page.tags().isdisjoint({"script", "img"})
    assert page.text.count(HOSTILE) == 2  # the settings and an answer
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {v[1:] for v in page.attributes("href") if v.startswith("#")} <= set(ids)
    markdown = (run / "report.md").read_text().splitlines()
    assert not [line for line in markdown if "<img" in line and not line.startswith("    ")]


def test_an_unfinished_run_says_so(run: Path, pages: Any) -> None:
    (run / "manifest.json").unlink()
    path = run / "metrics.jsonl"
    path.write_bytes(path.read_bytes()[:-10])  # the writer was killed
    page = pages.ParsedPage(write_report(run))
    assert "This run is not finished" in page.text
    assert "12 lines of metrics, unfinished" in page.text


def test_stages_have_curves_of_their_own(run: Path, pages: Any) -> None:
    rows: list[dict[str, Any]] = [{"stage": "sft", "step": i, "loss": 1.0 / i} for i in range(1, 4)]
    rows += [{"stage": "ppo", "timesteps": 10 * i, "score": 0.1} for i in range(3)]
    write_lines(run / "metrics.jsonl", rows)
    page = pages.ParsedPage(write_report(run))
    assert "sft: loss" in page.text and "ppo: score" in page.text
    assert {"figure-curves-1", "figure-curves-2"} <= set(page.attributes("id"))


@pytest.mark.parametrize("name", ["config.toml", "metrics.jsonl", "episodes.jsonl"])
def test_a_run_without_a_file_still_has_a_page(run: Path, pages: Any, name: str) -> None:
    (run / name).unlink()
    page = pages.ParsedPage(write_report(run))
    assert {
        "config.toml": "kept no settings",
        "metrics.jsonl": "No metrics were logged",
        "episodes.jsonl": "No episodes were recorded",
    }[name] in page.text


def test_files_of_nonsense_still_give_a_page(run: Path, pages: Any) -> None:
    (run / "manifest.json").write_text('{"summary": [1], "packages": 3}')
    (run / "metrics.jsonl").write_bytes(b"\xff\x00\n[]\n{}\n" + b'{"score": {"a": 1}}\n')
    (run / "episodes.jsonl").write_bytes(b'{"completion": 3, "metrics": 5}\n')
    (run / "config.toml").write_bytes(b"\xff\xfe")
    page = pages.ParsedPage(write_report(run))
    assert "not evaluated" in page.text


def test_a_long_curve_is_thinned_out_to_its_end(run: Path, pages: Any) -> None:
    rows = [{"timesteps": i, "score": float(i)} for i in range(5_001)]
    write_lines(run / "metrics.jsonl", rows)
    page = pages.ParsedPage(write_report(run))
    notes = [found for tag, found in page.elements if found.get("class") == "touch"]
    assert MOST_POINTS / 2 <= len(notes) <= MOST_POINTS
    assert "5,000, 5,000" in page.text


def test_held_out_answers_of_a_demo_are_shown(run: Path, pages: Any) -> None:
    rows = [
        {
            "stage": stage,
            "prompt_id": "p",
            "completion": "A",
            "values": {"correct": 1.0, "reward": 2},
        }
        for stage in ("base", "PPO")
    ]
    write_lines(run / "episodes.jsonl", rows)
    page = pages.ParsedPage(write_report(run))
    assert "Showing 2 of 2" in page.text and "p · base" in page.text


def test_another_place_takes_all_three_files(run: Path, tmp_path: Path) -> None:
    assert write_report(run, tmp_path / "pages" / "mine.md") == tmp_path / "pages" / "mine.html"
    found = {path.name for path in (tmp_path / "pages").iterdir()}
    assert found == {"mine.html", "mine.md", "mine_charts"}
    assert "mine_charts/curves-1.svg" in (tmp_path / "pages" / "mine.md").read_text()
    assert not (run / "report.html").exists()
