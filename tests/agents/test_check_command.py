"""`textenvs check`: what it prints, what it returns."""

import json
from pathlib import Path

import pytest

from agents.cli import main

SELECT = "textenvs/ContextSelect-v0"
SMALL = ("-o", "n_items=6", "-o", "max_targets=1", "-o", "max_prompt_tokens=160", "--prompts", "6")
BROKEN = Path(__file__).parent.parent / "textenvs"


@pytest.fixture
def _broken_envs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BROKEN))


def test_a_sound_environment_exits_with_0(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "report.json"
    assert main(["check", SELECT, *SMALL, "--json", str(file)]) == 0
    printed = capsys.readouterr().out
    assert "oracle/ceiling" in printed and "on 6 prompts" in printed
    assert f"{SELECT}: sound (" in printed
    told = json.loads(file.read_text(encoding="utf-8"))
    assert (told["subject"], told["ok"], told["counts"]["fault"]) == (SELECT, True, 0)
    assert [path.name for path in tmp_path.iterdir()] == ["report.json"]


@pytest.mark.usefixtures("_broken_envs")
def test_faults_exit_with_1_and_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    """Leaky observation, reward for the empty answer, unseeded randomness, shared arrays."""
    assert main(["check", "broken_envs:broken/Many-v0"]) == 1
    printed = capsys.readouterr()
    faults = [line for line in printed.out.splitlines() if "FAULT" in line]
    for name in ("leaks/padding", "floor/empty", "determinism/one instance", "sharing/writing"):
        assert any(name in line for line in faults), printed.out
    assert "faults (" in printed.out.splitlines()[-1]
    assert "Traceback" not in printed.out + printed.err


@pytest.mark.usefixtures("_broken_envs")
def test_an_environment_that_cannot_be_made_is_a_fault(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "broken_envs:broken/NeverMade-v0"]) == 1
    printed = capsys.readouterr()
    assert "RuntimeError: the server does not answer" in printed.out
    assert "1 fault (" in printed.out
    assert printed.err == ""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["textenvs/ContextSelct-v0"], "Did you mean 'textenvs/ContextSelect-v0'"),
        ([SELECT, "-o", "n_itmes=3"], "Did you mean 'n_items'"),
        ([SELECT, "-o", "n_items=1"], "n_items must be at least 2"),
        ([SELECT, "-o", "n_items"], "an option is name=value"),
        ([SELECT, "--prompts", "0"], "sampled_prompts must be at least 1"),
        ([SELECT, "--json", "no/such/folder/report.json"], "there is no folder"),
        (["no_such_module:a/B-v0"], "cannot be imported"),
    ],
)
def test_a_users_mistake_exits_with_2(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", *words]) == 2
    printed = capsys.readouterr()
    assert expected in printed.err
    assert printed.out == ""


def test_the_id_is_required() -> None:
    assert main(["check"]) == 2
