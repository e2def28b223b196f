"""The command line: what it prints, what it refuses, what it leaves behind."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from agents.cli import main
from agents.command_line.catalogue import LEARNERS, find_learner
from agents.command_line.settings import TrainSettings, from_toml, read_settings
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


TINY = ("--updates", "1", "--num-envs", "4", "--eval-prompts", "0")


@pytest.mark.parametrize("agent", [name for name in LEARNERS if name != "PPO"])
def test_any_built_in_agent_trains_and_resumes(
    agent: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "--agent", agent, *SMALL, "--num-envs", "4", "--eval-prompts", "0"]
    given = ["-a", "learning_rate=1e-3", "-a", "anneal=false"]
    assert main([*words, *given, "--updates", "1", "--out", "first"]) == 0
    settings = tomllib.loads(Path("first/config.toml").read_text())
    assert {"learning_rate=0.001", "anneal=false", "batch_size=32"} <= set(settings["agent_option"])
    grouped = any(option == "samples_per_prompt=4" for option in settings["option"])
    assert grouped == find_learner(agent).needs_groups
    assert "ppo" not in settings

    saved = Path("first/checkpoints/step-1")
    assert main([*words, "--resume", str(saved), "--updates", "2", "--out", "second"]) == 0
    lines = Path("second/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == [2]
    assert json.loads(lines[0])["learning_rate"] == 1e-3
    capsys.readouterr()
    assert main(["train", *SMALL, "--resume", str(saved), *TINY]) == 2
    assert f"was saved by {agent}, not by PPO; add --agent {agent}" in capsys.readouterr().err
    assert main([*words, "--resume", str(saved), "-a", "batch_size=2"]) == 2
    assert "goes on with the settings it was saved with" in capsys.readouterr().err


def test_a_dry_run_prints_settings_that_can_be_read_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["train", "--agent", "GRPO", "-a", "loss_type=dapo", "-a", "max-grad-norm=none"]
    assert main([*words, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert 'loss_type=\\"dapo\\"' in printed and "samples_per_prompt=8" in printed
    Path("again.toml").write_text(printed)
    assert main(["train", "--config", "again.toml", "--dry-run"]) == 0
    assert capsys.readouterr().out == printed
    assert main(["train", "-a", "clip_range=0.3", "--ppo.n-epochs", "2", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "clip_range = 0.3" in printed and "n_epochs = 2" in printed


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--agent", "RLO"], "Did you mean 'RLOO'"),
        (["--agent", "mine.Agent"], "given as module:Class"),
        (["--agent", "no_such_module:Agent"], "there is no module 'no_such_module'"),
        (["--agent", "RLOO", "-a", "clip_rnge=0.1"], "Did you mean 'clip_range'"),
        (["--agent", "RLOO", "-a", "clip_range=-1"], "clip_range must be above 0, got -1"),
        (["--agent", "RLOO", "-a", "n_epochs=two"], "n_epochs must be int, got 'two'"),
        (["--agent", "GRPO", "-a", "loss_type=grop"], "loss_type must be 'grpo' or 'dapo'"),
        (["--agent", "RLOO", "-a", "n_epochs"], "an option is name=value"),
        (["--agent", "RLOO", "--ppo.n-epochs", "2"], "leave out --ppo"),
        (["--agent", "RLOO", "--num-envs", "7"], "num_envs must be a multiple of 2"),
        (["--agent", "RLOO", "-o", "samples_per_prompt=1"], "compares several answers"),
    ],
)
def test_a_mistake_about_the_agent_gets_a_remedy_and_code_2(
    words: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", *SMALL, *words]) == 2
    assert expected in capsys.readouterr().err
    assert not Path("runs").exists()


OWN_AGENT = """
import json
from pathlib import Path
import numpy as np

class Guesser:
    def __init__(self, env, *, seed, steps=2):
        self.env, self.steps = env, steps
        self.random = np.random.default_rng(seed)
    def predict(self, observation, state=None, episode_start=None, deterministic=False):
        return self.random.integers(2, 12, len(observation["input_ids"])), None
    def learn(self, total_timesteps, callback=None):
        for step in range(self.steps):
            if callback is not None and callback({"score": step / 2}) is False:
                break
        return self
    def save(self, path):
        Path(path).write_text(json.dumps({"steps": self.steps}))

class Mute(Guesser):
    predict = None
    def learn(self, total_timesteps):
        return self
"""


def test_an_agent_of_ones_own_trains(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    Path("guessing.py").write_text(OWN_AGENT)
    own = ["train", "--env", "textenvs/TokenBandit-v0", "--num-envs", "4"]
    words = [*own, "--agent", "guessing:Guesser", "--eval-prompts", "5"]
    assert main([*words, "-a", "steps=3", "--out", "mine"]) == 0
    assert "update 3  score 1.000" in capsys.readouterr().out
    assert json.loads(Path("mine/checkpoints/final").read_text()) == {"steps": 3}
    summary = json.loads(Path("mine/manifest.json").read_text())["summary"]
    assert set(summary) == {"before", "after"} and "regret" in summary["after"]
    assert main([*words, "--updates", "1", "--out", "short"]) == 0
    assert len(Path("short/metrics.jsonl").read_text().splitlines()) == 1
    mute = [*own, "--agent", "guessing:Mute"]
    assert main([*mute, "--eval-prompts", "0", "--out", "mute"]) == 0
    capsys.readouterr()
    for wrong, expected in (
        (mute, "has no predict"),
        ([*words, "-a", "stps=3"], "Did you mean 'steps'"),
        ([*words, "--kl-coef", "0.1"], "brings its own model; leave out --kl-coef"),
        ([*words, "--resume", "mine"], "has no load(path, env)"),
    ):
        assert main(wrong) == 2
        assert expected in capsys.readouterr().err


def test_sft_saves_a_model() -> None:
    words = ["--sft.steps", "1", "--sft.batch-size", "2", "--eval-prompts", "0"]
    assert main(["sft", *SMALL, *words]) == 0
    assert (Path("runs/sft-0/checkpoints/step-1") / "model.safetensors").is_file()


def test_demo_runs_all_its_stages(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--n-items", "3", "--prompts-asked", "4", "--ranked-prompts", "8"]
    words += ["--pretrain-steps", "1", "--sft-steps", "1", "--ppo-updates", "1"]
    assert main(["demo", *words]) == 0
    printed = capsys.readouterr().out
    stages = ("base", "SFT", "best of 16", "DPO", "PPO, rule", "PPO, learned")
    for word in (*stages, "correct", "right answer", "perplexity", "held-out pairs", "runs/demo-0"):
        assert word in printed
    summary = json.loads(Path("runs/demo-0/manifest.json").read_text())["summary"]
    assert set(summary) >= {*stages, "perplexity", "reward model", "gains in correct"}
    for stage in ("sft", "dpo", "ppo-rule", "ppo-learned", "reward-model"):
        assert (Path("runs/demo-0/checkpoints") / stage / "model.safetensors").is_file()


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


def test_the_command_line_starts_without_torch() -> None:
    words = "import sys, agents.cli, agents.command_line.settings; print('torch' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", words], capture_output=True, text=True)
    assert ended.stdout.split() == ["False"], ended.stderr
