"""The examples run, small, as a user would run them."""

import json
import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str) -> str:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_quickstart_steps_the_oracle_to_a_full_reward() -> None:
    printed = run("quickstart.py")
    assert "ended by eos" in printed
    assert "'context_match'" in printed
    assert "'correct': 1.0" in printed


def test_train_ppo_learns_evaluates_and_saves(tmp_path: Path) -> None:
    folder = tmp_path / "agent"
    sizes = (
        "--sft-steps",
        "1",
        "--updates",
        "1",
        "--num-envs",
        "2",
        "--n-items",
        "3",
        "--prompts",
        "2",
    )
    printed = run("train_ppo.py", *sizes, "--out", str(folder))
    assert printed.count("update ") == 1
    assert "after  correct" in printed
    assert (folder / "model.safetensors").is_file()
    assert (folder / "training.json").is_file()


def test_own_environment_is_sound() -> None:
    printed = run("own_environment.py")
    assert "salt, please" in printed
    assert "fault" not in printed


def test_sb3_ppo_trains() -> None:
    assert "of at most 1.000 after 1024 tokens" in run("sb3_ppo.py", "1024")


def test_action_mask_says_only_what_is_listed() -> None:
    assert run("action_mask.py")


def test_a_custom_reward_is_audited_and_trained_with() -> None:
    printed = run("custom_reward.py", "200")
    assert "sound: True" in printed
    assert "reward 0." in printed


def test_an_agent_of_ones_own_learns_in_under_sixty_lines() -> None:
    before, after = (line.partition("mean=")[2] for line in run("own_agent.py").splitlines())
    assert float(before.split(",")[0]) < 0.1 < 0.4 < float(after.split(",")[0])
    assert len((EXAMPLES / "own_agent.py").read_text(encoding="utf-8").splitlines()) < 60


def test_context_only_goes_through_its_stages_and_reads_them_back(tmp_path: Path) -> None:
    sizes = "--model tiny-lm --items 4 --prompts 6 --curve-prompts 4 --sft-steps 1 --updates 1"
    more = f"--updates-a-point 1 --episodes 8 --samples-per-prompt 4 --out {tmp_path}"
    words = ("context_only/run.py", *sizes.split(), *more.split())
    printed = run(*words)
    for word in ("seed 0 base", "seed 0 SFT", "seed 0 PPO", "| PPO |", "update 1: strict"):
        assert word in printed
    # A run that was stopped before the end of its last stage goes on from the last point.
    results = tmp_path / "seed-0" / "results.json"
    known = json.loads(results.read_text(encoding="utf-8"))
    del known["PPO"]
    results.write_text(json.dumps(known), encoding="utf-8")
    further = run(*words, "--updates", "2")
    assert "update 2: strict" in further and "update 1: strict" not in further
    assert "seed 0 PPO" in further and "seed 0 SFT" not in further
