"""Trackers: what arrives in them, and that none of them can hurt a run."""

import importlib.machinery
import sys
import types
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agents.cli import main
from agents.trackers import (
    TRACKERS,
    Trackers,
    WeightsAndBiases,
    check_trackers,
    open_trackers,
)
from textenvs.errors import ConfigError, MissingDependencyError, UnknownNameError

Make = Callable[..., Any]


class FakeRun:
    """The part of a run of trackio and Weights & Biases that is used."""

    def __init__(self, **options: Any) -> None:
        self.options, self.logged, self.finished = options, [], False
        self.logged: list[tuple[dict[str, float], int]]

    def log(self, metrics: dict[str, float], step: int) -> None:
        self.logged.append((metrics, step))

    def finish(self) -> None:
        self.finished = True


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], list[FakeRun]]:
    """Put a module of a name in place; return the runs that are begun with it."""

    def put(name: str) -> list[FakeRun]:
        runs: list[FakeRun] = []

        def init(**options: Any) -> FakeRun:
            runs.append(FakeRun(**options))
            return runs[-1]

        module: Any = types.ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        module.init = init
        monkeypatch.setitem(sys.modules, name, module)
        return runs

    return put


class Broken:
    """A tracker that works once."""

    def __init__(self) -> None:
        self.calls = 0

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        self.calls += 1
        if self.calls > 1:
            raise OSError("no space left on device")

    def finish(self) -> None:
        raise AssertionError("a tracker that was dropped is left alone")


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read an event file back."""
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder))
    events.Reload()
    return {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }


def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    with open_trackers(["tensorboard"], tmp_path, {"seed": 0}, print) as trackers:
        trackers.log({"score": 0.5, "gold/correct": 1, "bad": float("nan"), "word": "x"}, 1)
        trackers.log({"score": 0.75, "flag": True}, 2)
    found = scalars(tmp_path / "tensorboard")
    assert found == {"score": [(1, 0.5), (2, 0.75)], "gold/correct": [(1, 1.0)]}


@pytest.mark.parametrize("name", ["trackio", "wandb"])
def test_runs_of_trackio_and_wandb(fake: Make, tmp_path: Path, name: str) -> None:
    runs = fake(name)
    folder = tmp_path / "run-1"
    with open_trackers([name, name], folder, {"seed": 0}, print) as trackers:
        trackers.log({"score": 0.5, "bad": float("inf")}, 1)
    (run,) = runs
    assert run.logged == [({"score": 0.5}, 1)] and run.finished
    assert run.options["project"] == "textenvs" and run.options["name"] == "run-1"
    assert run.options["config"] == {"seed": 0}


@pytest.mark.parametrize(("said", "mode"), [(None, "offline"), ("online", "online")])
def test_wandb_sends_nothing_unless_told_to(
    fake: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, said: str | None, mode: str
) -> None:
    runs = fake("wandb")
    # Set before it is deleted, so that what the tracker sets is undone after the test.
    for name in ("WANDB_MODE", "WANDB_ERROR_REPORTING"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    if said is not None:
        monkeypatch.setenv("WANDB_MODE", said)
    WeightsAndBiases(tmp_path, {})
    assert runs[0].options["mode"] == mode and runs[0].options["dir"] == str(tmp_path)


def test_a_tracker_that_fails_is_dropped_with_one_word() -> None:
    warnings: list[str] = []
    broken, sound = Broken(), FakeRun()
    with Trackers({"broken": broken, "sound": sound}, warnings.append) as trackers:
        for step in range(1, 5):
            trackers.log({"score": 1.0}, step)
        assert trackers.names == ("sound",)
    assert broken.calls == 2 and len(sound.logged) == 4 and sound.finished
    assert len(warnings) == 1
    assert "broken failed" in warnings[0] and "no space left" in warnings[0]


def test_trackers_are_finished_when_the_run_fails() -> None:
    sound = FakeRun()
    with pytest.raises(KeyboardInterrupt), Trackers({"sound": sound}, print):
        raise KeyboardInterrupt
    assert sound.finished


def test_what_cannot_be_used_is_refused_at_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'tensorboard'"):
        check_trackers(["tensorbord"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install trackio"):
        check_trackers(["trackio"])


def test_a_tracker_that_cannot_begin_ends_those_that_have(
    fake: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    runs = fake("trackio")
    fake("wandb")

    def refuse(folder: Path, config: Any) -> Any:
        raise RuntimeError("no API key")

    monkeypatch.setitem(TRACKERS, "wandb", refuse)
    with pytest.raises(ConfigError, match="wandb cannot begin: RuntimeError: no API key"):
        open_trackers(["trackio", "wandb"], tmp_path, {}, print)
    assert runs[0].finished


def test_train_shows_its_metrics_in_tensorboard(
    tmp_path: Path, model_folder: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("tensorboard")
    out = tmp_path / "run"
    words = ["-o", "n_items=2", "-o", "max_new_tokens=4", "-o", "max_prompt_tokens=200"]
    words += ["-o", "template={items}\n{category}:"]
    words += ["--model", str(model_folder()), "--num-envs", "2", "--eval-prompts", "0"]
    words += ["--updates", "2", "--out", str(out), "--track", "tensorboard"]
    assert main(["train", *words]) == 0, capsys.readouterr().err
    found = scalars(out / "tensorboard")
    assert [step for step, _ in found["score"]] == [1, 2]
    assert main(["train", "--track", "tensorbord"]) == 2
    assert "Did you mean 'tensorboard'" in capsys.readouterr().err
