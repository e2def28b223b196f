"""Tokenizers from files and from transformers say the same."""

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from textenvs.env import TextEnv
from textenvs.errors import TokenizerError, UnknownNameError
from textenvs.tokenization import (
    FileTokenizer,
    HuggingFaceTokenizer,
    TextTokenizer,
    load_tokenizer,
    stop_candidates,
)

TEXTS = ["abc", "Ünïcödé 漢字 🙂", "", " two  spaces ", "line\nbreak"]


def test_file_and_transformers_agree(byte_folder: Path) -> None:
    ours = FileTokenizer(byte_folder)
    theirs = load_tokenizer(AutoTokenizer.from_pretrained(byte_folder))
    assert isinstance(theirs, HuggingFaceTokenizer) and isinstance(ours, TextTokenizer)
    for name in ("vocab_size", "eos_id", "pad_id"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert ours.encode_batch(TEXTS) == theirs.encode_batch(TEXTS) == [ours.encode(t) for t in TEXTS]
    for text in TEXTS:
        ids = ours.encode_completion(text)
        assert ids == theirs.encode_completion(text)
        assert ours.decode(ids) == theirs.decode(ids) == text
        assert ours.decode([*ids, ours.eos_id]) == text, "special tokens are left out"


def test_shipped_tokenizer_round_trips() -> None:
    tokenizer = load_tokenizer()
    assert load_tokenizer("tiny-lm") is tokenizer
    for text in ("The Wizard of Oz", "Amélie", "千と千尋の神隠し", "لورنس العرب", "🙂"):
        assert tokenizer.decode(tokenizer.encode_completion(text)) == text


def test_stop_candidates_by_hand(byte_tokenizer: Any) -> None:
    candidates = stop_candidates(byte_tokenizer, ["END", "x\n"])
    for text, expected in (("D", True), ("\n", True), ("E", False), ("x", False)):
        assert candidates[byte_tokenizer.encode_completion(text)[0]] == expected
    assert stop_candidates(byte_tokenizer, ["a b "]).all(), "a lone space may be dropped"
    last_byte = byte_tokenizer.encode_completion("é")[-1]
    assert stop_candidates(byte_tokenizer, ["é"])[last_byte], "an incomplete byte may complete"


def test_the_callers_tokenizer_is_not_changed(byte_folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(byte_folder)
    tokenizer.pad_token = None
    before = tokenizer.init_kwargs.copy(), len(tokenizer), tokenizer.padding_side
    loaded = load_tokenizer(tokenizer)
    assert loaded.pad_id == loaded.eos_id
    TextEnv(["abc"], lambda p, c: 0.0, tokenizer, max_prompt_tokens=4).reset(seed=0)
    assert (tokenizer.init_kwargs, len(tokenizer), tokenizer.padding_side) == before
    assert tokenizer.pad_token is None


def test_bad_tokenizers(tmp_path: Path, byte_folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((byte_folder / name).read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}')
    with pytest.raises(TokenizerError, match="has no EOS token.*set eos_token"):
        load_tokenizer(str(tmp_path))
    bare = AutoTokenizer.from_pretrained(byte_folder)
    bare.eos_token = None
    with pytest.raises(TokenizerError, match="has no EOS token"):
        TextEnv(["abc"], lambda p, c: 0.0, bare)
    with pytest.raises(TokenizerError, match="holds no tokenizer.json"):
        FileTokenizer(tmp_path / "absent")
    with pytest.raises(UnknownNameError, match="unknown model 'tiny-ln'. Did you mean 'tiny-lm'"):
        load_tokenizer("tiny-ln")
    with pytest.raises(TokenizerError, match="dict is not a tokenizer"):
        load_tokenizer({})
