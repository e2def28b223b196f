"""`Length`: an answer as long as was asked for."""

from collections.abc import Sequence
from typing import Literal, get_args

from textenvs.errors import ConfigError, UnknownNameError
from textenvs.prompts import normalise
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.rewards.classic.words import words_of
from textenvs.rewards.options import checked_count
from textenvs.types import Episode, Prompt

Unit = Literal["words", "characters", "tokens"]


class Length(BaseReward):
    """1 for a length within [low, high], less outside, in [0, 1]; an empty answer gets 0.

    The score is s(x) = x^2 (3 - 2x), smooth at both ends, with x = length / low below the
    range and x = 1 - (length - high) / fade above it, at least 0. So the score rises all the
    way from the empty answer, and is 0 again from high + fade on.

    It asks for nothing but length: any text of that length earns everything. It is for sums
    and gates, and a control that a better reward must beat.
    """

    name = "length"

    def __init__(
        self, low: int = 20, high: int = 100, *, unit: Unit = "words", fade: int | None = None
    ) -> None:
        """Choose the range.

        Args:
            low: The shortest length that earns everything, at least 1.
            high: The longest that does, at least `low`.
            unit: "words" (those of `words_of`) or "characters", both in the form of
                `textenvs.prompts.normalise`; or "tokens" that were acted, EOS left out. A
                text that was not generated has no tokens and is then not scored.
            fade: How much longer than `high` an answer that earns nothing is; None: `high`.

        Raises:
            ConfigError: if an end is out of range.
            UnknownNameError: if the unit is unknown.
        """
        self.low = checked_count("low", low, 20)
        self.high = checked_count("high", high, 100)
        if high < low:
            raise ConfigError(f"high must be at least low, got low={low} and high={high}")
        if unit not in get_args(Unit):
            raise UnknownNameError("unit of length", unit, get_args(Unit))
        self.unit = unit
        self.fade = self.high if fade is None else checked_count("fade", fade, high)

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        lengths = [length_of(episode, self.unit) for episode in episodes]
        scores = [None if length is None else self._score(length) for length in lengths]
        return RewardResult.from_scores(self.name, scores)

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return (0, 1)."""
        return (0.0, 1.0)

    def _score(self, length: int) -> float:
        x = min(1.0, length / self.low, 1.0 - (length - self.high) / self.fade)
        return x * x * (3.0 - 2.0 * x) if x > 0 else 0.0


def length_of(episode: Episode, unit: Unit = "words") -> int | None:
    """Return the length of an answer; None if it has text but its tokens are not known."""
    # So that zero-width characters neither count nor cut words, and white space counts once.
    text = normalise(episode.completion)
    if not text:
        return 0
    if unit == "tokens":
        ends = episode.finish_reason == "eos"
        return len(episode.completion_ids) - ends if episode.completion_ids else None
    return len(words_of(text)) if unit == "words" else len(text)
