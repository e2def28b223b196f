"""Which listed title a line names: the nearest one, if what differs is a slip of the pen.

A similarity of 90 in 100 alone forgives too much: another number, a "not", a whole word of
a long title. Every rule here takes a match away that the similarity would give; none adds one.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from rapidfuzz import fuzz, process
from rapidfuzz.distance import OSA, Levenshtein

from textenvs.prompts import normalise
from textenvs.rewards.grounding.plain_text import IDEOGRAPHIC, scripts_of, symbols_of, visible
from textenvs.rewards.grounding.weighty_words import is_weighty, negates

EXACT_BELOW = 6
"""Titles of fewer characters are matched whole: one letter makes "drone" another film."""
LETTERS_A_SLIP = 8
"""A word may differ by one slip, and by one more for every so many letters."""
FORCED_CHARACTERS = 1000
"""Lines are cut here for a forced scorer, whose time grows with the square of the length."""
_WORD = re.compile(r"[^\W_]+")


@dataclass(frozen=True, slots=True)
class TitleForm:
    """One title or line, taken apart for comparison.

    Attributes:
        key: Its normal form.
        words: In order, without punctuation.
        digits: Its digits in order, numbers kept apart.
        weighty: Its numbers in words and its negations, in order.
        scripts: Of its letters and marks.
        symbols: Its characters of category S.
        whole: Matched whole or not at all, because it is short, or Chinese, Japanese or
            Korean, where a character is a word.
    """

    key: str
    words: tuple[str, ...]
    digits: str
    weighty: tuple[str, ...]
    scripts: frozenset[str]
    symbols: frozenset[str]
    whole: bool


@dataclass(frozen=True, slots=True)
class Menu:
    """The listed titles of one prompt, in comparison form.

    Attributes:
        titles: Their normal forms.
        index: Normal form -> its first position.
        longest: Characters of the longest.
    """

    titles: tuple[str, ...]
    index: dict[str, int]
    longest: int


def title_key(text: str) -> str:
    """Return the form in which titles are looked up: `normalise` of what is visible."""
    return normalise(visible(text))


def menu_of(titles: Sequence[str]) -> Menu:
    """Return titles in comparison form."""
    keys = tuple(title_key(title) for title in titles)
    index = {key: i for i, key in reversed(list(enumerate(keys)))}
    return Menu(keys, index, max(map(len, keys)))


@lru_cache(maxsize=16_384)
def form_of(key: str) -> TitleForm:
    """Take a normalised title apart; only where a line comes near it, since that takes time."""
    words = tuple(_WORD.findall(key.replace("'", "").replace("\u2019", "").replace("&", " and ")))
    return TitleForm(
        key=key,
        words=words,
        digits=digits_of(key),
        weighty=tuple(filter(is_weighty, words)),
        scripts=scripts_of(key),
        symbols=symbols_of(key),
        whole=len(key) < EXACT_BELOW or IDEOGRAPHIC.search(key) is not None,
    )


def digits_of(text: str) -> str:
    """Return the digits of a text in order, numbers kept apart."""
    return " ".join("".join(c if c.isdigit() else " " for c in text).split())


def match(key: str, menu: Menu, threshold: float) -> int:
    """Return the index of the title a normalised line names, or -1.

    The nearest title of which the line is a misspelling (`is_misspelling`) wins. A line too
    long to reach the threshold is never compared, so the cost of one line is bounded by
    the longest title.
    """
    exact = menu.index.get(key)
    if exact is not None:
        return exact
    if threshold >= 100 or len(key) * threshold > menu.longest * (200 - threshold):
        return -1
    ratios = process.cdist([key], menu.titles, scorer=fuzz.ratio, score_cutoff=threshold)[0]
    if ratios.max() < threshold:
        return -1
    line = form_of(key)
    for i in np.argsort(-ratios, kind="stable"):
        if ratios[i] < threshold:
            break
        if is_misspelling(line, form_of(menu.titles[i])):
            return int(i)
    return -1


def forced_match(key: str, menu: Menu, threshold: float, scorer: Callable[..., float]) -> int:
    """Return the index of the title a scorer likes best, whatever it is, or -1."""
    scores = process.cdist([key[:FORCED_CHARACTERS]], menu.titles, scorer=scorer)[0]
    best = int(np.argmax(scores))
    return best if scores[best] >= threshold else -1


def is_misspelling(line: TitleForm, title: TitleForm) -> bool:
    """Return whether a line that is similar to a title says the same with slips.

    It does not if it has other digits, numbers in words or negations, a letter or a mark of a
    script that the title has none of, a symbol that it has not, or a word more, less or
    exchanged; nor, where the title counts whole, if more than punctuation differs.
    """
    if line.digits != title.digits or line.weighty != title.weighty:
        return False
    if line.scripts - title.scripts or line.symbols - title.symbols:
        return False
    if line.whole or title.whole:
        return "".join(line.words) == "".join(title.words)
    return all(_is_slip(*differing) for differing in _differences(line.words, title.words))


def _differences(words: Sequence[str], meant: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Yield what stands between the words that agree, on either side, without spaces.

    A space too many or too few ("chain saw" for "chainsaw") is then no difference.
    """
    end, begin = 0, 0
    for block in Levenshtein.opcodes(words, meant):
        if block.tag == "equal":
            yield (
                "".join(words[end : block.src_start]),
                "".join(meant[begin : block.dest_start]),
            )
            end, begin = block.src_end, block.dest_end
    yield "".join(words[end:]), "".join(meant[begin:])


def _is_slip(word: str, meant: str) -> bool:
    """Return whether two texts differ by few inserted, lost, exchanged or swapped letters."""
    allowed = 1 + min(len(word), len(meant)) // LETTERS_A_SLIP
    return OSA.distance(word, meant, score_cutoff=allowed) <= allowed and not negates(word, meant)
