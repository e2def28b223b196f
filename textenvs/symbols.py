"""`SymbolTokenizer`: one token a character, over an alphabet of a handful of symbols.

The diagnostics need a vocabulary so small that every answer can be enumerated, and in
which no two answers read the same: text and tokens determine each other.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from textenvs.errors import ConfigError, TokenizerError

PAD_SYMBOL = "_"


@dataclass(frozen=True)
class SymbolTokenizer:
    """A `textenvs.tokenization.TextTokenizer` with one token a character.

    Id 0 pads and reads "_", id 1 is EOS and reads as nothing, the symbols follow in order.
    The padding token is an action like any other; that it can be read keeps a reward that
    sees text alone from taking an answer with it for another one.

    Attributes:
        symbols: The alphabet, each character once.
    """

    symbols: str
    name: str = field(init=False, compare=False)
    vocab_size: int = field(init=False, compare=False)
    eos_id: int = field(default=1, init=False, compare=False)
    pad_id: int = field(default=0, init=False, compare=False)
    _ids: dict[str, int] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        """Number the symbols.

        Raises:
            ConfigError: if there is no symbol, one stands twice, or "_" is among them.
        """
        if not self.symbols or len(set(self.symbols)) < len(self.symbols):
            raise ConfigError(
                f"symbols must hold at least one character and none twice, got {self.symbols!r}"
            )
        if PAD_SYMBOL in self.symbols:
            raise ConfigError(
                f"symbols must not hold {PAD_SYMBOL!r}, which stands for padding, got "
                f"{self.symbols!r}; choose another character"
            )
        ids = {symbol: i for i, symbol in enumerate(self.symbols, start=2)}
        object.__setattr__(self, "name", f"symbols-{self.symbols}")
        object.__setattr__(self, "vocab_size", len(self.symbols) + 2)
        object.__setattr__(self, "_ids", {PAD_SYMBOL: self.pad_id, **ids})

    def encode(self, text: str) -> list[int]:
        """Return the id of each character.

        Raises:
            TokenizerError: if a character is not in the alphabet.
        """
        try:
            return [self._ids[character] for character in text]
        except KeyError as error:
            raise TokenizerError(
                f"the character {error.args[0]!r} of {text!r:.60} is not in the alphabet "
                f"{self.symbols!r}; write with these symbols, or pass another tokenizer"
            ) from error

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of each text."""
        return [self.encode(text) for text in texts]

    def encode_completion(self, text: str) -> list[int]:
        """Return the ids of an answer, the same as those of a prompt."""
        return self.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; EOS is left out.

        Raises:
            TokenizerError: if an id is outside the vocabulary.
        """
        texts = (PAD_SYMBOL, "", *self.symbols)
        if any(not 0 <= i < self.vocab_size for i in ids):
            raise TokenizerError(
                f"{list(ids)!r:.80} holds ids outside 0..{self.vocab_size - 1} of {self.name!r}"
            )
        return "".join(texts[i] for i in ids)
