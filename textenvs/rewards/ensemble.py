"""`Ensemble`: several rewards judge the same answer, and their doubt counts.

A policy finds what one reward model overrates; rarely do several overrate the same (Coste
et al., Reward Model Ensembles Help Mitigate Overoptimization, arXiv:2310.02743).
"""

import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from textenvs.errors import ConfigError
from textenvs.rewards.base import BaseReward, checked_result
from textenvs.rewards.functions import as_base_reward
from textenvs.rewards.options import is_finite
from textenvs.rewards.results import RewardResult, Term, merged_terms
from textenvs.types import Episode, Prompt

How = Literal["mean", "min", "mean-std"]
HOWS = ("mean", "min", "mean-std")
ROUNDING = 1e-9
UNSCORED_POLICIES = ("unscored", "leave_out")


class Ensemble(BaseReward):
    """The mean of several rewards, their least, or the mean less their disagreement.

    With the members' totals r_1 ... r_n of an answer, m their mean and s their standard
    deviation, s^2 = 1/n * sum_i (r_i - m)^2, the total is

    - "mean": m;
    - "min": the least r_i, called worst-case optimisation in the paper;
    - "mean-std": m - lam * s. The paper's uncertainty-weighted optimisation takes s^2; s has
      the unit of the reward, so that `lam` means the same at every scale.

    Every term of a member is logged with the weight 0; a term of the ensemble's own name
    holds the total, and one of its name followed by ":std" holds s, with the weight 0. It
    is all paid with the last token.

    The members should be on one scale, or the widest decides: `RewardModel(...,
    normalise=samples)` and `RunningNormalised` see to it.
    """

    def __init__(
        self,
        rewards: Sequence[Any],
        how: How = "mean",
        *,
        lam: float = 1.0,
        on_unscored: Literal["unscored", "leave_out"] | float = "unscored",
        name: str = "ensemble",
    ) -> None:
        """Choose the members and how they are united.

        Args:
            rewards: At least 2 rewards or functions; no two have a name or a term in common.
            how: See above.
            lam: How much a unit of disagreement costs under "mean-std", at least 0.
            on_unscored: Of an answer that a member could not score. "unscored": it has no
                total. "leave_out": the other members decide, and it has no total only where
                there are none. A number: that is the member's score.
            name: Of the reward and its term.

        Raises:
            ConfigError: if an option is out of range or names clash.
        """
        self.members = tuple(as_base_reward(reward) for reward in rewards)
        if len(self.members) < 2:
            raise ConfigError(f"an ensemble has at least 2 members, got {len(self.members)}")
        if how not in HOWS:
            raise ConfigError(f"how must be one of {', '.join(map(repr, HOWS))}, got {how!r}")
        if not is_finite(lam) or lam < 0:
            raise ConfigError(f"lam must be a number of at least 0, got {lam!r}; the default is 1")
        if on_unscored not in UNSCORED_POLICIES and not is_finite(on_unscored):
            raise ConfigError(
                f'on_unscored must be "unscored", "leave_out" or a finite number, got '
                f"{on_unscored!r}"
            )
        self.how: How = how
        self.lam, self.on_unscored, self.name = float(lam), on_unscored, name
        self._std_name = f"{name}:std"
        taken = [term for member in self.members for term in member.term_weights()]
        for term in (*taken, self.name, self._std_name):
            if (*taken, self.name, self._std_name).count(term) > 1:
                raise ConfigError(
                    f"two terms of the ensemble are called {term!r}; give one of the members "
                    "another name (name=), so that the log can tell them apart"
                )

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch with every member."""
        results = [checked_result(member, episodes) for member in self.members]
        totals = np.stack([result.scores for result in results])
        if not isinstance(self.on_unscored, str):
            totals = np.where(np.isnan(totals), float(self.on_unscored), totals)
        scores, std = np.full(len(episodes), math.nan), np.full(len(episodes), math.nan)
        for row in range(len(episodes)):
            column = totals[:, row]
            if self.on_unscored == "leave_out":
                column = column[~np.isnan(column)]
            if len(column) and not np.isnan(column).any():
                scores[row], std[row] = self._united(column), column.std()
        terms = merged_terms(self.name, [result.scaled(0.0).terms for result in results])
        own = {self.name: Term.of(scores.copy()), self._std_name: Term.of(std, 0.0)}
        return RewardResult(scores, {**terms, **own})

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return the least and the greatest total, from the members' bounds.

        Of numbers in [a, b] the least m - lam * s is a + (b - a) * (1 - sqrt(1 + lam^2)) / 2:
        the share p of them at b gives a + (b - a) * (p - lam * sqrt(p * (1 - p))).
        """
        ends = [member.bounds(prompt) for member in self.members]
        if not isinstance(self.on_unscored, str):
            stated = float(self.on_unscored)
            ends = [(min(low, stated), max(high, stated)) for low, high in ends]
        lows, highs = (np.array(side) for side in zip(*ends, strict=True))
        least, most = float(lows.min()), float(highs.max())
        if self.on_unscored == "leave_out":  # any of them may decide alone
            lows, highs = np.full(len(lows), least), np.full(len(highs), most)
        if self.how == "min":
            return (least, float(highs.min()))
        if self.how == "mean":
            return (self._mean(lows), self._mean(highs))
        if not math.isfinite(most - least):
            return (-math.inf if self.lam else self._mean(lows), self._mean(highs))
        worst = least + (most - least) * (1.0 - math.sqrt(1.0 + self.lam**2)) / 2.0
        return (worst - ROUNDING * max(1.0, abs(worst)), self._mean(highs))

    @property
    def inner(self) -> tuple[BaseReward, ...]:
        """The members."""
        return self.members

    def term_weights(self) -> dict[str, float]:
        """Return the members' terms with the weight 0, the ensemble's own, and its spread."""
        weights = {term: 0.0 for member in self.members for term in member.term_weights()}
        return {**weights, self.name: 1.0, self._std_name: 0.0}

    def _united(self, totals: np.ndarray) -> float:
        """Return the total of what the members say, float64 [n], of one answer."""
        if self.how == "min":
            return float(totals.min())
        if self.how == "mean":
            return self._mean(totals)
        return self._mean(totals) - self.lam * float(totals.std())

    @staticmethod
    def _mean(totals: np.ndarray) -> float:
        # Of equal numbers the rounded mean may lie beside them, and so outside the bounds.
        return float(np.clip(totals.mean(), totals.min(), totals.max()))
