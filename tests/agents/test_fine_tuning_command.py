"""`textenvs sft`: what it prints, refuses and leaves behind."""

import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.cli import main
from agents.policy import CausalLMPolicy

Make = Callable[..., Any]
QUICK = ("--sft.steps", "2", "--sft.batch-size", "4")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def data() -> str:
    """Forty rows, one of them without an answer and one too long."""
    rows: list[dict[str, str]] = [{"prompt": f"item {i}", "answer": f"yes {i}"} for i in range(38)]
    rows += [{"prompt": "empty", "answer": ""}, {"prompt": "x" * 300, "answer": "y"}]
    Path("pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return "pairs.jsonl"


def test_a_file_is_learned_and_accounted_for(
    data: str, model_folder: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sft", "--model", str(model_folder()), "--data", data, "--sft.packing", *QUICK]
    assert main([*words, "--eval-prompts", "5", "--out", "first"]) == 0
    printed = capsys.readouterr().out
    assert "examples kept" in printed and "answer_perplexity" in printed
    summary = json.loads(Path("first/manifest.json").read_text())["summary"]
    assert summary["before"]["answer_perplexity"][0] > 1
    assert main([*words, "--eval-prompts", "0", "--out", "second"]) == 0
    account = json.loads(Path("second/manifest.json").read_text())["summary"]["examples"]
    assert (account["rows"], account["kept"]) == (40, 38)
    assert (account["empty_answers"], account["too_long"]) == (1, 1)
    lines = Path("second/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2]
    card = Path("second/checkpoints/step-2/README.md").read_text()
    assert "38 of 40 examples kept" in card and "textenvs sft --model" in card
    policy = CausalLMPolicy.from_pretrained("second/checkpoints/step-2")
    assert policy.tokenizer is not None


def test_an_oracle_is_learned_from_a_run_folder(
    data: str, model_folder: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["sft", *QUICK, "--eval-prompts", "0"]
    assert main([*words, "--model", str(model_folder()), "--data", data, "--out", "first"]) == 0
    task = ["-o", "n_items=2", "-o", "max_prompt_tokens=256", "-o", "max_new_tokens=4"]
    assert main([*words, "--model", "first", *task, "--lora", "--out", "second"]) == 0
    assert "Learned from: 8 of 8 examples kept" in capsys.readouterr().out
    settings = tomllib.loads(Path("second/config.toml").read_text())
    assert settings["model"] == str(Path("first/checkpoints/step-2"))


def test_adapters_stay_adapters_and_the_next_stage_begins_above_them(
    data: str, model_folder: Make
) -> None:
    words = ["sft", "--lora", "--data", data, *QUICK, "--eval-prompts", "0"]
    words += ["--sft.learning-rate", "0.05"]
    base = str(model_folder())
    assert main([*words, "--model", base, "--adapter", "keep", "--out", "kept"]) == 0
    folder = Path("kept/checkpoints/step-2")
    assert (folder / "adapter_config.json").is_file()
    assert not (folder / "model.safetensors").exists()
    assert main([*words, "--model", base, "--out", "merged"]) == 0
    kept, merged = (
        CausalLMPolicy.from_pretrained(f"{run}/checkpoints/step-2").model.state_dict()
        for run in ("kept", "merged")
    )
    plain = CausalLMPolicy.from_pretrained(base).model.state_dict()
    assert all(torch.allclose(kept[name], merged[name], atol=1e-6) for name in plain)
    assert any(not torch.allclose(kept[name], plain[name], atol=1e-3) for name in plain)
    task = ["-o", "n_items=2", "-o", "max_prompt_tokens=256", "-o", "max_new_tokens=4"]
    assert main(["sft", "--model", "kept", *task, *QUICK, "--eval-prompts", "1"]) == 0


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--data", "pairs.jsonl", "--answer-column", "anser"], "Did you mean 'answer'"),
        (["--data", "missing.jsonl"], "there is no file 'missing.jsonl'"),
        (["--data", "chaterbot"], "Did you mean 'chatterbot'"),
        (["--data", "pairs.jsonl", "--chat-template", "required"], "put a chat_template.jinja"),
        (["--data", "pairs.jsonl", "--max-tokens", "9999"], "the context of"),
        (["--data", "pairs.jsonl", "--max-tokens", "4"], "is left: 0 of"),
        (["--data", "pairs.jsonl", "-o", "n_items=3"], "--option goes with an environment"),
        (["--max-tokens", "9"], "--max-tokens goes with --data FILE"),
        (["--data", "pairs.jsonl", "--push-to-hub", "no repository"], "is user/name"),
        (["--data", "pairs.jsonl", "--adapter", "keep"], "needs adapters; add --lora"),
        (["-o", "n_items=30"], "the model's context is 256; shorten"),
    ],
)
def test_a_mistake_gets_a_remedy_and_code_2(
    words: list[str],
    expected: str,
    data: str,
    model_folder: Make,
    capsys: pytest.CaptureFixture[str],
) -> None:
    task = [] if "--data" in words else ["-o", "max_prompt_tokens=4000"]
    options = [*words, *task, *QUICK, "--eval-prompts", "0"]
    assert main(["sft", "--model", str(model_folder()), *options]) == 2
    assert expected in capsys.readouterr().err
