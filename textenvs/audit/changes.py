"""What a reward says of an answer before and after a change that should not pay.

Another writing of the same words, and the same answer said twice.
"""

import math
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from textenvs.prompts import normalise
from textenvs.rewards.base import Reward, checked_result
from textenvs.rewards.grounding.plain_text import visible
from textenvs.types import Episode, Prompt

TOLERANCE = 1e-6
"""Between two scores of one answer: a model may judge another batch a little differently."""
REPETITIONS = ("\n", " ", ", ")
"""What stands between an answer and itself said again."""


def scores_of(reward: Reward, prompt: Prompt, texts: Sequence[str]) -> np.ndarray:
    """Return what a reward says of texts in one batch, float64 [B]; NaN where not scored.

    Raises:
        RewardError: if the result is no result.
    """
    result = checked_result(reward, [Episode(prompt, text) for text in texts])
    return np.asarray(result.scores, np.float64)


def equal(first: float, second: float) -> bool:
    """Return whether two scores are the same; two that are not scored are."""
    if math.isnan(first) or math.isnan(second):
        return math.isnan(first) and math.isnan(second)
    return math.isclose(first, second, rel_tol=TOLERANCE, abs_tol=TOLERANCE)


class Change(NamedTuple):
    """What the reward says of an answer before and after a change.

    Attributes:
        kind: Of change: one of `VARIANTS`, or "twice".
        text: The answer.
        new: The changed answer.
        before: The score of the answer.
        after: The score of the changed answer.
    """

    kind: str
    text: str
    new: str
    before: float
    after: float

    @property
    def differs(self) -> bool:
        """Whether the change matters to the reward."""
        return not equal(self.before, self.after)

    @property
    def gains(self) -> bool:
        """Whether the changed answer scores more."""
        return self.differs and self.after > self.before

    @property
    def words(self) -> str:
        """The two scores in words."""
        how = "said twice" if self.kind == "twice" else f"with {self.kind}"
        return f"scores {self.before:g}, {how} {self.after:g} ({self.new!r:.60})"


VARIANTS: Mapping[str, Callable[[str], str]] = {
    "capitals": str.upper,
    "small letters": str.lower,
    "full width": lambda text: "".join(
        chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in text
    ),
    "more white space": lambda text: "\n".join(
        f" {line.replace(' ', '  ')} " for line in text.split("\n")
    ),
    "zero-width spaces": lambda text: "\n".join("\u200b".join(line) for line in text.split("\n")),
    "accents apart": lambda text: unicodedata.normalize("NFD", text),
}
"""Ways to write the same words; line breaks, which may part items, stay."""


def variants(text: str, kinds: Sequence[str] = tuple(VARIANTS)) -> dict[str, str]:
    """Return other writings of an answer, by kind: those with the same normal form."""
    made = {kind: VARIANTS[kind](text) for kind in kinds}
    key = normalise(text)
    return {kind: new for kind, new in made.items() if new != text and normalise(new) == key}


def rewritings(
    reward: Reward, prompt: Prompt, texts: Sequence[str], kinds: Sequence[str] = tuple(VARIANTS)
) -> list[Change]:
    """Return what the reward says of answers and of their other writings."""
    pairs = [(kind, text, new) for text in texts for kind, new in variants(text, kinds).items()]
    return _changes(reward, prompt, pairs)


def _changes(reward: Reward, prompt: Prompt, pairs: Sequence[tuple[str, str, str]]) -> list[Change]:
    """Score (kind, answer, changed answer) in two batches."""
    if not pairs:
        return []
    texts = list(dict.fromkeys(text for _, text, _ in pairs))
    before = dict(zip(texts, scores_of(reward, prompt, texts).tolist(), strict=True))
    after = scores_of(reward, prompt, [new for _, _, new in pairs]).tolist()
    return [Change(*pair, before[pair[1]], a) for pair, a in zip(pairs, after, strict=True)]


def repetitions(
    reward: Reward, prompt: Prompt, texts: Sequence[str], separators: Sequence[str] = REPETITIONS
) -> list[Change]:
    """Return what the reward says of answers said once and twice."""
    said = [text for text in texts if normalise(visible(text))]  # nothing is not said twice
    pairs = [("twice", text, f"{text}{sep}{text}") for text in said for sep in separators]
    return _changes(reward, prompt, pairs)
