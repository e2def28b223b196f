"""Tokenizers: one small surface over `tokenizers` files and Hugging Face tokenizers.

The environment needs six things of a tokenizer: encode, decode, the vocabulary
size, the EOS and padding ids, and the text of each token. `load_tokenizer` gives
them for the shipped tokenizer and for any folder with a `tokenizer.json` without
importing transformers; a hub name goes through `AutoTokenizer`.
"""

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from tokenizers import Tokenizer

from textenvs.errors import MissingDependencyError, TokenizerError, UnknownNameError

ASSETS = Path(__file__).parent / "assets"
TINY_LM = "tiny-lm"
"""Name of the embedded language model, and of its tokenizer."""


@runtime_checkable
class TextTokenizer(Protocol):
    """What an environment needs of a tokenizer."""

    name: str
    vocab_size: int
    eos_id: int
    pad_id: int

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, special tokens of a prompt included."""

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens left out."""

    def encode_completion(self, text: str) -> list[int]:
        """Return the ids of an answer: no special token in front, none behind."""


class FileTokenizer:
    """A tokenizer read from a folder's `tokenizer.json`, without transformers."""

    def __init__(self, folder: str | Path) -> None:
        """Read `tokenizer.json` and the special tokens of `tokenizer_config.json`.

        Raises:
            TokenizerError: if the folder has no tokenizer or the tokenizer no EOS token.
        """
        folder = Path(folder)
        path = folder / "tokenizer.json"
        if not path.is_file():
            raise TokenizerError(
                f"{folder} holds no tokenizer.json; save a fast tokenizer there with "
                "save_pretrained"
            )
        self.name = str(folder)
        self.backend = Tokenizer.from_file(str(path))
        self.backend.no_padding()
        self.backend.no_truncation()
        self.vocab_size = self.backend.get_vocab_size(with_added_tokens=True)
        config = _read_json(folder / "tokenizer_config.json")
        self.eos_id = self._special_id(config, "eos_token")
        self.pad_id = self._special_id(config, "pad_token", fallback=self.eos_id)
        self.chat_template = _chat_template(folder, config)
        self.special_tokens = {
            key: text
            for key in ("bos_token", "eos_token", "pad_token")
            if (text := _token_text(config.get(key)))
        }

    def _special_id(self, config: dict[str, Any], key: str, fallback: int | None = None) -> int:
        text = _token_text(config.get(key))
        found = self.backend.token_to_id(text) if text else None
        if found is not None:
            return int(found)
        if fallback is not None:
            return fallback
        raise _no_eos(self.name)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, special tokens of a prompt included."""
        return self.backend.encode_batch_fast([text])[0].ids  # without offsets

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        return [encoding.ids for encoding in self.backend.encode_batch_fast(list(texts))]

    def encode_completion(self, text: str) -> list[int]:
        """Return the ids of an answer: no special token in front, none behind."""
        return self.backend.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens left out."""
        plain = ids if isinstance(ids, list) else [int(i) for i in ids]
        return self.backend.decode(plain, skip_special_tokens=True)


