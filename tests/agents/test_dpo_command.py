"""`textenvs dpo`, and the stages chained by their run folders."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

from agents.cli import USER_ERROR, main
from agents.preferences import Ranking, write_rankings
from agents.publishing import stage_model

TASK = ["-o", "n_items=2", "-o", "max_prompt_tokens=96", "-o", "max_new_tokens=8"]
BRIEF = ["--eval-prompts", "4"]


@pytest.fixture
def rankings(tmp_path: Path) -> Path:
    """A file of preferences of answers to prompts of no environment."""
    path = tmp_path / "rankings.jsonl"
    texts = [Ranking(f"say {i}:", ("yes", "no"), (0, 1), f"g{i}") for i in range(6)]
    write_rankings(path, texts)
    return path


def test_sft_dpo_and_train_are_chained_by_their_run_folders(
    tmp_path: Path, rankings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sft, dpo, ppo = (str(tmp_path / name) for name in ("sft", "dpo", "ppo"))
    steps = ["--sft.steps", "2", "--sft.batch-size", "4"]
    assert main(["sft", *TASK, "--out", sft, "--eval-prompts", "0", *steps]) == 0
    steps = ["--dpo.steps", "2", "--dpo.batch-size", "2"]
    told = ["dpo", "--model", sft, "--rankings", str(rankings), *TASK, *BRIEF, "--out", dpo]
    assert main([*told, *steps]) == 0
    steps = ["--updates", "1", "--num-envs", "4", "--timesteps", "64"]
    assert main(["train", "--model", dpo, *TASK, *BRIEF, "--out", ppo, *steps]) == 0
    capsys.readouterr()
    card = Path(stage_model(dpo), "README.md").read_text()
    assert sft in card and "| preference_accuracy |" in card and "| correct |" in card
    summary = json.loads((tmp_path / "dpo" / "manifest.json").read_text())["summary"]
    assert "correct" in summary["before"] and "preference_accuracy" in summary["after"]
    logged = (tmp_path / "dpo" / "metrics.jsonl").read_text().splitlines()
    assert json.loads(logged[-1])["step"] == 2
    stage = json.loads(Path(stage_model(ppo), "stage.json").read_text())
    assert stage["stage"] == "ppo" and stage["kind"] == "causal-lm"
    assert stage["base_model"].startswith(dpo)


def test_rankings_of_no_environment_are_read_with_the_models_tokenizer(
    tmp_path: Path,
    rankings: Path,
    model_folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "run"
    told = ["--env", "none", "--model", str(model_folder()), "--rankings", str(rankings)]
    lora = ["--lora", "--adapter", "keep"]
    assert main(["dpo", *told, *lora, "--out", str(out), "--dpo.steps", "1"]) == 0
    assert "5 pairs of 10 answers to 5 prompts" in capsys.readouterr().out
    metrics = json.loads((out / "manifest.json").read_text())["summary"]
    assert "library_name: peft" in Path(stage_model(out), "README.md").read_text()
    assert metrics["before"] == {} and "preference_margin" in metrics["after"]


@pytest.mark.parametrize(
    ("told", "words"),
    [
        (["dpo"], "--rankings FILE is needed"),
        (["dpo", "--rankings", "absent.jsonl"], "absent.jsonl"),
        (["dpo", "--rankings", "x", "--push-to-hub", "name"], "user/name"),
        (["dpo", "--rankings", "x", "--held-out-share", "1"], "held_out_share"),
        (["dpo", "--rankings", "x", "--adapter", "keep"], "goes with --lora"),
        (["train", "--push-to-hub", "name"], "user/name"),
        (["train", "--model", "/absent/run"], "unknown"),
    ],
)
def test_mistakes_are_named(
    told: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(told) == USER_ERROR
    assert words in capsys.readouterr().err


def test_a_push_that_fails_leaves_a_finished_run(
    tmp_path: Path,
    rankings: Path,
    model_folder: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_made_up")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    out = tmp_path / "run"
    told = ["--env", "none", "--model", str(model_folder()), "--rankings", str(rankings)]
    told += ["--out", str(out), "--dpo.steps", "1", "--push-to-hub", "me/name"]
    assert main(["dpo", *told]) == USER_ERROR
    error = capsys.readouterr().err
    assert f"saved at {stage_model(out)}; not pushed: HF_HUB_OFFLINE" in error
    assert "hf upload me/name" in error
