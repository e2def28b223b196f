"""Texts to pretrain on, by name, from files and rows, and the tokenizer trained on them."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from agents.pretraining_texts import NAMED_TEXTS, load_documents, pretraining_texts
from agents.tokenizer_training import SMALLEST, train_tokenizer
from textenvs.corpora import films
from textenvs.errors import ConfigError, CorpusError, UnknownNameError
from textenvs.prompts import split_of
from textenvs.tokenization import load_tokenizer

CHINESE = [
    "心脏长错了位置，会不会影响寿命？",
    "宁夏贺兰：巨幅稻田画引客来",
    "英国过去十年的公交线路",
]


def texts_in(path: Path, **options: Any) -> list[str]:
    """All texts of a file."""
    return pretraining_texts(str(path), None, **options)


def test_a_document_is_a_paragraph_a_line_or_the_file(tmp_path: Path) -> None:
    path = tmp_path / "book.txt"
    path.write_bytes("\ufeffone\r\ntwo\r\n\r\n \r\nthree\r\n".encode())
    assert texts_in(path) == ["one\ntwo", "three"]
    assert texts_in(path, documents="line") == ["one", "two", "three"]
    assert texts_in(path, documents="file") == ["one\ntwo\n\n \nthree"]
    with pytest.raises(UnknownNameError, match="Did you mean 'paragraph'"):
        texts_in(path, documents="paragraf")


def test_tables_have_a_column_of_texts_or_of_titles(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("text,body\na,b\nc,d\n")
    assert texts_in(path) == ["a", "c"]
    assert texts_in(path, text_column="body") == ["b", "d"]
    path.write_text("txet,body\na,b\nc,d\n")
    with pytest.raises(UnknownNameError, match="Did you mean 'txet'"):
        texts_in(path)
    titles = tmp_path / "titles.tsv"
    titles.write_text(
        "".join(f"{t}\t{'生活' if i % 2 else '新闻'}\n" for i, t in enumerate(CHINESE * 2))
    )
    assert texts_in(titles) == [
        f"[{'生活' if i % 2 else '新闻'}] {title}" for i, title in enumerate(CHINESE)
    ]
    named = tmp_path / "named.jsonl"
    named.write_text('{"title": "A", "category": "x"}\n{"title": "B", "category": "y"}\n')
    assert texts_in(named) == ["[x] A", "[y] B"]


def test_rows_of_any_kind() -> None:
    assert pretraining_texts(["a", {"text": "b"}, " "], None) == ["a", "b"]
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"text": ["a", "b"]})
    assert pretraining_texts(rows, None) == ["a", "b"]
    with pytest.raises(CorpusError, match="row 0 has no text in 'text': 3"):
        pretraining_texts([{"text": 3}])


def test_titles_that_an_environment_tests_on_are_not_learned() -> None:
    documents = load_documents("films")
    assert len(documents) == len(films())
    learned, held_out = (set(pretraining_texts("films", part)) for part in ("train", "held-out"))
    assert 0.15 < len(held_out) / len(documents) < 0.25
    for item in films()[:200]:
        text = f"[{item.category}] {item.title}"
        assert (text in learned) == (split_of(item.title) == "train")
        assert (text in held_out) == (split_of(item.title) != "train")
    assert set(NAMED_TEXTS) == {"films", "bbc-news", "movie-reviews"}


def test_what_holds_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "empty.txt"
    path.write_text("\n \n")
    with pytest.raises(CorpusError, match="empty.txt' holds no text; give at least one document"):
        pretraining_texts(str(path))
    (tmp_path / "empty.csv").write_text("text\n")
    with pytest.raises(CorpusError, match="has no row"):
        pretraining_texts(str(tmp_path / "empty.csv"))
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as UTF-8 text"):
        pretraining_texts(str(path))
    with pytest.raises(UnknownNameError, match="Did you mean 'films'"):
        pretraining_texts("flims")
    with pytest.raises(UnknownNameError, match="Did you mean 'held-out'"):
        pretraining_texts("films", "heldout")  # type: ignore[arg-type]
    alone = next(text for text in "abcdefgh" if split_of(text) == "train")
    assert pretraining_texts([alone]) == [alone]
    with pytest.raises(CorpusError, match="none of the 1 documents falls into the part 'held-out'"):
        pretraining_texts([alone], "held-out")


def test_a_trained_tokenizer_reads_any_text_and_is_the_same_again(tmp_path: Path) -> None:
    texts = CHINESE * 3
    tokenizer = train_tokenizer(texts, 300, context=64)
    assert SMALLEST < tokenizer.vocab_size <= 300
    assert (tokenizer.pad_id, tokenizer.eos_id) == (0, 1)
    for text in (*CHINESE, "[War] Ran\n", "ünïcode 🙂 \x00", " two  spaces "):
        assert tokenizer.decode(tokenizer.encode(text)) == text
    bytes_of = len(CHINESE[0].encode())
    assert len(tokenizer.encode(CHINESE[0])) < bytes_of  # merges were learned
    again = train_tokenizer(texts, 300, context=64)
    assert again.backend.backend_tokenizer.to_str() == tokenizer.backend.backend_tokenizer.to_str()
    other = train_tokenizer(["something else entirely"], 300, context=64)
    assert other.backend.backend_tokenizer.to_str() != tokenizer.backend.backend_tokenizer.to_str()
    tokenizer.backend.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert loaded.encode(CHINESE[1]) == tokenizer.encode(CHINESE[1])
    assert (loaded.pad_id, loaded.eos_id) == (0, 1)
    assert AutoTokenizer.from_pretrained(tmp_path).model_max_length == 64


def test_a_vocabulary_without_room_for_the_bytes_is_refused() -> None:
    with pytest.raises(ConfigError, match="at least 258 tokens"):
        train_tokenizer(CHINESE, 200, context=64)
    with pytest.raises(CorpusError, match="no text to train a tokenizer on"):
        train_tokenizer([" "], 300, context=64)
