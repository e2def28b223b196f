"""Prompt sources, splits, tables and the normal form."""

import json
import unicodedata
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textenvs.env import TextEnv
from textenvs.errors import ConfigError, PromptError, UnknownNameError
from textenvs.prompts import (
    GeneratedPrompts,
    PromptList,
    as_prompt,
    as_source,
    normalise,
    read_table,
    split_of,
)
from textenvs.types import Prompt

ROWS = [{"text": "one", "level": 1}, {"text": "two", "level": 2}]


def test_prompts_from_strings_mappings_and_prompts() -> None:
    source = as_source(["hello", {"prompt": "hi", "id": "x", "level": 3}, Prompt("p", "text")])
    assert [prompt.id for prompt in source] == ["0", "x", "p"]
    assert [prompt.text for prompt in source] == ["hello", "hi", "text"]
    assert source[1].metadata == {"level": 3} and source[1].group == "hi"
    assert source.index_of("p") == 2
    assert as_source(source) is source


@pytest.mark.parametrize("kind", ["csv", "tsv", "json", "jsonl", "parquet", "dataset"])
def test_prompts_from_tables(kind: str, tmp_path: Path) -> None:
    path: Any = tmp_path / f"prompts.{kind}"
    dataset = datasets.Dataset.from_list(ROWS)
    if kind in ("csv", "tsv"):
        mark = "," if kind == "csv" else "\t"
        lines = [f"text{mark}level", *(f"{r['text']}{mark}{r['level']}" for r in ROWS)]
        path.write_text("\ufeff" + "\n".join(lines), encoding="utf-8")
    elif kind == "json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    elif kind == "parquet":
        dataset.to_parquet(str(path))
    else:
        path = dataset
    source = as_source(path)
    assert [prompt.text for prompt in source] == ["one", "two"]
    assert [int(prompt.metadata["level"]) for prompt in source] == [1, 2]


def test_json_lines_end_where_the_file_ends_them(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    texts = ["one\u2028line", "and\x85another"]
    lines = (json.dumps({"text": text}, ensure_ascii=False) for text in texts)
    path.write_bytes("\r\n\r\n".join(lines).encode())
    assert [prompt.text for prompt in as_source(path)] == texts


def test_generated_prompts() -> None:
    def make(index: int, generator: np.random.Generator) -> Prompt:
        return Prompt(f"sum-{index}", f"{generator.integers(1000)}+{generator.integers(1000)}=")

    one, two, other = (GeneratedPrompts(make, 20, seed=seed) for seed in (1, 1, 2))
    assert list(one) == list(two) != list(other)
    assert one[-1] == one[19] and one.index_of("sum-7") == 7
    with pytest.raises(UnknownNameError, match="unknown prompt id 'sum-20'"):
        one.index_of("sum-20")
    with pytest.raises(IndexError, match="outside 0..19"):
        one[20]


def test_splits_are_by_group_and_cover_everything() -> None:
    prompts = [Prompt(str(i), f"text {i}", group=f"user {i % 300}") for i in range(900)]
    parts = {split: list(as_source(prompts, split)) for split in ("train", "validation", "test")}
    assert sum(map(len, parts.values())) == 900
    groups = [{prompt.group for prompt in part} for part in parts.values()]
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]
    assert 0.7 < len(groups[0]) / 300 < 0.9 and min(map(len, groups)) > 10


def test_split_does_not_depend_on_spelling() -> None:
    names = [f"Straße {i}" for i in range(200)]
    assert {split_of(name) for name in names} == {"train", "validation", "test"}
    assert [split_of(n) for n in names] == [split_of(f"  STRASSE\u200b  {i}") for i in range(200)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  A \t b\n", "a b"),
        ("Straße", "strasse"),
        ("ﬁlm", "film"),
        ("e\u0301", "é"),
        ("Ａ１", "a1"),
        ("x\u200b\u200dy\u202e", "xy"),
        ("\ufeff\u2060", ""),
        ("e\u200d\u0301", "é"),
        ("Τέλος", "τέλοσ"),
    ],
)
def test_normal_form(text: str, expected: str) -> None:
    assert normalise(text) == expected


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.text(max_size=40))
def test_normal_form_is_stable(text: str) -> None:
    key = normalise(text)
    assert normalise(key) == key
    assert normalise(f" {text}\u200b ") == key
    assert normalise(unicodedata.normalize("NFD", text)) == key
    assert key == key.strip() and "  " not in key


def test_overlong_prompt_is_named_with_both_lengths(byte_tokenizer: Any) -> None:
    prompts = [Prompt("short", "abc"), Prompt("long", "abcdefgh")]
    with pytest.raises(PromptError, match="prompt 'long' has 8 tokens, but max_prompt_tokens is 5"):
        TextEnv(prompts, lambda p, c: 0.0, byte_tokenizer, max_prompt_tokens=5)


def test_overlong_prompt_is_cut_from_the_left_and_counted(byte_tokenizer: Any) -> None:
    prompts = [Prompt("short", "abc"), Prompt("long", "abcdefgh")]
    env = TextEnv(
        prompts, lambda p, c: 0.0, byte_tokenizer, max_prompt_tokens=5, overlong="truncate"
    )
    observation, info = env.reset(options={"prompt_id": "long"})
    assert info["prompt_tokens_dropped"] == 3 and info["prompt"] == "abcdefgh"
    assert byte_tokenizer.decode(observation["input_ids"][:5]) == "defgh"
    assert env.reset(options={"prompt_id": "short"})[1]["prompt_tokens_dropped"] == 0


def test_bad_prompts(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="there is no prompt"):
        PromptList([])
    with pytest.raises(PromptError, match="the prompt id 'a' stands twice"):
        PromptList([Prompt("a", "x"), Prompt("a", "y")])
    with pytest.raises(PromptError, match=r"prompt 0 has no 'text'; its keys are \['question'\]"):
        as_prompt({"question": "?"}, 0)
    with pytest.raises(UnknownNameError, match="unknown split 'tests'. Did you mean 'test'"):
        as_source(["a"], "tests")  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="none of the 1 prompts falls into the split"):
        taken = split_of("a")
        as_source(["a"], "test" if taken != "test" else "train")
    with pytest.raises(UnknownNameError, match="unknown prompt id 'prompt-11'. Did you mean"):
        PromptList([Prompt("prompt-1", "x")]).index_of("prompt-11")
    with pytest.raises(ConfigError, match="there is no file"):
        as_source(tmp_path / "absent.csv")
    for name, content in (("a.json", b"{"), ("a.csv", b"\xff\xfe\x00"), ("a.txt", b"x")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=r"cannot be read as|the kinds that are read are"):
            read_table(tmp_path / name)
