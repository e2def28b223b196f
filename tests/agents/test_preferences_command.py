"""`textenvs preferences`: the file and the table of each source, and what is refused."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from agents.cli import main
from agents.preferences import pairs, read_rankings
from agents.preferences.rankings import Ranking

SMALL = ("-o", "n_items=3", "-o", "max_prompt_tokens=256", "-o", "max_new_tokens=8")
Captured = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def shown(captured: Captured) -> dict[str, str]:
    """The rows of the printed table."""
    rows = [line.split("│") for line in captured.readouterr().out.splitlines() if "│" in line]
    return {row[1].strip(): row[2].strip() for row in rows}


def test_from_the_context(capsys: Captured) -> None:
    words = ["preferences", *SMALL, "--prompts-asked", "20"]
    assert main([*words, "--out", "one.jsonl"]) == 0
    table = shown(capsys)
    assert table["prompts"] == table["pairs"] == "20"
    assert table["gold agreement"] == "1.000  [1.000, 1.000]"
    assert main([*words, "--out", "two.jsonl"]) == 0
    assert Path("one.jsonl").read_bytes() == Path("two.jsonl").read_bytes()
    assert main([*words, "--seed", "1"]) == 0
    assert "Rankings: runs/preferences-1/rankings.jsonl" in capsys.readouterr().out
    other = read_rankings("runs/preferences-1/rankings.jsonl")
    assert len(other) == 20 and other[0] != read_rankings("one.jsonl")[0]


def test_kinds_are_ranks(capsys: Captured) -> None:
    kinds = ["-r", "wrong-category", "-r", "unlisted"]
    words = ["preferences", *SMALL, "-o", "max_targets=1", *kinds, "--prompts-asked", "5"]
    assert main([*words, "--out", "o.jsonl"]) == 0
    assert {r.ranks for r in read_rankings("o.jsonl")} == {(0, 1, 2)}
    assert shown(capsys)["pairs"] == "15"


def test_from_samples_and_judged(
    capsys: Captured,
    model_folder: Callable[..., Path],
    make_model: Callable[..., Any],
    byte_folder: Path,
    tmp_path: Path,
) -> None:
    words = ["preferences", *SMALL, "--model", str(model_folder()), "--prompts-asked", "6"]
    assert main([*words, "--source", "samples", "--rank-by", "length", "--out", "s.jsonl"]) == 0
    assert "samples" in capsys.readouterr().out
    assert len(read_rankings("s.jsonl")) > 0
    # The judge reads longer texts than the models of other tests.
    judge, model = tmp_path / "judge", make_model("llama", max_position_embeddings=2048)
    model.save_pretrained(judge)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (judge / name).write_bytes((byte_folder / name).read_bytes())
    words += ["--source", "judge", "--samples", "2", "--judge"]
    assert main([*words, f"judge:{judge}", "--out", "j.jsonl"]) == 0
    judged = read_rankings("j.jsonl")
    assert len(judged) > 0 and {r.prompt_id for r in judged} <= {f"train-0-{i}" for i in range(6)}
    torch.nn.init.zeros_(model.get_output_embeddings().weight)  # "A" as likely as "B"
    other = tmp_path / "undecided"
    shutil.copytree(judge, other)
    model.save_pretrained(other)
    assert main([*words, f"pairwise-judge:{other}"]) == 2
    assert "all ties: 6" in capsys.readouterr().err


def test_from_a_file_with_swapped_answers(capsys: Captured) -> None:
    """The environment's right answers in the wrong column are noticed, by text alone."""
    assert main(["preferences", *SMALL, "--prompts-asked", "9", "--out", "o.jsonl"]) == 0
    rows = [
        {"prompt": p.prompt, "chosen": p.rejected, "rejected": p.chosen}
        for p in pairs(read_rankings("o.jsonl"))
    ]
    Path("swapped.json").write_text(json.dumps(rows))
    capsys.readouterr()
    assert main(["preferences", *SMALL, "--source", "swapped.json", "--out", "a.jsonl"]) == 0
    printed = capsys.readouterr().out
    assert "right answer stands last in 9 rankings and first in 0" in printed
    assert "0.000  [0.000, 0.000]" in printed, "the gold metric disagrees with every pair"
    columns = ["--chosen-column", "rejected", "--rejected-column", "chosen", "--out", "b.jsonl"]
    assert main(["preferences", *SMALL, "--source", "swapped.json", *columns]) == 0
    assert "swapped" not in capsys.readouterr().out.replace("swapped.json", "")
    assert isinstance(read_rankings("b.jsonl")[0], Ranking)


def test_a_length_bias_is_said(capsys: Captured) -> None:
    rows = [{"prompt": f"p{i}", "chosen": "x" * 9, "rejected": "x"} for i in range(5)]
    Path("biased.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["preferences", "--source", "biased.jsonl", "--out", "o.jsonl"]) == 0
    assert "the longer answer is better would be right in 100.0%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--source", "contxt"], "unknown source 'contxt'. Did you mean 'context'"),
        (["--source", "missing.jsonl"], "Or give the path of a file"),
        (["--source", "judge"], "needs a judge: --judge pairwise-judge:MODEL"),
        (["--source", "judge", "--judge", "judge"], "'judge' needs a model"),
        (["--source", "judge", "--judge", "judge:no-such-model"], "no-such-model"),
        (["--judge", "judge:tiny-lm"], "--judge goes with --source judge, but the source is"),
        (["--source", "samples", "--part"], "--part goes with --source context"),
        (["--chosen-column", "good"], "--chosen-column goes with --source FILE"),
        (["-r", "unlistd"], "Did you mean 'unlisted'"),
        (["--source", "samples", "--rank-by", "corect"], "Did you mean 'correct'"),
        (["--gold", "corect"], "Did you mean 'correct'"),
        (["--prompts-asked", "0"], "n_prompts must be at least 1, got 0"),
        (["--env", "textenvs/IncreasingNumbers-v0"], "no context to choose an answer from"),
        (["--out", "there.jsonl"], "'there.jsonl' is there already"),
        (["--split", "tset"], "Did you mean 'test'"),
    ],
)
def test_a_mistake_gets_a_remedy_and_code_2(
    words: list[str], expected: str, capsys: Captured
) -> None:
    Path("there.jsonl").write_text("kept")
    assert main(["preferences", *words]) == 2
    assert expected in capsys.readouterr().err
    assert Path("there.jsonl").read_text() == "kept" and not Path("runs").exists()


def test_dry_run_prints_the_settings(capsys: Captured) -> None:
    assert main(["preferences", *SMALL, "-r", "mixed", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert 'source = "context"' in printed and "mixed" in printed and not Path("runs").exists()
