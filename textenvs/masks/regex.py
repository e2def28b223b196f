"""`RegexMask`: the answer must match a regular expression.

llguidance (Rust) knows which tokens of a vocabulary can still lead to a match. It works on the
bytes of tokens, so the tokenizer must decode a text as its tokens' bytes put together.
"""

import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from tokenizers import Tokenizer

from textenvs.errors import ConfigError, MissingDependencyError, TokenizerError
from textenvs.masks.base import Cursors, MaskSetting, Rows, TokenMask
from textenvs.tokenization import FileTokenizer, HuggingFaceTokenizer, TextTokenizer
from textenvs.types import Prompt

PAIRS_CHECKED = 512


@dataclass(frozen=True)
class RegexMask(TokenMask):
    r"""Allow what can still become a full match of a pattern; EOS exactly where it is one.

    The syntax is that of Rust's `regex` crate: as Python's, without look-around and
    back-references. Unicode classes such as `\d` are those of the newest Unicode, which may
    know digits that Python does not. The token budget plays no part: an answer that spends
    it may end within a match, so leave room for the longest.

    Attributes:
        pattern: The whole answer must match it, as with `re.fullmatch`.
    """

    pattern: str

    def __post_init__(self) -> None:
        """Compile the pattern.

        Raises:
            ConfigError: if it cannot be compiled.
            MissingDependencyError: if llguidance is absent.
        """
        matcher = _llguidance().LLMatcher
        error = matcher.validate_grammar(matcher.grammar_from_regex(self.pattern))
        if error:
            raise _unusable(self.pattern, error)

    def bind(self, setting: MaskSetting) -> "BoundRegexMask":
        """Return the mask for one environment.

        Raises:
            TokenizerError: if the tokenizer is not fast, or does not decode byte for byte.
        """
        return BoundRegexMask(self.pattern, setting.tokenizer)


class BoundRegexMask:
    """A `RegexMask` at work: one matcher a row."""

    def __init__(self, pattern: str, tokenizer: TextTokenizer) -> None:
        """Compile the pattern for the tokenizer's vocabulary."""
        self._pattern = pattern
        self._eos_id, self._vocab_size = tokenizer.eos_id, tokenizer.vocab_size
        matcher = _llguidance().LLMatcher
        grammar = matcher.grammar_from_regex(pattern)
        vocabulary: Any = tokenizer  # hashed by identity, which the protocol does not promise
        self._unmoved = matcher(_byte_vocabulary(vocabulary), grammar, log_level=0)
        self._checked(self._unmoved)
        self._cursors: Cursors[Any] = Cursors(self._start, _advance)

    def fill(self, rows: Rows, allowed: np.ndarray) -> None:
        """Mark the tokens that can lead to a match; only EOS once an answer has left it."""
        for row in np.flatnonzero(rows.active).tolist():
            matcher = self._cursors.at(row, rows)
            if matcher is None:
                allowed[row, self._eos_id] = True
                continue
            bits = np.frombuffer(matcher.compute_bitmask(), np.uint8)
            self._checked(matcher)
            allowed[row] = np.unpackbits(bits, count=self._vocab_size, bitorder="little")

    def _start(self, prompt: Prompt) -> Any:
        return self._unmoved.deep_copy()

    def _checked(self, matcher: Any) -> None:
        """Refuse a pattern that is too complex, which shows only while it is matched."""
        if matcher.is_error():
            raise _unusable(self._pattern, matcher.get_error())


def _advance(matcher: Any, token: int) -> Any:
    """Return the matcher moved by one token, or None if the token leads to no match."""
    return matcher if matcher.try_consume_tokens([token]) == 1 else None


def _unusable(pattern: str, error: str) -> ConfigError:
    reason = " ".join(error.split())
    return ConfigError(
        f"the pattern {pattern!r} cannot be used: {reason:.300}; write it in the syntax of Rust's "
        "regex crate, without look-around and back-references"
    )


def _llguidance() -> Any:
    """Return the package.

    Raises:
        MissingDependencyError: if it is absent.
    """
    try:
        import llguidance
    except ImportError as error:
        raise MissingDependencyError(
            "llguidance", "RegexMask", 'pip install "textenvs[masks]"'
        ) from error
    return llguidance


@lru_cache(maxsize=8)
def _byte_vocabulary(tokenizer: Any) -> Any:
    """Return llguidance's form of a tokenizer, made and checked once.

    Raises:
        TokenizerError: if there is no `tokenizers.Tokenizer` in it, or text is not the
            bytes of its tokens.
    """
    backend = copy.copy(_backend(tokenizer))
    backend.no_padding()
    backend.no_truncation()
    try:
        vocabulary = _llguidance().LLTokenizer(
            backend.to_str(), n_vocab=tokenizer.vocab_size, eos_token=tokenizer.eos_id
        )
    except ValueError as error:
        raise TokenizerError(
            f"the tokenizer {tokenizer.name!r} cannot serve RegexMask: {error}"[:400]
        ) from error
    plain = [
        i
        for i in range(tokenizer.vocab_size)
        if backend.id_to_token(i) is not None and not vocabulary.is_special_token(i)
    ]
    step = max(1, len(plain) // PAIRS_CHECKED)
    pairs = zip(plain[::step], plain[-1::-step], strict=True)
    for ids in [*([i] for i in plain), *(list(pair) for pair in pairs)]:
        expected = vocabulary.decode_bytes(ids).decode("utf-8", "replace")
        if tokenizer.decode(ids) != expected:
            raise TokenizerError(
                f"the tokenizer {tokenizer.name!r} reads the tokens {ids} as "
                f"{tokenizer.decode(ids)!r}, while their bytes are {expected!r}; RegexMask needs "
                "a tokenizer that puts bytes together and no more, as byte-level ones do"
            )
    return vocabulary


def _backend(tokenizer: TextTokenizer) -> Tokenizer:
    if isinstance(tokenizer, FileTokenizer):
        return tokenizer.backend
    if isinstance(tokenizer, HuggingFaceTokenizer):
        backend = getattr(tokenizer.backend, "backend_tokenizer", None)
        if isinstance(backend, Tokenizer):
            return backend
    raise TokenizerError(
        f"the tokenizer {tokenizer.name!r} is no fast tokenizer; RegexMask needs one with a "
        "tokenizer.json"
    )
