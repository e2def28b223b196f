"""BLEU and chrF: overlap of an answer with reference texts, as machine translation counts it.

BLEU: Papineni et al. (ACL 2002), its sentence form as sacreBLEU computes it (Post,
arXiv:1804.08771). chrF: Popovic (WMT 2015); chrF++: Popovic (WMT 2017).
"""

import importlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal, get_args

from textenvs.errors import UnknownNameError
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.rewards.learned.similarity import references_of
from textenvs.rewards.optional import require_package
from textenvs.types import Episode, Prompt

BleuKind = Literal["bleu", "chrf", "chrf++"]
LONGEST = 20_000
"""An answer of more characters than this gets 0 unread, so that the cost is bounded."""


class Bleu(BaseReward):
    """BLEU or chrF against the prompt's references, in [0, 1]; an empty answer gets 0.

    - `"bleu"`: precision of runs of one to four words times a penalty for brevity; sacreBLEU's
      exponential smoothing, and only as many word lengths as the answer has.
    - `"chrf"`: F2 of runs of one to six characters, so that an inflected word counts in part.
    - `"chrf++"`: the same with words and pairs of words.

    The references are `metadata["references"]`, or else the prompt's reference. Needs the
    package `sacrebleu`, whose figures these are, over 100. An answer of more than 20,000
    characters gets 0.
    """

    def __init__(self, kind: BleuKind = "bleu") -> None:
        """Choose the measure.

        Raises:
            UnknownNameError: if the measure is unknown.
            MissingDependencyError: if `sacrebleu` is absent.
        """
        if kind not in get_args(BleuKind):
            raise UnknownNameError("BLEU measure", kind, get_args(BleuKind))
        require_package("sacrebleu", f"the reward {kind!r}")
        self.kind, self.name = kind, kind

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch.

        Raises:
            RewardError: if a prompt has no reference.
        """
        scores = [bleu(e.completion, references_of(e.prompt), self.kind) for e in episodes]
        return RewardResult.from_scores(self.name, scores)

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return (0, 1)."""
        return (0.0, 1.0)


def bleu(answer: str, references: Sequence[str], kind: BleuKind = "bleu") -> float:
    """Return sacreBLEU's sentence score of an answer, over 100, in [0, 1].

    Args:
        answer: Anything; 0 if it is empty or over-long.
        references: Right answers, at least one.
        kind: The measure.

    Raises:
        MissingDependencyError: if `sacrebleu` is absent.
    """
    if not answer.strip() or len(answer) > LONGEST:
        return 0.0
    score = _metric(kind).sentence_score(answer, list(references)).score / 100.0
    return min(1.0, max(0.0, float(score)))  # a copy comes out at 100.00000000000004


@lru_cache(maxsize=3)
def _metric(kind: BleuKind) -> Any:
    require_package("sacrebleu", f"scoring {kind}")
    metrics = importlib.import_module("sacrebleu.metrics")
    if kind == "bleu":
        return metrics.BLEU(effective_order=True)
    return metrics.CHRF(word_order=2 if kind == "chrf++" else 0)
