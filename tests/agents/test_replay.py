"""`textenvs replay`, and the episodes that training records."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import pytest
import torch

from agents.cli import main
from agents.command_line.episode_sample import EpisodeSample
from agents.config import PPOConfig
from agents.ppo import PPO
from textenvs.errors import ConfigError
from textenvs.recording import read_episodes
from textenvs.replay import replay
from textenvs.wrappers.recording import RecordEpisodes
from textenvs.wrappers.reference_kl import VectorReferenceKL

ID = "textenvs/ContextSelect-v0"


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """Three right answers and one that is not."""
    env = RecordEpisodes(gym.make(ID, n_items=3, max_prompt_tokens=128), tmp_path / "file.jsonl")
    task: Any = env.unwrapped
    for i in range(4):
        prompt = task.prompts[i]
        env.reset(options={"prompt_id": prompt.id})
        text = task.oracle(prompt) if i else "\x1b[2J none"
        for token in [*task.tokenizer.encode_completion(text), task.tokenizer.eos_id]:
            over = env.step(token)[2]
            if over:
                break
    return tmp_path / "file.jsonl"


def test_equal_gives_0_and_a_json_report(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = recording.with_name("report.json")
    assert main(["replay", str(recording), "--json", str(out)]) == 0
    printed = capsys.readouterr().out
    assert f"4 episodes of {ID}, 4 equal" in printed and "task_reward" in printed
    report = json.loads(out.read_text())
    assert (report["episodes"], report["equal"], report["differences"]) == (4, 4, [])
    means = report["means"]["metrics.correct"]
    assert means["recorded"] == means["replayed"] > 0


def test_differences_give_1_and_name_their_lines(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = recording.read_text().splitlines()
    lines[3] = lines[3].replace('"completion": "', '"completion": "\\u001b[2Jx')
    recording.write_text("\n".join(lines) + "\n")
    assert main(["replay", str(recording)]) == 1
    printed = capsys.readouterr().out
    assert "3 equal" in printed
    assert "line 4, prompt 'train-0-2': completion recorded '\\x1b[2Jx" in printed
    assert "\x1b[2J" not in printed


def test_options_override_and_many_differences_are_counted(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["replay", str(recording), "-o", "prompt_seed=7"]) == 1
    assert "replayed 'no such prompt'" in capsys.readouterr().out
    for _ in range(3):  # sixteen episodes
        recording.write_bytes(recording.read_bytes() + recording.read_bytes().partition(b"\n")[2])
    assert main(["replay", str(recording), "-o", "prompt_seed=7"]) == 1
    assert "more differences" in capsys.readouterr().out


def test_another_reward_is_scored_with(
    recording: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = recording.with_name("replay_rewards.py")
    module.write_text("def length(prompt, completion):\n    return 1000.0 * len(completion)\n")
    monkeypatch.syspath_prepend(str(recording.parent))
    assert main(["replay", str(recording), "--reward", "replay_rewards:length"]) == 0
    printed = capsys.readouterr().out
    assert "4 equal" in printed and "rescored" in printed and "reward_terms.length" in printed
    mean = sum(len(episode.completion) for episode in read_episodes(recording)[1]) / 4
    assert f"{1000 * mean:.6g}" in printed


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["replay", "absent.jsonl"], "cannot be read"),
        (["replay", "FILE", "--reward", "context-mtach"], "Did you mean 'context-match'"),
        (["replay", "FILE", "-o", "n_itmes=3"], "Did you mean 'n_items'"),
        (["replay", "FILE", "-o", "n_items"], "an option is name=value"),
        (["replay"], "the following arguments are required: file"),
    ],
)
def test_a_mistake_gives_2(
    recording: Path, words: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(recording) if word == "FILE" else word for word in words]) == 2
    assert message in capsys.readouterr().err


def test_a_damaged_file_gives_2(recording: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = recording.read_text().splitlines()
    recording.write_text("\n".join([*lines[:2], "oops", *lines[2:]]))
    assert main(["replay", str(recording)]) == 2
    assert "line 3: this is no JSON" in capsys.readouterr().err


def test_training_records_a_sample_and_is_not_changed_by_it(
    make_venv: Callable[..., Any], make_policy: Callable[..., Any], tmp_path: Path
) -> None:
    def trained(path: Path | None) -> PPO:
        policy = make_policy()
        venv = VectorReferenceKL(make_venv(4), policy.reference(), 0.1)
        agent = PPO(policy, venv, PPOConfig(n_epochs=1), seed=0)
        if path is not None:
            agent.recorder = EpisodeSample(path, venv, 3)
        agent.step()
        agent.step()
        return agent

    path = tmp_path / "episodes.jsonl"
    recorded, plain = trained(path), trained(None)
    for one, two in zip(recorded.parameters, plain.parameters, strict=True):
        assert torch.equal(one, two)
    episodes = list(read_episodes(path)[1])
    assert len(episodes) == 6
    for episode in episodes:
        assert episode.kl is not None and episode.values and episode.logprobs
        assert all(logprob <= 0 for logprob in episode.logprobs)
    assert len({episode.values for episode in episodes}) > 3
    assert replay(path, recorded.env).ok
    with pytest.raises(ConfigError, match="record_episodes must be at least 0, got -1"):
        EpisodeSample(path, recorded.env, -1)


def test_a_run_folder_replays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ["-o", "n_items=3", "-o", "max_prompt_tokens=128", "-o", "max_new_tokens=4"]
    words += ["--updates", "1", "--num-envs", "2", "--eval-prompts", "0", "--ppo.n-epochs", "1"]
    assert main(["train", *words, "--record-episodes", "2"]) == 0
    assert main(["replay", "runs/train-0/episodes.jsonl"]) == 0
    assert len(list(read_episodes("runs/train-0/episodes.jsonl")[1])) == 2
    assert main(["train", *words, "--record-episodes", "0"]) == 0
    assert not Path("runs/train-0-2/episodes.jsonl").exists()
