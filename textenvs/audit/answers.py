"""Answers to try on a reward: junk, pieces of the prompt, near misses, repetitions.

What an answer is made of is written once, as functions of a `Chooser`. A seeded numpy
generator behind it gives the audit its examples; hypothesis behind it gives users a
strategy, which then shrinks a counterexample to the first choices of each kind.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import numpy as np

from textenvs.audit.pieces import COMMON, Pieces, pieces_of
from textenvs.checker.probes import EMPTY, ODD_TEXTS
from textenvs.errors import MissingDependencyError, UnknownNameError
from textenvs.types import Prompt

if TYPE_CHECKING:
    from hypothesis.strategies import DrawFn, SearchStrategy

T = TypeVar("T")
SEPARATORS = ("\n", " ", ", ", "; ", "")
WORDINGS = (
    "{}.",
    "not {}",
    "The answer is {}.",
    '"{}"',
    "- {}",
    "{} or not",
    "<answer>{}</answer>",
)
BLOCKS = (
    (0x61, 0x7A),  # letters
    (0x20, 0x7E),  # ASCII
    (0x00, 0x1F),  # control characters
    (0x80, 0x24F),  # Latin with accents, no-break space, soft hyphen
    (0x300, 0x36F),  # combining marks
    (0x400, 0x45F),  # Cyrillic, with letters that look Latin
    (0x5D0, 0x64A),  # right to left
    (0x2000, 0x206F),  # white space, zero-width characters, direction marks
    (0x2460, 0x24FF),  # digits and letters in circles
    (0x4E00, 0x4EFF),  # Chinese
    (0xD800, 0xDFFF),  # surrogates, which no file can hold
    (0xFF01, 0xFF5E),  # ASCII in full width
    (0x1F600, 0x1F64F),  # emoji
)
LONGEST_JUNK, MOST_JOINED, MOST_REPEATED = 40, 6, 8


class Chooser(Protocol):
    """Where the choices come from."""

    def integer(self, low: int, high: int) -> int:
        """Return an integer from low to high, both included."""


class NumpyChooser:
    """Choices of a numpy generator."""

    def __init__(self, generator: np.random.Generator) -> None:
        """Take the generator."""
        self.generator = generator

    def integer(self, low: int, high: int) -> int:
        """Return an integer from low to high, both included."""
        return int(self.generator.integers(low, high + 1))


class HypothesisChooser:
    """Choices of hypothesis, which can shrink them."""

    def __init__(self, draw: "DrawFn") -> None:
        """Take the function a composite strategy is given."""
        self.draw = draw

    def integer(self, low: int, high: int) -> int:
        """Return an integer from low to high, both included."""
        from hypothesis import strategies

        return self.draw(strategies.integers(low, high))


def one_of(options: Sequence[T], chooser: Chooser) -> T:
    """Return one of some options."""
    return options[chooser.integer(0, len(options) - 1)]


def junk(pieces: Pieces, chooser: Chooser) -> str:
    """Return up to 40 characters, of one block of Unicode or of several."""
    blocks = (one_of(BLOCKS, chooser),) if chooser.integer(0, 1) == 0 else BLOCKS
    size = chooser.integer(0, LONGEST_JUNK)
    return "".join(chr(chooser.integer(*one_of(blocks, chooser))) for _ in range(size))


def odd(pieces: Pieces, chooser: Chooser) -> str:
    """Return nothing, white space, or a text no reward may break down over."""
    return one_of((*EMPTY.values(), *ODD_TEXTS.values()), chooser)


def common(pieces: Pieces, chooser: Chooser) -> str:
    """Return a short string that a careless reward pays for."""
    return one_of(COMMON, chooser)


def piece(pieces: Pieces, chooser: Chooser) -> str:
    """Return a line or a word of the prompt, or a run of characters of one."""
    whole = one_of(pieces.lines + pieces.words or COMMON, chooser)
    if chooser.integer(0, 1) == 0:
        return whole
    start = chooser.integer(0, len(whole) - 1)
    return whole[start : chooser.integer(start + 1, len(whole))]


def item(pieces: Pieces, chooser: Chooser) -> str:
    """Return an item of the context, or a field of one; a line of a prompt that has none."""
    return one_of(pieces.items or pieces.lines or COMMON, chooser)


def near_miss(pieces: Pieces, chooser: Chooser) -> str:
    """Return an item with a slip: a letter lost, doubled, exchanged or replaced, or its case."""
    text = item(pieces, chooser)
    at = chooser.integer(0, len(text) - 1)
    before, letter, after = text[:at], text[at], text[at + 1 :]
    slips = (
        before + after,
        before + letter + letter + after,
        before + after[:1] + letter + after[1:],
        before + chr(chooser.integer(0x61, 0x7A)) + after,
        text.swapcase(),
        before,
    )
    return one_of(slips, chooser)


def worded(pieces: Pieces, chooser: Chooser) -> str:
    """Return an item in a phrase: negated, quoted, announced."""
    return one_of(WORDINGS, chooser).replace("{}", item(pieces, chooser))


def several(pieces: Pieces, chooser: Chooser) -> str:
    """Return some items, joined."""
    size = chooser.integer(1, MOST_JOINED)
    return one_of(SEPARATORS, chooser).join(item(pieces, chooser) for _ in range(size))


def repeated(pieces: Pieces, chooser: Chooser) -> str:
    """Return an answer of another kind, said up to eight times."""
    text = one_of(SINGLE, chooser)(pieces, chooser)
    return one_of(SEPARATORS, chooser).join([text] * chooser.integer(2, MOST_REPEATED))


def combined(pieces: Pieces, chooser: Chooser) -> str:
    """Return two answers of other kinds, joined."""
    parts = (one_of(SINGLE, chooser)(pieces, chooser) for _ in range(2))
    return one_of(SEPARATORS, chooser).join(parts)


Make = Callable[[Pieces, Chooser], str]
SINGLE: tuple[Make, ...] = (common, piece, item, near_miss, worded, junk)
KINDS: Mapping[str, Make] = {
    "common": common,
    "piece": piece,
    "item": item,
    "near miss": near_miss,
    "worded": worded,
    "several": several,
    "repeated": repeated,
    "combined": combined,
    "junk": junk,
    "odd": odd,
}
"""The kinds of answers by name; hypothesis shrinks towards the first."""


def drawn_answers(
    prompt: Prompt,
    generator: np.random.Generator,
    size: int,
    kinds: Sequence[str] = tuple(KINDS),
) -> list[str]:
    """Return answers to a prompt, drawn with a numpy generator.

    Args:
        prompt: The task.
        generator: Decides everything.
        size: How many.
        kinds: Of `KINDS`; each in turn, so that all of them occur.

    Raises:
        UnknownNameError: if there is no such kind.
    """
    makers = _makers(kinds)
    chooser, pieces = NumpyChooser(generator), pieces_of(prompt)
    return [makers[i % len(makers)](pieces, chooser) for i in range(size)]


def answers(prompt: Prompt, kinds: Sequence[str] = tuple(KINDS)) -> "SearchStrategy[str]":
    """Return a hypothesis strategy of answers to a prompt.

    Args:
        prompt: The task.
        kinds: Of `KINDS`: "common", "piece", "item", "near miss", "worded", "several",
            "repeated", "combined", "junk", "odd".

    Raises:
        UnknownNameError: if there is no such kind.
        MissingDependencyError: if hypothesis is absent.
    """
    try:
        from hypothesis import strategies
    except ImportError as error:
        raise MissingDependencyError(
            "hypothesis", "the strategy of answers", "pip install hypothesis"
        ) from error
    return strategies.composite(_drawn)(pieces_of(prompt), _makers(kinds))


def _drawn(draw: "DrawFn", pieces: Pieces, makers: Sequence[Make]) -> Any:
    chooser = HypothesisChooser(draw)
    return one_of(makers, chooser)(pieces, chooser)


def _makers(kinds: Sequence[str]) -> list[Make]:
    for kind in kinds:
        if kind not in KINDS:
            raise UnknownNameError("kind of answer", kind, KINDS)
    return [KINDS[kind] for kind in kinds]
