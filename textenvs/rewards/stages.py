"""`Staged`: a goal taken apart into stages, each asked only of who passed the one before."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from textenvs.errors import ConfigError, RewardError
from textenvs.rewards.base import BaseReward, checked_result
from textenvs.rewards.functions import as_base_reward
from textenvs.rewards.options import is_finite
from textenvs.rewards.results import RewardResult, Term, merged_terms
from textenvs.types import Episode, Prompt


class Staged(BaseReward):
    """Rewards in stages: first the format, then the grounding, then the quality.

    Stage i has a reward r_i with the lower bound l_i, a threshold t_i and a weight w_i. An
    answer goes through the stages in order; one that fails a stage is not asked the later
    ones, so that a costly reward at the end is spared. It is paid

        w_1 + ... + w_k  +  w_(k+1) * f

    where k is the number of stages it passed, r_i >= t_i, and f in [0, 1] tells how far it
    got in the next: f = (r - l) / (t - l), which is 0 at the reward's lower bound and 1 at
    the threshold. The last stage may have None for a threshold: then its upper bound takes
    the threshold's place, and it pays by degrees all the way up.

    So the total is within [0, sum of the weights]; passing one stage more never pays less,
    whatever the scores; there is no jump at a threshold to hug; and what a reward says above
    its threshold earns nothing, so that nobody polishes the format instead of going on.

    A term called after the staged reward and the stage's, "staged:NAME", holds what a stage
    pays before its weight, in [0, 1]. The terms of the stages' own rewards are logged with
    the weight 0. Of a stage that was not reached they are all "gated". Where a stage could
    not score, the answer has no total. It is all paid with the last token.
    """

    def __init__(
        self,
        stages: Sequence[tuple[Any, float | None]],
        *,
        weights: Sequence[float] | None = None,
        name: str = "staged",
    ) -> None:
        """Choose the stages.

        Args:
            stages: (reward or function, threshold), in the order in which they are asked; a
                threshold in the reward's own unit, above its lower bound and at most its
                upper bound. Each reward needs a finite lower bound: `clip` gives it one.
            weights: What passing a stage pays, above 0; by default all the same, 1 in all.
            name: Of the reward, and the beginning of its terms' names.

        Raises:
            ConfigError: if there is no stage, a number is not finite, or names clash.
        """
        if not stages:
            raise ConfigError("a staged reward needs at least one (reward, threshold)")
        self.rewards = tuple(as_base_reward(reward) for reward, _ in stages)
        self.thresholds = tuple(
            _checked_threshold(threshold, last=i == len(stages) - 1)
            for i, (_, threshold) in enumerate(stages)
        )
        shares = [1.0 / len(stages)] * len(stages) if weights is None else list(weights)
        if len(shares) != len(stages) or not all(is_finite(w) and w > 0 for w in shares):
            raise ConfigError(
                f"weights must be {len(stages)} numbers above 0, one a stage, got {weights!r}"
            )
        self.weights = tuple(map(float, shares))
        self.name = name
        names = [term for reward in self.rewards for term in reward.term_weights()]
        names += [self._pay_name(reward) for reward in self.rewards]
        for term in names:
            if names.count(term) > 1:
                raise ConfigError(
                    f"two terms of the stages are called {term!r}; give one of the rewards "
                    "another name (name=), so that the log can tell them apart"
                )

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch, each stage with those who reached it.

        Raises:
            RewardError: if a reward has no finite lower bound, or a threshold lies outside
                its bounds.
        """
        count = len(episodes)
        scores = np.zeros(count)
        rows = list(range(count))
        stages: list[dict[str, Term]] = []
        for reward, threshold, weight in zip(
            self.rewards, self.thresholds, self.weights, strict=True
        ):
            terms, pay = self._stage(reward, threshold, [episodes[row] for row in rows])
            scores[rows] += weight * pay
            terms = {**terms, self._pay_name(reward): Term.of(pay, weight)}
            stages.append({name: term.scattered(rows, count) for name, term in terms.items()})
            rows = [row for row, share in zip(rows, pay.tolist(), strict=True) if share == 1.0]
        return RewardResult(scores, merged_terms(self.name, stages))

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return (0, sum of the weights)."""
        total = 0.0
        for weight in self.weights:  # in the order of scoring, so that rounding is the same
            total += weight
        return (0.0, total)

    @property
    def inner(self) -> tuple[BaseReward, ...]:
        """The rewards of the stages."""
        return self.rewards

    def term_weights(self) -> dict[str, float]:
        """Return what the stages pay, and the terms of their rewards with the weight 0."""
        weights: dict[str, float] = {}
        for reward, weight in zip(self.rewards, self.weights, strict=True):
            weights.update(dict.fromkeys(reward.term_weights(), 0.0))
            weights[self._pay_name(reward)] = weight
        return weights

    def _pay_name(self, reward: BaseReward) -> str:
        return f"{self.name}:{reward.name}"

    def _stage(
        self, reward: BaseReward, threshold: float | None, episodes: Sequence[Episode]
    ) -> tuple[dict[str, Term], np.ndarray]:
        """Return the terms of one stage's reward, without weight, and float64 [N], its pay.

        Args:
            reward: Of the stage; not asked where nobody reached it.
            threshold: Of the stage.
            episodes: Those who reached it.
        """
        if not episodes:
            none = Term(np.zeros(0), 0.0, ())
            return dict.fromkeys(reward.term_weights(), none), np.zeros(0)
        found = checked_result(reward, episodes)
        ends = np.array([_ends(reward, threshold, episode.prompt) for episode in episodes])
        low, top = ends.T
        pay = np.clip((found.scores - low) / (top - low), 0.0, 1.0)
        # Rounding may bring what is just below the threshold to 1, and it has not passed.
        pay[(pay == 1.0) & (found.scores < top)] = np.nextafter(1.0, 0.0)
        return dict(found.scaled(0.0).terms), pay


def _ends(reward: BaseReward, threshold: float | None, prompt: Prompt) -> tuple[float, float]:
    """Return where a stage begins to pay and where it is passed."""
    low, high = reward.bounds(prompt)
    top = high if threshold is None else threshold
    if not (math.isfinite(low) and math.isfinite(top)):
        raise RewardError(
            f"the stage {reward.name!r} has the bounds [{low:g}, {high:g}], so that nobody can "
            "say how far an answer got; give it finite ones, such as reward.clip(-3, 3)"
        )
    if not low < top <= high:
        raise RewardError(
            f"the threshold of the stage {reward.name!r} is {top:g}, but its bounds for the prompt "
            f"{prompt.id!r} are [{low:g}, {high:g}]; it must be above the lower one, and at most "
            "the upper one"
        )
    return low, top


def _checked_threshold(threshold: Any, *, last: bool) -> float | None:
    if threshold is None and last:
        return None
    if not is_finite(threshold):
        raise ConfigError(
            f"a threshold must be a finite number (or None, in the last stage), got {threshold!r}"
        )
    return float(threshold)
