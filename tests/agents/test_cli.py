"""The command line: what it prints, what it refuses, what it leaves behind."""

import json
from pathlib import Path

import pytest

from agents.cli import main
from agents.cli_config import TrainSettings, from_toml, read_settings
from agents.runs import RunFolder, free_folder
from textenvs.errors import ConfigError, UnknownNameError

SMALL = ("-o", "n_items=3", "-o", "max_prompt_tokens=128", "-o", "max_new_tokens=8")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_list_and_info_show_the_suite(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert "textenvs/ContextSelect-v0" in capsys.readouterr().out
    assert main(["info", "textenvs/ContextSelect-v0", "-o", "n_items=4"]) == 0
    printed = capsys.readouterr().out
    assert "reward of the right answer" in printed
    assert "Discrete(" in printed


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["trian"], "Did you mean 'train'"),
        (["info", "textenvs/ContextSelct-v0"], "Did you mean 'textenvs/ContextSelect-v0'"),
        (["info", "-o", "n_itmes=3"], "Did you mean 'n_items'"),
        (["train", "--model", "no-such-model"], "unknown model 'no-such-model'"),
        (["train", "--config", "missing.toml"], "cannot be read"),
        (["evaluate", "-o", "n_items"], "an option is name=value"),
    ],
)
def test_a_mistake_gets_a_remedy_and_code_2(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words) == 2
    assert expected in capsys.readouterr().err


def test_a_wrong_flag_exits_with_2() -> None:
    assert main(["train", "--ppo.clip-rnge", "0.3"]) == 2
    assert main(["train", "--ppo.clip-range", "-3"]) == 2


def test_flags_override_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("my.toml").write_text("seed = 3\nkl_coef = 0.5\n[ppo]\nn_epochs = 2\nbatch_size = 8\n")
    words = ["--config", "my.toml", "--ppo.n-epochs", "7", "--dry-run"]
    settings, dry_run = read_settings(TrainSettings, words, command="train")
    assert dry_run
    assert (settings.seed, settings.kl_coef) == (3, 0.5)
    assert (settings.ppo.n_epochs, settings.ppo.batch_size) == (7, 8)
    assert main(["train", *words]) == 0
    assert "n_epochs = 7" in capsys.readouterr().out
    assert not Path("runs").exists()


def test_a_wrong_key_or_type_in_the_file_is_named() -> None:
    Path("my.toml").write_text("sed = 3\n")
    with pytest.raises(UnknownNameError, match="Did you mean 'seed'"):
        from_toml(TrainSettings, Path("my.toml"))
    Path("my.toml").write_text('seed = "three"\n')
    with pytest.raises(ConfigError, match="seed must be int, got 'three'"):
        from_toml(TrainSettings, Path("my.toml"))


def test_train_writes_a_run_folder_and_evaluate_reads_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--updates", "2", "--num-envs", "4", "--eval-prompts", "4", "--ppo.n-epochs", "1"]
    assert main(["train", *SMALL, *words]) == 0
    printed = capsys.readouterr().out
    assert "seconds: rollout" in printed
    run = Path("runs/train-0")
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["update"] for line in lines] == [1, 2]
    assert {"seconds_rollout", "seconds_reference", "seconds_update"} <= set(lines[0])
    assert json.loads((run / "manifest.json").read_text())["summary"]["after"]["correct"]
    assert (run / "config.toml").is_file()
    model = str(run / "checkpoints" / "step-2")
    words = ["--model", model, "--prompts-asked", "3", "--json", "out.json"]
    assert main(["evaluate", *SMALL, *words]) == 0
    assert set(json.loads(Path("out.json").read_text())) == {"greedy", "sampled"}
    words = ["--resume", model, "--updates", "3", "--eval-prompts", "0", "--num-envs", "4"]
    assert main(["train", *SMALL, *words]) == 0
    assert (Path("runs/train-0-2") / "checkpoints" / "step-3").is_dir()


def test_sft_saves_a_model() -> None:
    words = ["--sft.steps", "1", "--sft.batch-size", "2", "--eval-prompts", "0"]
    assert main(["sft", *SMALL, *words]) == 0
    assert (Path("runs/sft-0/checkpoints/step-1") / "model.safetensors").is_file()


def test_demo_runs_all_its_stages(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--n-items", "3", "--prompts-asked", "4", "--ppo-updates", "1", "--sft-steps", "1"]
    assert main(["demo", *words]) == 0
    printed = capsys.readouterr().out
    for word in ("base", "SFT", "PPO", "correct", "right answer", "runs/demo-0"):
        assert word in printed
    summary = json.loads(Path("runs/demo-0/manifest.json").read_text())["summary"]
    assert set(summary) >= {"base", "SFT", "PPO", "ppo - sft"}


def test_doctor_finds_this_installation_sound() -> None:
    assert main(["doctor"]) == 0


def test_doctor_detects_another_package_called_agents(monkeypatch: pytest.MonkeyPatch) -> None:
    owners = {"agents": ["openai-agents", "textenvs"]}
    monkeypatch.setattr("importlib.metadata.packages_distributions", lambda: owners)
    assert main(["doctor"]) == 1


def test_a_finished_run_is_not_overwritten() -> None:
    run = RunFolder("runs/mine")
    run.finish({"score": float("nan")})
    assert json.loads(Path("runs/mine/manifest.json").read_text())["summary"] == {"score": None}
    with pytest.raises(ConfigError, match="holds a finished run"):
        RunFolder("runs/mine")
    assert free_folder("mine") == Path("runs/mine-2")
