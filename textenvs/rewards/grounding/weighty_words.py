"""Weighty words: numbers and negations, which change what a text says whatever surrounds them.

String similarity is blind to them: "Rocky II" is 94% of "Rocky III", and "not" is three
letters. So they are compared on their own.
"""

import re

NUMBER_WORDS = {
    **{
        word: value
        for value, word in enumerate(
            "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen "
            "fifteen sixteen seventeen eighteen nineteen".split()
        )
    },
    **{
        word: 10 * value
        for value, word in enumerate(
            "twenty thirty forty fifty sixty seventy eighty ninety".split(), start=2
        )
    },
}
"""Cardinal number words of one word below a hundred, with their values."""
ORDINALS = {
    word: value
    for value, word in enumerate(
        "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth".split(),
        start=1,
    )
}
"""Ordinal number words, with their values."""
MULTIPLIERS = {
    "hundred": 10**2,
    "thousand": 10**3,
    "million": 10**6,
    "billion": 10**9,
    "trillion": 10**12,
}
"""Words that multiply the number before them."""
NEGATIONS = frozenset(
    "no not never none nobody nothing nowhere neither nor without cannot non nt".split()
) | frozenset(
    f"{verb}nt"
    for verb in (
        "ai are ca could did does do had has have is might must need sha should was were wo would"
    ).split()
)
"""English words that negate, without apostrophes."""
NEGATING_PREFIXES = ("un", "non", "dis", "anti", "in", "im", "ir", "mis", "de")
_ROMAN = re.compile(r"(?=.)x{0,3}(?:ix|iv|v?i{0,3})")


def is_weighty(word: str) -> bool:
    """Return whether a word is a number in words or a negation.

    Args:
        word: Case folded, without apostrophes; "isnt" for "isn't".

    >>> [is_weighty(w) for w in ("two", "iii", "isnt", "mix", "title")]
    [True, True, True, False, False]
    """
    return (
        word in NUMBER_WORDS
        or word in ORDINALS
        or word in MULTIPLIERS
        or word in NEGATIONS
        or _ROMAN.fullmatch(word) is not None
    )


def negates(word: str, other: str) -> bool:
    """Return whether one of two words is the other with a negating prefix."""
    longer, shorter = (word, other) if len(word) > len(other) else (other, word)
    prefix = longer.removesuffix(shorter)
    return prefix != longer and prefix in NEGATING_PREFIXES
