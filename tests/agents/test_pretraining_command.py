"""`textenvs pretrain`: what it leaves behind, and that the next stages take it up."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.cli import main

Make = Callable[..., Any]
SHAPE = ("--architecture.width", "16", "--architecture.layers", "1", "--architecture.heads", "2")
TRAINING = ("--training.steps", "2", "--training.batch-size", "2", "--training.block-tokens", "16")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def chinese() -> str:
    """Chinese titles of two categories, without a header."""
    kinds = ("生活", "新闻")
    lines = [f"第{i}号巨幅稻田画引客来\t{kinds[i % 2]}\n" for i in range(60)]
    Path("titles.tsv").write_text("".join(lines), encoding="utf-8")
    return "titles.tsv"


def test_the_whole_road_on_chinese_titles(chinese: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["--data", chinese, "--train-tokenizer", "300", *SHAPE, *TRAINING]
    assert main(["pretrain", *words, "--out", "zh"]) == 0
    printed = capsys.readouterr().out
    assert "documents to learn" in printed and "perplexity" in printed
    folder = Path("zh/checkpoints/step-2")
    assert AutoModelForCausalLM.from_pretrained(folder).config.vocab_size <= 300
    text = "第7号巨幅稻田画"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    assert "--train-tokenizer 300" in (folder / "README.md").read_text()
    summary = json.loads(Path("zh/manifest.json").read_text())["summary"]
    assert summary["before"]["perplexity"][0] > summary["after"]["perplexity"][0] > 1

    asked = ["--prompts", chinese, "-o", "n_items=2", "-o", "max_new_tokens=4"]
    asked += ["-o", "max_prompt_tokens=256"]
    task = [*asked, "--eval-prompts", "2"]
    steps = ["--sft.steps", "2", "--sft.batch-size", "2"]
    assert main(["sft", "--model", "zh", *task, *steps, "--out", "zh-sft"]) == 0
    updates = ["--updates", "2", "--num-envs", "4", "--ppo.n-epochs", "1"]
    assert main(["train", "--model", "zh-sft", *task, *updates, "--out", "zh-ppo"]) == 0
    lines = Path("zh-ppo/metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["update"] for line in lines] == [1, 2]
    assert main(["evaluate", "--model", "zh-ppo", *asked, "--prompts-asked", "2"]) == 0


def test_a_model_is_continued_and_everything_learned(
    chinese: str, model_folder: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", chinese, "-d", chinese, "--eval-documents", "0", *TRAINING]
    assert (
        main(["pretrain", "--model", str(model_folder()), "--lora", *words, "--out", "more"]) == 0
    )
    printed = capsys.readouterr().out
    assert "120 documents to learn, 0 held-out" in printed and "perplexity" not in printed
    assert main(["pretrain", "--tokenizer", "more", *SHAPE, *words, "--out", "new"]) == 0
    assert "258 tokens in the vocabulary" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], "pretraining needs text: --data films"),
        (["--data", "flims"], "Did you mean 'films'"),
        (["--data", "titles.tsv", "--text-column", "titel"], "unknown column 'titel'"),
        (["--data", "titles.tsv", "--train-tokenizer", "99"], "at least 258 tokens"),
        (["--data", "titles.tsv", "--model", "x", "--train-tokenizer", "300"], "for its own"),
        (["--data", "titles.tsv", "--model", "tiny-lm", *SHAPE], "is that of a model from scratch"),
        (["--data", "titles.tsv", "--lora"], "--lora adapts a trained model"),
        (["--data", "titles.tsv", "--tokenizer", "a", "--train-tokenizer", "300"], "exclude"),
        (["--data", "titles.tsv", "--training.block-tokens", "9999"], "context of 512 tokens"),
        (["--data", "titles.tsv", "--eval-documents", "-1"], "eval_documents must be at least 0"),
        (["--data", "one.txt"], "documents falls into the part"),
        (["--data", "empty.txt"], "holds no text"),
        (["--data", "one.txt", "--eval-documents", "0"], "fewer than one block of 128"),
        (["--data", "titles.tsv", "--push-to-hub", "me"], "is user/name"),
    ],
)
def test_a_mistake_gets_a_remedy_and_code_2(
    words: list[str], expected: str, chinese: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("one.txt").write_text("one short document")
    Path("empty.txt").write_text("\n")
    assert main(["pretrain", *words, "--out", "run"]) == 2
    assert expected in capsys.readouterr().err


def test_a_dry_run_prints_settings_that_can_be_read_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = ["--data", "films", "--training.schedule", "linear", "--train-tokenizer", "999"]
    assert main(["pretrain", *words, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert 'schedule = "linear"' in printed and not Path("runs").exists()
    Path("again.toml").write_text(printed)
    assert main(["pretrain", "--config", "again.toml", "--dry-run"]) == 0
    assert capsys.readouterr().out == printed
