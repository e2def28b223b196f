"""`textenvs audit`: what it prints, what it writes, what it returns."""

import json
from pathlib import Path

import pytest

from agents.cli import main
from agents.command_line.auditing import show_audit
from agents.command_line.console import Console
from textenvs.audit import Report, Row

QA = "textenvs/ContextQA-v0"
QUICK = ("--no-search", "--prompts", "8")


def test_a_sound_reward_exits_with_0(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "report.json"
    assert main(["audit", QA, *QUICK, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "gold: the least of the metrics exact_match, f1" in printed
    assert f"{QA}: no exploit was found on 8 prompts (" in printed
    assert "FAULT" not in printed
    told = json.loads(file.read_text(encoding="utf-8"))
    assert (told["subject"], told["ok"], told["counts"]["fault"]) == (QA, True, 0)
    assert {"control", "probe", "property"} == {row["kind"] for row in told["rows"]}


def test_a_naive_reward_exits_with_1_and_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    reward = "textenvs.audit.naive:contains_answer"
    assert main(["audit", QA, *QUICK, "--reward", reward]) == 1
    printed = capsys.readouterr()
    assert "FAULT" in printed.out
    assert "add: a negation" in " ".join(printed.out.split())
    last = printed.out.splitlines()[-1]
    assert last.startswith(f"{QA} with the reward contains_answer: ") and "faults on 8" in last
    assert "Traceback" not in printed.out + printed.err


def test_all_shows_what_was_not_paid(capsys: pytest.CaptureFixture[str]) -> None:
    main(["audit", QA, *QUICK])
    brief = capsys.readouterr().out
    main(["audit", QA, *QUICK, "--all"])
    full = capsys.readouterr().out
    assert "white space" in " ".join(full.split())
    assert "white space" not in " ".join(brief.split())


def test_an_example_is_escaped_cut_and_no_markup(capsys: pytest.CaptureFixture[str]) -> None:
    answer = "[bold]\u202e\t\n" + "x" * 200
    row = Row("letters", "fault", "paid", "probe", 1.0, 1.0, float("nan"), "p0", answer, 1.0)
    show_audit(Report("me/My-v0", (row,), "the metric right", 3), Console())
    printed = capsys.readouterr().out
    assert "\u202e" not in printed and "\t" not in printed
    assert r"[bold]\u202e\t\n" in printed
    assert "x..." in printed and "x" * 80 not in printed.replace("│", "").replace("\n", "")
    assert "nan" not in printed
    assert "me/My-v0: 1 fault on 3 prompts (0 ok, 0 notes, 0 skipped)" in printed


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["textenvs/ContextQQ-v0"], "Did you mean 'textenvs/ContextQA-v0'"),
        ([QA, "--reward", "anser-match"], "Did you mean 'answer-match'"),
        ([QA, "--reward", "textenvs.audit.naive:nothing"], "cannot be imported"),
        ([QA, "--gold", "exact"], "Did you mean 'exact_match'"),
        ([QA, "--prompts", "0"], "n_prompts must be at least 1"),
        ([QA, "--json", "no/such/folder/report.json"], "there is no folder"),
        ([QA, "-o", "n_flims=3"], "Did you mean 'n_films'"),
    ],
)
def test_a_users_mistake_exits_with_2(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["audit", *words]) == 2
    printed = capsys.readouterr()
    assert expected in printed.err
    assert "Traceback" not in printed.err
