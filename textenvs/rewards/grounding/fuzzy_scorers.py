"""Fuzzy scorers by name: which of rapidfuzz's can be a reward, and what the others pay for.

A scorer that finds the answer's best part, or the words two texts share, is made for search.
As a reward it pays for text that was not asked for, and a policy finds out.
"""

from collections.abc import Callable
from typing import NamedTuple

from rapidfuzz import fuzz

from textenvs.errors import ConfigError, UnknownNameError

Scorer = Callable[..., float]
WHOLE_SCORERS: dict[str, Scorer] = {"ratio": fuzz.ratio, "QRatio": fuzz.QRatio}
"""Scorers that compare two texts whole and in order; fit to be a reward."""


class PaysFor(NamedTuple):
    """What a scorer pays for that it should not.

    Attributes:
        scorer: The function.
        answer: A worthless answer.
        target: What it is compared with.
        score: What it is paid, of 100; measured with rapidfuzz 3.14.6.
        reason: Why.
    """

    scorer: Scorer
    answer: str
    target: str
    score: float
    reason: str


_MENU = "tiramisu, panna cotta, gelato with pistachio, cheese plate, lemon sorbet"
_PART = "it compares the shorter text with the part of the longer one that suits it best"
_ENOUGH = "one shared word is enough"
_SHARED = "words that only one of the texts has do not count"
UNFIT_SCORERS: dict[str, PaysFor] = {
    "partial_ratio": PaysFor(fuzz.partial_ratio, "e", _MENU, 100.0, _PART),
    "partial_token_ratio": PaysFor(
        fuzz.partial_token_ratio, "lemon lobster", "lemon sorbet", 100.0, _ENOUGH
    ),
    "partial_token_set_ratio": PaysFor(
        fuzz.partial_token_set_ratio, "lemon lobster", "lemon sorbet", 100.0, _ENOUGH
    ),
    "partial_token_sort_ratio": PaysFor(fuzz.partial_token_sort_ratio, "s", _MENU, 100.0, _PART),
    "token_ratio": PaysFor(fuzz.token_ratio, "with", _MENU, 100.0, _SHARED),
    "token_set_ratio": PaysFor(
        fuzz.token_set_ratio, "tiramisu is not on the menu", "tiramisu", 100.0, _SHARED
    ),
    "token_sort_ratio": PaysFor(
        fuzz.token_sort_ratio,
        "dog bites man",
        "man bites dog",
        100.0,
        "the order of the words does not count",
    ),
    "WRatio": PaysFor(
        fuzz.WRatio,
        "roasted lemon pigeon",
        "lemon sorbet",
        85.5,
        "it takes the best of several scorers, those of parts and of shared words among them",
    ),
}
"""Scorers that reward invention, each with a measured example."""


def scorer_named(name: str, *, force: bool = False) -> Scorer:
    """Return a scorer of `rapidfuzz.fuzz` by name.

    Args:
        name: E.g. "ratio".
        force: Take one of `UNFIT_SCORERS` all the same.

    Raises:
        UnknownNameError: if there is no such scorer.
        ConfigError: if the scorer rewards invention and is not forced.
    """
    if name in WHOLE_SCORERS:
        return WHOLE_SCORERS[name]
    if name not in UNFIT_SCORERS:
        raise UnknownNameError("scorer", name, [*WHOLE_SCORERS, *UNFIT_SCORERS])
    example = UNFIT_SCORERS[name]
    if not force:
        raise ConfigError(
            f"the scorer {name!r} cannot be a reward: it pays {example.score:g} of 100 for "
            f"{example.answer!r} against {example.target!r}, because {example.reason}; use "
            "'ratio', or pass force=True if you want to see it gamed"
        )
    return example.scorer
