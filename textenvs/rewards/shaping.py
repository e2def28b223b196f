"""`PotentialShaping`: hints along the way that leave the best answer the best."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from textenvs.errors import ConfigError, RewardError
from textenvs.rewards.base import BaseReward
from textenvs.rewards.results import RewardResult
from textenvs.tokenization import TextTokenizer, load_tokenizer
from textenvs.types import Episode, Prompt

Potential = Callable[[Prompt, Any], float]
"""From a prompt and the answer so far (token ids, or text where a tokenizer is given) to how
promising it is."""


class PotentialShaping(BaseReward):
    """Pay each token for the potential it adds (Ng, Harada and Russell, ICML 1999).

    The token that leads from the state s to s' is paid F = gamma * phi(s') - phi(s), where
    phi is 0 once the episode has ended. The discounted sum of F telescopes to -phi of the
    prompt alone, whatever the answer: added to any reward it changes how soon an agent
    learns, and not which policy is best.

    That holds for an agent that discounts by the same gamma and pays each token its share
    (`info["reward_per_token"]`; `agents.PPO` does). Where the whole score is paid with the
    last token, it holds for gamma = 1 only.
    """

    def __init__(
        self,
        potential: Potential,
        gamma: float = 1.0,
        *,
        tokenizer: Any = None,
        name: str = "shaping",
    ) -> None:
        """Choose the potential.

        Args:
            potential: A function of the prompt and the answer so far, EOS never included.
            gamma: The agent's discount, in [0, 1].
            tokenizer: Given (name, folder, object), the potential reads text; else a tuple
                of token ids.
            name: Of the reward and its term.

        Raises:
            ConfigError: if gamma is out of range.
        """
        if isinstance(gamma, bool) or not isinstance(gamma, (int, float)) or not 0 <= gamma <= 1:
            raise ConfigError(
                f"gamma must be between 0 and 1, got {gamma!r}; it is the agent's discount, "
                "by default 1"
            )
        self.potential, self.gamma, self.name = potential, float(gamma), name
        self.tokenizer: TextTokenizer | None = None
        if tokenizer is not None:
            self.tokenizer = load_tokenizer(tokenizer)

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch.

        Raises:
            RewardError: if the potential is no finite number, or a text without tokens is to
                be scored with a gamma below 1 and no tokenizer.
        """
        found = [self._score(episode) for episode in episodes]
        result = RewardResult.from_scores(self.name, [score for score, _ in found])
        return RewardResult(result.scores, result.terms, [row for _, row in found])

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return -phi of the prompt, twice, for gamma = 1; else nothing is known."""
        if self.gamma < 1:
            return (-math.inf, math.inf)
        score = -self._phi(prompt, ())
        return (score, score)

    def shares(self, prompt: Prompt, ids: Sequence[int]) -> np.ndarray:
        """Return F of each token of a whole answer, float64 [T].

        Args:
            prompt: The task.
            ids: Its T tokens; the last one ends the episode.
        """
        phi = np.array([self._phi(prompt, ids[:t]) for t in range(len(ids))] + [0.0])
        return self.gamma * phi[1:] - phi[:-1]

    def _score(self, episode: Episode) -> tuple[float, np.ndarray]:
        """Return the undiscounted sum of F, and F of each token of the episode."""
        prompt, ids = episode.prompt, tuple(episode.completion_ids)
        shares = self.shares(prompt, ids)
        if self.gamma == 1:
            return -self._phi(prompt, ()), shares
        if ids:
            return float(shares.sum()), shares
        if self.tokenizer is None:
            raise RewardError(
                f"the reward {self.name!r} with gamma={self.gamma:g} depends on the tokens, and "
                f"the text {episode.completion!r:.60} has none; pass tokenizer= to it"
            )
        said = [*self.tokenizer.encode_completion(episode.completion), self.tokenizer.eos_id]
        return float(self.shares(prompt, said).sum()), np.zeros(0)

    def _phi(self, prompt: Prompt, ids: Sequence[int]) -> float:
        state: Any = tuple(ids)
        if self.tokenizer is not None:
            state = self.tokenizer.decode(list(ids))
        value = self.potential(prompt, state)
        if isinstance(value, (int, float)) and math.isfinite(value):
            return float(value)
        raise RewardError(
            f"the potential of {self.name!r} is {value!r:.80} after {state!r:.60} for the prompt "
            f"{prompt.id!r}; it must be a finite number"
        )
