"""Gathering rankings: what cannot be ranked is left out and counted, never lost in silence."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from agents.preferences.rankings import Ranking, RankingSet, places, ranking_fault
from textenvs.errors import NothingToRankError

EMPTY, REPEATED = "empty answers", "repeated answers"
CONTRADICTIONS = "contradicting preferences"


class RankingCollector:
    """Takes answers with their places, prompt by prompt, and gives a `RankingSet`.

    Attributes:
        counts: What was left out or merged so far -> how often.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.counts: Counter[str] = Counter()
        self._rankings: list[Ranking] = []

    def distinct(self, answers: Iterable[str]) -> list[str]:
        """Return the answers that can be ranked, each once, in order; count the others."""
        given = list(answers)
        visible = [text for text in given if text.strip()]
        kept = list(dict.fromkeys(visible))
        self.count(EMPTY, len(given) - len(visible))
        self.count(REPEATED, len(visible) - len(kept))
        return kept

    def add(
        self,
        prompt: str,
        answers: Sequence[str],
        ranks: Sequence[int],
        *,
        group: str,
        prompt_id: str = "",
    ) -> Ranking | None:
        """Take the answers to a prompt.

        Empty answers are dropped; a repeated answer is merged where its places agree, and
        dropped where they do not. What is then no ranking is counted.

        Args:
            prompt: The text that was answered.
            answers: K texts.
            ranks: The place of each, whole numbers of which the least is best; gaps are closed.
            group: The unit of splitting.
            prompt_id: Of the environment's prompt.

        Returns:
            The ranking, None where there is none.
        """
        kept = self.distinct(answers)
        given: dict[str, set[int]] = {text: set() for text in kept}
        for text, rank in zip(answers, ranks, strict=True):
            if text in given:
                given[text].add(rank)
        agreed = {text: found.pop() for text, found in given.items() if len(found) == 1}
        self.count(CONTRADICTIONS, len(kept) - len(agreed))
        texts, closed = tuple(agreed), places([-rank for rank in agreed.values()])
        fault = ranking_fault(texts, closed)
        if fault is not None:
            self.count(fault[0])
            return None
        ranking = Ranking(prompt, texts, closed, group, prompt_id)
        self._rankings.append(ranking)
        return ranking

    def finish(
        self,
        remedy: str,
        *,
        notes: Sequence[str] = (),
        measures: Mapping[str, float] | None = None,
    ) -> RankingSet:
        """Return what was collected.

        Args:
            remedy: What to do if it is nothing.
            notes: As in `RankingSet`.
            measures: As in `RankingSet`.

        Raises:
            NothingToRankError: if there is no ranking, with the counts and the remedy.
        """
        return ranking_set(self._rankings, self.counts, remedy, notes=notes, measures=measures)

    def count(self, what: str, times: int = 1) -> None:
        """Count what was left out or merged."""
        if times:
            self.counts[what] += times


def ranking_set(
    rankings: Sequence[Ranking],
    counts: Mapping[str, int],
    remedy: str,
    *,
    notes: Sequence[str] = (),
    measures: Mapping[str, float] | None = None,
) -> RankingSet:
    """Return rankings with what is known of them; see `RankingCollector.finish`."""
    if not rankings:
        found = ", ".join(f"{what}: {times}" for what, times in counts.items()) or "no row at all"
        raise NothingToRankError(f"nothing is left to rank ({found}); {remedy}")
    return RankingSet(tuple(rankings), dict(counts), tuple(notes), dict(measures or {}))
