"""ROUGE: overlap of an answer with a reference text.

Lin, "ROUGE: A Package for Automatic Evaluation of Summaries" (ACL workshop, 2004).
"""

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, get_args

from rapidfuzz.distance import LCSseq

from textenvs.errors import RewardError, UnknownNameError
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.rewards.classic.words import ngrams, words_of
from textenvs.types import Episode, Prompt

RougeKind = Literal["rouge-1", "rouge-2", "rouge-l"]
WORDS_READ = 8192
"""Words past this many are counted but not compared, so that the cost is bounded."""


class Rouge(BaseReward):
    """The F-measure of ROUGE against the prompt's reference, in [0, 1]; empty answers get 0.

    - `"rouge-1"`, `"rouge-2"`: common words, pairs of words, each counted as often as it
      stands in both.
    - `"rouge-l"`: the longest common subsequence of words.

    Words are those of `textenvs.rewards.classic.words.words_of`, without stemming; on ASCII text
    the figures are those of the package `rouge-score` 0.1.2.
    """

    def __init__(self, kind: RougeKind = "rouge-l") -> None:
        """Choose the measure.

        Raises:
            UnknownNameError: if the measure is unknown.
        """
        if kind not in get_args(RougeKind):
            raise UnknownNameError("ROUGE measure", kind, get_args(RougeKind))
        self.kind = kind
        self.name = kind.replace("-", "_")

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch.

        Raises:
            RewardError: if a prompt has no reference.
        """
        scores = [rouge(e.completion, reference_of(e.prompt), self.kind) for e in episodes]
        return RewardResult.from_scores(self.name, scores)

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return (0, 1)."""
        return (0.0, 1.0)


def reference_of(prompt: Prompt) -> str:
    """Return the reference of a prompt.

    Raises:
        RewardError: if it has none.
    """
    if prompt.reference is None:
        raise RewardError(
            f"the prompt {prompt.id!r} has no reference to compare with; give it one, or choose "
            "a reward that needs none"
        )
    return prompt.reference


def rouge(answer: str, reference: str, kind: RougeKind = "rouge-l") -> float:
    """Return the ROUGE F-measure of an answer against a reference, in [0, 1].

    F = 2 * overlap / (size of the answer + size of the reference), which is the harmonic
    mean of precision and recall.
    """
    words = words_of(answer)
    if kind == "rouge-l":
        expected: Sequence[object] = _words(reference)
        got: Sequence[object] = words
        overlap = LCSseq.similarity(words[:WORDS_READ], list(expected[:WORDS_READ]))
    else:
        n = int(kind[-1])
        expected, got = ngrams(list(_words(reference)), n), ngrams(words, n)
        overlap = (Counter(expected) & Counter(got)).total()
    return 2.0 * overlap / (len(got) + len(expected)) if overlap else 0.0


@lru_cache(maxsize=8192)
def _words(reference: str) -> tuple[str, ...]:
    return tuple(words_of(reference))
