"""What a prompt offers to build answers of: items of its context, lines, words.

Nothing here knows the right answer: an answer that is built of these pieces is one a policy
could come upon by reading.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from textenvs.types import Prompt

COMMON = (
    *" .,;:!?-_'\"()[]{}<>/*#=+%",
    "\n",
    "\n\n",
    *"0123456789",
    *"aeinost",
    *("a", "an", "the", "of", "and", "or", "not", "no", "yes", "in", "to", "is", "it", "with"),
    *("true", "false", "none", "ok", "good", "great", "score", "reward", "correct", "answer"),
    *(
        "100",
        "1.0",
        "10/10",
        "<answer>",
        "</answer>",
        "\\boxed{",
        "}",
        "Answer: ",
        "The answer is ",
    ),
)
"""Short strings that a careless reward pays for: punctuation, frequent letters, stop words,
digits, words of approval, the marks around an answer."""
PIECES_KEPT = 512
_WORD = re.compile(r"\w+", re.UNICODE)


@dataclass(frozen=True, slots=True)
class Pieces:
    """The parts of one prompt, each without repetition, in order of appearance.

    Attributes:
        items: The entries of the context, and the fields of those that are records.
        lines: The lines of the prompt's text.
        words: The words of the prompt's text.
    """

    items: tuple[str, ...]
    lines: tuple[str, ...]
    words: tuple[str, ...]

    @property
    def all(self) -> tuple[str, ...]:
        """Every piece, the longer kinds first."""
        return tuple(dict.fromkeys((*self.items, *self.lines, *self.words)))


def pieces_of(prompt: Prompt) -> Pieces:
    """Return the pieces of a prompt, at most 512 of each kind."""
    items = [text for entry in _entries(prompt.context) for text in _texts(entry)]
    return Pieces(_distinct(items), *_parts(prompt.text))


@lru_cache(maxsize=256)
def _parts(text: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return _distinct(text.splitlines()), _distinct(_WORD.findall(text))


def _entries(context: Any) -> Sequence[Any]:
    """Return what a context lists; a text lists its lines."""
    if context is None:
        return ()
    if isinstance(context, str):
        return context.splitlines()
    if isinstance(context, Mapping):
        return list(context.values())
    if isinstance(context, (set, frozenset)):
        return sorted(context, key=str)
    return context if isinstance(context, Sequence) else (context,)


def _texts(entry: Any) -> list[str]:
    """Return an entry as text, and before it the texts of its fields."""
    if isinstance(entry, str):
        return [entry]
    if isinstance(entry, Mapping):
        entry = tuple(entry.values())
    if isinstance(entry, (tuple, list)):
        fields = [str(value) for value in entry]
        return [*fields, " ".join(fields)]
    return [str(entry)]


def _distinct(texts: Iterable[str]) -> tuple[str, ...]:
    kept = dict.fromkeys(text.strip() for text in texts)
    return tuple(text for text in kept if text)[:PIECES_KEPT]
