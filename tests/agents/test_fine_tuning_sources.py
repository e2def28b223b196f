"""Prompts and answers from files and instruction data: read, rendered, accounted for."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agents.supervision.examples import Window
from agents.supervision.sources import (
    Columns,
    Demonstration,
    encode_demonstrations,
    load_demonstrations,
    split_demonstrations,
)
from textenvs.errors import ConfigError, CorpusError, TokenizerError, UnknownNameError
from textenvs.prompts import split_of
from textenvs.tokenization import FileTokenizer

Make = Callable[..., Any]
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def chat_tokenizer(byte_folder: Path, tmp_path: Path) -> FileTokenizer:
    """The byte tokenizer with a chat template."""
    folder = tmp_path / "chat"
    folder.mkdir()
    for path in byte_folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return FileTokenizer(folder)


def write_lines(path: Path, rows: list[Any]) -> Path:
    """Write JSON lines."""
    path.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return path


def test_pairs_from_a_table_with_names_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text("question,reply\nab,x\ncd,yes\n")
    found = load_demonstrations(str(path), Columns("question", "reply"))
    assert found == [Demonstration("ab", "x"), Demonstration("cd", "yes")]


@pytest.mark.parametrize(
    ("header", "columns", "expected"),
    [
        ("prompt,anwser", None, "unknown column of the answers 'answer'. Did you mean 'anwser'?"),
        ("promt,answer", None, "Did you mean 'promt'?"),
        ("prompt,answer", Columns(answer="anser"), "Did you mean 'answer'?"),
        ("a,b", None, "Known: 'a', 'b'|Known: a, b"),
    ],
)
def test_a_missing_column_is_named(
    header: str, columns: Columns | None, expected: str, tmp_path: Path
) -> None:
    path = tmp_path / "pairs.csv"
    path.write_text(f"{header}\nab,x\n")
    with pytest.raises(UnknownNameError, match=expected.replace("?", r"\?")) as error:
        load_demonstrations(str(path), columns)
    assert "-column" in str(error.value)


def test_instruction_data_in_each_format(tmp_path: Path) -> None:
    alpaca = [
        {"instruction": "Add", "input": "1 1", "output": "2"},
        {"instruction": "Say", "output": ""},
    ]
    first, second = load_demonstrations(write_lines(tmp_path / "alpaca.jsonl", alpaca))
    assert first.messages == ({"role": "user", "content": "Add\n\n1 1"},)
    assert (first.prompt, first.answer, second.answer) == ("Add\n\n1 1", "2", "")
    turns = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "ho"},
        {"role": "user", "content": "and?"},
        {"role": "assistant", "content": "no"},
    ]
    (chat,) = load_demonstrations(write_lines(tmp_path / "chat.jsonl", [{"messages": turns}]))
    assert chat.messages == tuple(turns[:-1]) and (chat.prompt, chat.answer) == ("hi", "no")
    rows = [{"chosen": "\n\nHuman: hi\n\nAssistant: ho", "rejected": "no"}]
    assert load_demonstrations(rows)[0].answer == "ho"


def test_conversations_are_rendered_with_the_template(
    chat_tokenizer: FileTokenizer, byte_tokenizer: FileTokenizer
) -> None:
    rows = [{"instruction": "hi", "output": "ho"}]
    found = load_demonstrations(rows)
    window = Window(64)

    def prompt_of(tokenizer: FileTokenizer, rows: list[Demonstration], **options: Any) -> str:
        (example,) = encode_demonstrations(rows, tokenizer, window, **options).examples
        assert tokenizer.decode(example.answer[:-1]) == "ho"
        assert example.answer[-1] == tokenizer.eos_id
        return tokenizer.decode(example.prompt)

    assert prompt_of(chat_tokenizer, found) == "<user>hi<assistant>"
    plain = "\n\nHuman: hi\n\nAssistant:"
    assert prompt_of(chat_tokenizer, found, chat_template="none") == plain
    assert prompt_of(byte_tokenizer, found) == plain
    pairs = [Demonstration("hi", "ho")]
    assert prompt_of(chat_tokenizer, pairs) == "hi"
    assert prompt_of(chat_tokenizer, pairs, chat_template="required") == "<user>hi<assistant>"
    with pytest.raises(TokenizerError, match="has none; put a chat_template.jinja beside"):
        encode_demonstrations(found, byte_tokenizer, window, chat_template="required")


def test_every_row_is_accounted_for(byte_tokenizer: FileTokenizer) -> None:
    rows = [
        {"prompt": "ab", "answer": "x"},  # 2 + 2 tokens
        {"prompt": "ab", "answer": "abcdef"},  # cut to 3 tokens
        {"prompt": "ab", "answer": None},
        {"prompt": "ab", "answer": " \n"},
        {"prompt": " ", "answer": "x"},
        {"prompt": "abcdefgh", "answer": "x"},  # 10 tokens
    ]
    found = encode_demonstrations(load_demonstrations(rows), byte_tokenizer, Window(9, 3))
    assert dataclasses.asdict(found.accounting) == {
        "rows": 6,
        "kept": 2,
        "empty_prompts": 1,
        "empty_answers": 2,
        "too_long": 1,
        "cut_answers": 1,
        "prompt_tokens": 4,
        "answer_tokens": 5,
    }
    assert byte_tokenizer.decode(found.examples[1].answer) == "abc"  # and no EOS
    assert found.examples[1].answer[-1] != byte_tokenizer.eos_id
    assert found.require_some("it", Window(9)) is found
    assert "2 of 6 examples kept" in str(found.accounting)
    nothing = encode_demonstrations(load_demonstrations(rows[2:]), byte_tokenizer, Window(9))
    with pytest.raises(ConfigError, match="no example of it is left: 0 of 4.* 1 too long, 2 with"):
        nothing.require_some("it", Window(9))


def test_split_is_that_of_the_environments() -> None:
    found = [Demonstration(f"question {i}", "x") for i in range(60)]
    train, held_out = split_demonstrations(found)
    assert len(train) + len(held_out) == 60 and 3 < len(held_out) < 25
    assert all(split_of(d.prompt) == "train" for d in train)
    assert not {d.prompt for d in train} & {d.prompt for d in held_out}


def test_rows_that_are_none_are_refused() -> None:
    for rows, expected in (
        ([], "has no row"),
        ([{"prompt": "a", "answer": 3}], "row 0 has no text in 'answer': 3"),
        ([{"prompt": "a", "answer": "b"}, 7], "row 1 is 7"),
        ([{"messages": [{"role": "user", "content": " "}]}], "asks nothing"),
    ):
        with pytest.raises(CorpusError, match=expected):
            load_demonstrations(rows)
    for window in ((1, None), (4, 0)):
        with pytest.raises(ConfigError, match="must be at least"):
            Window(*window)
