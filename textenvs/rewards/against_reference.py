"""`AgainstReference`: a reward counted from what a right answer earns."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from textenvs.rewards.base import BaseReward, checked_result, label
from textenvs.rewards.classic.rouge import reference_of
from textenvs.rewards.functions import as_base_reward
from textenvs.rewards.results import RewardResult
from textenvs.types import Episode, Prompt


class AgainstReference(BaseReward):
    """A reward of the answer less the same reward of the prompt's reference.

    0 is then "as good as the reference" for every prompt, easy or hard, as in the
    summarisation and dialogue examples of trlx: a prompt whose answers all score high no
    longer looks like progress. The reward's terms are kept; a term of this one's own name
    holds what is taken away, and is paid with the last token.

    An empty answer is as bad as the reward within says. Nothing is harder to game than it
    was: only the zero moves.
    """

    def __init__(self, reward: Any, *, name: str | None = None) -> None:
        """Choose the reward.

        Args:
            reward: A reward or a function.
            name: Of the reward and its term; by default "against_reference(...)" of the
                reward's name.
        """
        self.reward = as_base_reward(reward)
        self.name = name or f"against_reference({label(self.reward)})"

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch, and its references.

        Raises:
            RewardError: if a prompt has no reference.
        """
        result = checked_result(self.reward, episodes)
        # A group of answers to one prompt has one reference: it is scored once.
        rows: dict[tuple[str, str], int] = {}
        right: list[Episode] = []
        places = []
        for episode in episodes:
            key = (episode.prompt.id, reference_of(episode.prompt))
            if key not in rows:
                rows[key] = len(right)
                right.append(Episode(episode.prompt, key[1]))
            places.append(rows[key])
        baseline = checked_result(self.reward, right).scores if right else np.zeros(0)
        return result.adjusted(self.name, result.scores - baseline[places])

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return the reward's range, both ways: the reference may earn the least or the most."""
        low, high = self.reward.bounds(prompt)
        return (low - high, high - low)

    @property
    def inner(self) -> tuple[BaseReward, ...]:
        """The reward that is compared."""
        return (self.reward,)

    def term_weights(self) -> dict[str, float]:
        """Return the reward's terms and this one's own."""
        return {**self.reward.term_weights(), self.name: 1.0}
