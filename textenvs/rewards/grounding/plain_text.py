"""Plain text: what a reader sees of an answer, and in which scripts it is written.

`textenvs.prompts.normalise` drops format characters. More characters than those are
invisible, and letters of other scripts look like ASCII; both let an answer say one thing
to a reader and another to a scorer.
"""

import re
import unicodedata
from functools import lru_cache

INVISIBLE = re.compile(
    # Controls that are no white space, the joiner U+034F, fillers, the blank braille cell,
    # variation selectors, tags: the default-ignorable characters (Unicode, section 5.21).
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f"
    "\u2065\u2800\u3164\ufe00-\ufe0f\uffa0\ufff0-\ufff8\U000e0000-\U000e0fff]+"
)
IDEOGRAPHIC = re.compile(
    "[\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
    "\U00020000-\U0003ffff]"
)
"""A character that is a word or a syllable: Chinese, Japanese or Korean."""


def visible(text: str) -> str:
    r"""Return a text without the invisible characters that are not of category Cf.

    >>> visible("a\u3164b\x07\n")
    'ab\n'
    """
    if text.isascii() and text.isprintable():
        return text
    return INVISIBLE.sub("", text)


def scripts_of(text: str) -> frozenset[str]:
    """Return the scripts of the letters and marks of a text, by the first word of their names.

    A mark that could not be composed with a letter is of the script "COMBINING".

    >>> sorted(scripts_of("Rосky 2"))
    ['CYRILLIC', 'LATIN']
    """
    if text.isascii():
        return frozenset(("LATIN",)) if any(map(str.isalpha, text)) else frozenset()
    return frozenset(filter(None, map(_script, set(text))))


@lru_cache(maxsize=8192)
def _script(character: str) -> str:
    """Return the script of a letter or a mark, "" for anything else."""
    if unicodedata.category(character)[0] not in "LM":
        return ""
    return unicodedata.name(character, "UNNAMED").split()[0]


def symbols_of(text: str) -> frozenset[str]:
    """Return the symbols (category S, such as "~", "≠" or "❌") of a text."""
    return frozenset(c for c in set(text) if not c.isalnum() and _is_symbol(c))


@lru_cache(maxsize=8192)
def _is_symbol(character: str) -> bool:
    return unicodedata.category(character).startswith("S")