class HuggingFaceTokenizer:
    """A transformers tokenizer behind the same surface; it is never changed."""

    def __init__(self, tokenizer: Any) -> None:
        """Wrap a `PreTrainedTokenizerBase`.

        Raises:
            TokenizerError: if it has no EOS token.
        """
        self.backend = tokenizer
        self.name = str(tokenizer.name_or_path)
        self.vocab_size = len(tokenizer)
        if tokenizer.eos_token_id is None:
            raise _no_eos(self.name)
        self.eos_id = int(tokenizer.eos_token_id)
        pad = tokenizer.pad_token_id
        self.pad_id = self.eos_id if pad is None else int(pad)
        self.chat_template = tokenizer.chat_template
        self.special_tokens = dict(tokenizer.special_tokens_map)

    def encode(self, text: str) -> list[int]:
        """Return the ids of `text`, special tokens of a prompt included."""
        return list(self.backend(text, verbose=False)["input_ids"])

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        return [list(ids) for ids in self.backend(list(texts), verbose=False)["input_ids"]]

    def encode_completion(self, text: str) -> list[int]:
        """Return the ids of an answer: no special token in front, none behind."""
        return list(self.backend(text, add_special_tokens=False, verbose=False)["input_ids"])

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`, special tokens left out."""
        return self.backend.decode(
            [int(i) for i in ids], skip_special_tokens=True, clean_up_tokenization_spaces=False
        )


def load_tokenizer(tokenizer: Any = TINY_LM) -> TextTokenizer:
    """Return a `TextTokenizer` for a name, a folder or an object.

    Args:
        tokenizer: `"tiny-lm"` (shipped), a folder with `tokenizer.json`, a model alias
            or hub name, a transformers tokenizer, a `tokenizers.Tokenizer` saved in a
            folder, or anything that is a `TextTokenizer` already.

    Raises:
        TokenizerError: if it has no EOS token or is not a tokenizer.
        UnknownNameError: if a name leads nowhere.
        MissingDependencyError: if a hub name is given and transformers is absent.
    """
    if isinstance(tokenizer, (str, Path)):
        return _load_by_name(str(tokenizer))
    if isinstance(tokenizer, TextTokenizer):
        if tokenizer.eos_id is None:
            raise _no_eos(tokenizer.name)
        return tokenizer
    # By the name of its base class, so that transformers need not be imported.
    if "PreTrainedTokenizerBase" in (base.__name__ for base in type(tokenizer).__mro__):
        return HuggingFaceTokenizer(tokenizer)
    raise TokenizerError(
        f"{type(tokenizer).__name__} is not a tokenizer; pass a name, a folder, a transformers "
        "tokenizer, or an object with the methods of textenvs.tokenization.TextTokenizer"
    )


@lru_cache(maxsize=16)
def _load_by_name(name: str) -> TextTokenizer:
    """Load once per process; tokenizers are read-only, so sharing is safe."""
    if name == TINY_LM:
        return FileTokenizer(ASSETS / TINY_LM)
    if (Path(name) / "tokenizer.json").is_file():
        return FileTokenizer(name)
    try:
        from textenvs.models import load_hf_tokenizer
    except ImportError as error:
        raise MissingDependencyError(
            "transformers", f"the tokenizer {name!r}", 'pip install "textenvs[agents]"'
        ) from error
    return load_hf_tokenizer(name)


def token_texts(tokenizer: TextTokenizer) -> list[str]:
    """Return the text each id decodes to on its own; special tokens give ""."""
    return [tokenizer.decode([i]) for i in range(tokenizer.vocab_size)]


def stop_candidates(tokenizer: TextTokenizer, stop: Iterable[str]) -> np.ndarray:
    """Return bool [V]: whether a token could complete one of the stop strings.

    A token can only complete a stop string if it ends inside it, so its text shares
    the string's last character or is an incomplete byte sequence. Only those rows are
    decoded while stepping, which keeps `step` free of text on nearly every call.
    """
    last = {text[-1] for text in stop}
    if not last:
        return np.zeros(tokenizer.vocab_size, bool)
    if " " in last:  # some decoders drop the space of a lone token
        return np.ones(tokenizer.vocab_size, bool)
    return np.array(
        [any(c in text for c in last) or "\ufffd" in text for text in token_texts(tokenizer)], bool
    )


def unknown_model(name: str, known: Iterable[str]) -> UnknownNameError:
    """Return the error for a model name that leads nowhere."""
    return UnknownNameError(
        "model",
        name,
        known,
        "Give a folder written by save_pretrained, or a hub name while online.",
    )


def _no_eos(name: str) -> TokenizerError:
    return TokenizerError(
        f"the tokenizer {name!r} has no EOS token, so no answer could ever end; set "
        "eos_token in its tokenizer_config.json, or call "
        'tokenizer.add_special_tokens({"eos_token": ...})'
    )


def _read_json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _token_text(token: Any) -> str | None:
    return token.get("content") if isinstance(token, dict) else token


def _chat_template(folder: Path, config: dict[str, Any]) -> str | None:
    path = folder / "chat_template.jinja"
    return path.read_text(encoding="utf-8") if path.is_file() else config.get("chat_template")
