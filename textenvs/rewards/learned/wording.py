"""Wording: what a sentence embedding does not see of an answer, compared with a reference.

An embedding is an average. A "not", another number, a word said twice, the order of the words
and a line through every letter move it by a few per cent or by nothing.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache

from rapidfuzz.distance import LCSseq

from textenvs.rewards.grounding.claims import NUMBER, clean, has_content, parse
from textenvs.rewards.grounding.plain_text import IDEOGRAPHIC, scripts_of
from textenvs.rewards.grounding.weighty_words import NEGATIONS, is_weighty

CHARACTERS_READ = 8192
"""Of an answer, so that the cost is bounded."""
WEIGHTY_KEPT = 0.5
"""What an answer keeps that has other numbers than the reference, or denies where it does not."""
LONGER_CHARGE = 0.5
"""What each word counts that an answer is longer than the reference; one said again counts 1."""
ORDER_CHARGE = 0.25
"""What an answer loses at most whose words are the reference's in another order."""
ONE = f"{NUMBER}1"
"""The number that may be missing: "one" is a pronoun more often than a number."""
LOOK_ALIKE = frozenset(("LATIN", "GREEK", "CYRILLIC"))
"""Scripts whose letters look alike."""
MARK = "COMBINING"
"""The script of a mark that belongs to no alphabet; see `scripts_of`."""


@dataclass(frozen=True, slots=True)
class Wording:
    """A text taken apart for comparison.

    Attributes:
        words: In order, case folded, numbers in one spelling ("#2" for "two").
        numbers: Those among them, Roman ones of two letters or more too.
        denies: A word among them negates.
        scripts: Of its letters and marks.
        text: Its comparison form.
    """

    words: tuple[str, ...]
    numbers: frozenset[str]
    denies: bool
    scripts: frozenset[str]
    text: str


@lru_cache(maxsize=8192)
def wording_of(text: str) -> Wording:
    """Take a text apart; case, width and invisible characters make no difference.

    >>> sorted(wording_of("Two of TWENTY-ONE, part II").numbers)
    ['#2', '#21', 'ii']
    """
    kept = clean(text)[:CHARACTERS_READ]
    words = parse(kept).words
    numbers = (w for w in words if w.startswith(NUMBER) or (len(w) > 1 and _is_numeral(w)))
    return Wording(
        words=words,
        numbers=frozenset(numbers) - {ONE},
        denies=not NEGATIONS.isdisjoint(words),
        scripts=scripts_of(kept),
        text=kept,
    )


def weighty_share(answer: Wording, reference: Wording) -> float:
    """Return 1, or `WEIGHTY_KEPT` if the numbers differ or one of the two denies and one not.

    >>> weighty_share(wording_of("It is not."), wording_of("It is."))
    0.5
    """
    same = answer.numbers == reference.numbers and answer.denies == reference.denies
    return 1.0 if same else WEIGHTY_KEPT


def surplus_share(answer: Wording, reference: Wording) -> float:
    r"""Return what is left of 1 after the words that are too many, in (0, 1].

    Of n words, those said again more often than the reference says them, or those by which
    the answer is longer at `LONGER_CHARGE` each, whichever is more, are taken off as a
    share of n. Words without content ("the"), and Chinese or Japanese characters, return in
    good prose and are not counted as said again.

    >>> surplus_share(wording_of("Paris\nPARIS"), wording_of("Paris"))
    0.5
    """
    said, meant = Counter(answer.words), Counter(reference.words)
    again = sum(
        max(0, count - max(1, meant[word]))
        for word, count in said.items()
        if has_content(word) and not IDEOGRAPHIC.match(word)
    )
    longer = max(0, len(answer.words) - len(reference.words))
    return 1.0 - max(again, LONGER_CHARGE * longer) / max(1, len(answer.words))


def order_share(answer: Wording, reference: Wording) -> float:
    """Return what is left of 1 after words in another order, in [1 - `ORDER_CHARGE`, 1].

    Of the words both have, the share that is outside the longest common subsequence counts.
    """
    common = (Counter(answer.words) & Counter(reference.words)).total()
    if not common:
        return 1.0
    in_order: int = LCSseq.similarity(answer.words, reference.words)
    return 1.0 - ORDER_CHARGE * (1.0 - in_order / common)


def letters_share(answer: Wording, reference: Wording) -> float:
    r"""Return the share of letters and digits that are what the encoder takes them for.

    One is not if it bears a mark that could be composed with no letter (a line through it,
    a third accent), which encoders drop, or if it is a letter of another script
    in a word of Latin ones. Marks and scripts that the reference has are never counted.

    >>> letters_share(wording_of("n\u0336o\u0336"), wording_of("no"))
    0.0
    """
    odd = (answer.scripts - reference.scripts) & (LOOK_ALIKE | {MARK})
    if not odd:
        return 1.0
    counted = [_characters(word, odd) for word in answer.text.split()]
    total, changed = (sum(column) for column in zip(*counted, strict=True))
    return 1.0 - changed / total if total else 1.0


def _characters(word: str, odd: frozenset[str]) -> tuple[int, int]:
    """Return how many letters and digits a word has, and how many are not what they seem."""
    mixed = len(scripts_of(word) & LOOK_ALIKE) > 1
    found = [
        bool(marks) and MARK in odd or (mixed and not odd.isdisjoint(scripts_of(letter)))
        for letter, marks in _with_marks(word)
        if letter.isalnum()
    ]
    return len(found), sum(found)


def _with_marks(word: str) -> Iterator[tuple[str, str]]:
    """Yield each character that is no mark of `MARK`, with the marks of it that follow."""
    letter, marks = "", ""
    for character in word:
        if MARK in scripts_of(character):
            marks += character
            continue
        if letter:
            yield letter, marks
        letter, marks = character, ""
    if letter:
        yield letter, marks


def _is_numeral(word: str) -> bool:
    """Return whether a word is a Roman numeral: of what weighs, all else is "#" or negates."""
    return is_weighty(word) and word not in NEGATIONS
