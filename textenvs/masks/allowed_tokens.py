"""`AllowedTokens`: a fixed set of tokens."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from textenvs.errors import ConfigError
from textenvs.masks.base import MaskSetting, Rows, TokenMask
from textenvs.tokenization import TextTokenizer


@dataclass(frozen=True)
class AllowedTokens(TokenMask):
    """Allow these tokens, whatever came before.

    Attributes:
        tokens: Ids, or texts that are one token each.
        eos: Allow EOS as well, so that an answer can end before the budget does.
    """

    tokens: Sequence[int | str]
    eos: bool = True

    def bind(self, setting: MaskSetting) -> "BoundAllowedTokens":
        """Look the tokens up.

        Raises:
            ConfigError: if nothing is allowed, an id is outside the vocabulary, or a text is
                not one token.
        """
        tokenizer = setting.tokenizer
        ids = [_token_id(token, tokenizer) for token in self.tokens]
        if self.eos:
            ids.append(tokenizer.eos_id)
        if not ids:
            raise ConfigError("AllowedTokens allows nothing; give at least one token, or eos=True")
        return BoundAllowedTokens(ids, tokenizer.vocab_size)


class BoundAllowedTokens:
    """`AllowedTokens` at work."""

    def __init__(self, ids: Sequence[int], vocab_size: int) -> None:
        """Mark the ids once."""
        self._row = np.zeros(vocab_size, bool)
        self._row[list(ids)] = True

    def fill(self, rows: Rows, allowed: np.ndarray) -> None:
        """Mark the same tokens in every active row."""
        allowed[rows.active] = self._row


def _token_id(token: int | str, tokenizer: TextTokenizer) -> int:
    if isinstance(token, str):
        ids = tokenizer.encode_completion(token)
        if len(ids) != 1:
            raise ConfigError(
                f"AllowedTokens got {token!r}, which the tokenizer {tokenizer.name!r} writes as "
                f"{len(ids)} tokens {ids}; give those ids, or use RegexMask for whole words"
            )
        return int(ids[0])
    known = isinstance(token, (int, np.integer)) and not isinstance(token, bool)
    if not known or not 0 <= token < tokenizer.vocab_size:
        raise ConfigError(
            f"AllowedTokens got {token!r}; a token is a text or an id of 0 to "
            f"{tokenizer.vocab_size - 1}"
        )
    return int(token)
