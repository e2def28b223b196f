"""`textenvs rm`: what it prints, what it leaves behind, what it refuses."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers.utils import logging as transformers_logging

from agents.cli import main
from agents.preferences import Ranking, write_rankings
from agents.publishing import stage_model
from textenvs.errors import ModelError
from textenvs.rewards import RewardModel

QUICK = ("--rm.batch-size", "4", "--rm.learning-rate", "0.003")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture(autouse=True)
def _library_as_it_was() -> object:
    """The command quietens transformers for the whole process."""
    verbosity = transformers_logging.get_verbosity()
    yield
    transformers_logging.set_verbosity(verbosity)


@pytest.fixture
def base(model_folder: Callable[..., Path]) -> str:
    return str(model_folder())


def rankings_file(name: str = "rankings.jsonl", *, first: int = 0, count: int = 20) -> Path:
    answers = ("zz", "z a", "aaa b")
    rankings = [
        Ranking(f"Question {i}: ", answers, (0, 1, 1 + i % 2), f"g{i}")
        for i in range(first, first + count)
    ]
    write_rankings(name, rankings)
    return Path(name)


def test_one_model(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    rankings_file()
    words = ["rm", "--rankings", "rankings.jsonl", "--model", base, "--out", "runs/rm", *QUICK]
    assert main(words) == 0
    printed = capsys.readouterr().out
    for words_of in (
        "train on: 16 rankings, 48 answers",
        "held out: 4 rankings, 12 answers",
        "pair_accuracy",
        "shorter is better, chosen on the training data",
        "Calibration of step-4: expected error",
        "computed once for all",
    ):
        assert words_of in printed
    folder = Path(stage_model("runs/rm", wants="reward-model"))
    assert folder == Path("runs/rm/checkpoints/step-4")
    card = (folder / "README.md").read_text()
    assert "pair_accuracy" in card and "textenvs rm --rankings rankings.jsonl" in card
    assert json.loads((folder / "stage.json").read_text())["kind"] == "reward-model"
    manifest = json.loads(Path("runs/rm/manifest.json").read_text())["summary"]
    found = manifest["step-4"]
    assert found["pair_accuracy"][1] <= found["pair_accuracy"][0] <= found["pair_accuracy"][2]
    assert manifest["ruler"] == "shorter is better" and manifest["pairs"] == 8
    lines = Path("runs/rm/metrics.jsonl").read_text().splitlines()
    assert len(lines) == 4 and json.loads(lines[0])["seed"] == 0
    assert Path("runs/rm/calibration.svg").is_file()
    assert RewardModel(folder).std != 1.0


def test_another_file_and_an_ensemble(base: str, capsys: pytest.CaptureFixture[str]) -> None:
    rankings_file()
    rankings_file("test.jsonl", first=100, count=4)
    options = ["--held-out", "test.jsonl", "--ensemble", "2", "--seed", "5", "--lora", *QUICK]
    words = ["rm", "--rankings", "rankings.jsonl", "--model", base, "--out", "rm", *options]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "train on: 20 rankings" in printed and "Calibration of mean" in printed
    manifest = json.loads(Path("rm/manifest.json").read_text())["summary"]
    assert {"seed-5", "seed-6", "mean"} <= manifest.keys()
    for name in ("seed-5", "seed-6"):
        assert "seed" in (Path("rm/checkpoints") / name / "README.md").read_text()
    again = ["--model", "rm/checkpoints/seed-5", "--out", "more", *QUICK]
    assert main(["rm", "--rankings", "rankings.jsonl", *again]) == 0
    assert "its training goes on, its head is kept" in capsys.readouterr().out
    with pytest.raises(ModelError, match="a causal-lm is needed"):
        stage_model("more", wants="causal-lm")


def test_without_matplotlib_the_table_is_printed(
    base: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    rankings_file()
    assert main(["rm", "--rankings", "rankings.jsonl", "--model", base, "--out", "rm"]) == 0
    printed = capsys.readouterr().out
    assert "no plot: " in printed and "pip install" in printed and "expected error" in printed
    assert Path("rm/manifest.json").is_file() and not Path("rm/calibration.svg").exists()


def test_what_is_left_out_of_the_file_is_counted(
    base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = rankings_file()
    lines = [
        {"prompt": "p", "answers": ["a", "b"], "ranks": [1, 1]},
        {"prompt": "p", "answers": ["a"], "ranks": [0]},
        {"prompt": "p", "answers": ["a", " "], "ranks": [0, 1]},
    ]
    with path.open("a") as stream:
        stream.writelines(json.dumps(line) + "\n" for line in lines)
    options = ["--model", base, "--rm.max-tokens", "8", "--out", "rm"]
    assert main(["rm", "--rankings", str(path), *options]) == 0
    printed = capsys.readouterr().out
    for words in ("1 all ties", "2 rankings of one", "1 empty answers"):
        assert f"left out or merged: {words}" in printed
    assert "48 texts were longer than 8 tokens and lost their beginning" in printed


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "--rankings FILE is needed"),
        (["--rankings", "missing.jsonl"], "cannot be read"),
        (["--rankings", "r.jsonl", "--held-out", "r.jsonl"], "group that is trained on as well"),
        (["--rankings", "r.jsonl", "--model", "no-such"], "unknown model 'no-such'"),
        (["--rankings", "r.jsonl", "--model", "runs/none"], "unknown model"),
        (["--rankings", "r.jsonl", "--rm.template", "{prompt}"], "{completion}"),
        (["--rankings", "r.jsonl", "--rm.template", "chat"], "has no chat template"),
        (["--held-out-share", "1"], "held_out_share must be above 0 and below 1, got 1.0"),
        (["--ensemble", "0"], "ensemble must be a whole number of at least 1, got 0"),
        (["--rankings", "r.jsonl", "--ensemble", "2", "--push-to-hub", "me/rm"], "takes one model"),
        (["--rankings", "r.jsonl", "--push-to-hub", "rm"], "a hub's repository is user/name"),
        (["--rm.learning-rate", "-1"], "learning_rate must be above 0, got -1"),
    ],
)
def test_a_mistake_gets_a_remedy_and_code_2(
    words: list[str], expected: str, base: str, capsys: pytest.CaptureFixture[str]
) -> None:
    rankings_file("r.jsonl", count=4)
    model = [] if "--model" in words else ["--model", base]
    assert main(["rm", *model, *words]) == 2
    assert expected in capsys.readouterr().err


def test_the_settings_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rm", "--rankings", "r.jsonl", "--rm.epochs", "2", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "epochs = 2" in printed and 'rankings = "r.jsonl"' in printed
    assert not Path("runs").exists()
