"""What a reward model says of rankings it has not seen, beside a ruler."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from agents.evaluation import Interval, clustered_mean
from agents.preferences.rankings import Ranking
from agents.reward_modeling.calibration import Calibration, calibrate
from textenvs.errors import ConfigError
from textenvs.prompts import normalise
from textenvs.rewards.learned.model import RewardModel

Scores = Sequence[np.ndarray]
"""For each ranking, float64 [K], the score of each answer."""
MEAN = "mean"
"""The name of an ensemble's mean in a report."""


@dataclass(frozen=True)
class PairMargins:
    """By how much the better answer of each pair scores higher.

    Attributes:
        margins: float64 [M]; above 0 is right.
        prompts: int64 [M], the prompt of each pair, for intervals over prompts.
    """

    margins: np.ndarray
    prompts: np.ndarray

    @property
    def right(self) -> np.ndarray:
        """Return float64 [M], 1 where the better answer scores higher, 0.5 where equal."""
        return 0.5 + 0.5 * np.sign(self.margins)


@dataclass(frozen=True)
class LengthRuler:
    """Prefers the longer answer, or the shorter one; what a reward model has to beat.

    Attributes:
        longer_is_better: Which of the two.
    """

    longer_is_better: bool

    @classmethod
    def fitted(cls, rankings: Sequence[Ranking]) -> "LengthRuler":
        """Return the ruler that is right more often on training data, the longer on a draw."""
        right = pair_margins(cls(True).scores(rankings), rankings).right
        return cls(bool(right.mean() >= 0.5))

    @property
    def words(self) -> str:
        """Say what it does."""
        return "longer is better" if self.longer_is_better else "shorter is better"

    def scores(self, rankings: Sequence[Ranking]) -> list[np.ndarray]:
        """Return the length of each answer in characters, negative if shorter is better."""
        sign = 1.0 if self.longer_is_better else -1.0
        return [np.array([sign * len(text) for text in r.answers]) for r in rankings]


@dataclass(frozen=True)
class Judged:
    """What one reward model is worth on held-out rankings.

    Attributes:
        accuracy: Share of pairs whose better answer scores higher, interval over prompts.
        over_ruler: The same less the accuracy of the length ruler, pair by pair.
        calibration: Predicted probabilities against what was seen.
    """

    accuracy: Interval
    over_ruler: Interval
    calibration: Calibration


@dataclass(frozen=True)
class HeldOutReport:
    """What reward models are worth on held-out rankings.

    Attributes:
        prompts: Prompts that were judged.
        pairs: Pairs, ties left out.
        ruler: Fitted on the training rankings.
        ruler_accuracy: Of the ruler.
        judged: Name -> what a model is worth; of several models, their mean comes last.
    """

    prompts: int
    pairs: int
    ruler: LengthRuler
    ruler_accuracy: Interval
    judged: Mapping[str, Judged]

    def metrics(self) -> dict[str, dict[str, Interval | float]]:
        """Return name -> metric -> value, as tables, cards and manifests hold them."""
        return {
            name: {
                "pair_accuracy": found.accuracy,
                "length_ruler": self.ruler_accuracy,
                "over_ruler": found.over_ruler,
                "calibration_error": found.calibration.error,
            }
            for name, found in self.judged.items()
        }


def judge_reward_models(
    rewards: Mapping[str, RewardModel],
    held_out: Sequence[Ranking],
    train: Sequence[Ranking],
    *,
    seed: int = 0,
) -> HeldOutReport:
    """Measure reward models on rankings whose groups they have not seen.

    A score is what `RewardModel` reads; probabilities are sigmoids of differences of the
    models' own logits, which is what the ranking loss trains, not of normalised scores. The
    mean of several is that of their normalised scores, as `textenvs.rewards.Ensemble`
    pays it; for its probabilities it is brought back to the members' mean scale.

    Args:
        rewards: Name -> model; at least one.
        held_out: Rankings to judge.
        train: What the models learned from; the ruler is fitted there.
        seed: Of the bootstrap.

    Raises:
        ConfigError: if there is nothing to judge, or a group is in both.
    """
    refuse_shared_groups(train, held_out)
    ruler = LengthRuler.fitted(train)
    ruled = pair_margins(ruler.scores(held_out), held_out)
    logits = {name: answer_logits(reward, held_out) for name, reward in rewards.items()}
    if len(rewards) > 1:
        logits[MEAN] = _mean_logits(rewards, logits)
    judged = {}
    for name, scores in logits.items():
        pairs = pair_margins(scores, held_out)
        judged[name] = Judged(
            clustered_mean(pairs.right, pairs.prompts, seed=seed),
            clustered_mean(pairs.right - ruled.right, pairs.prompts, seed=seed),
            calibrate(pairs.margins),
        )
    accuracy = clustered_mean(ruled.right, ruled.prompts, seed=seed)
    prompts = len(set(ruled.prompts.tolist()))
    return HeldOutReport(prompts, len(ruled.margins), ruler, accuracy, judged)


def refuse_shared_groups(train: Sequence[Ranking], held_out: Sequence[Ranking]) -> None:
    """Refuse held-out rankings that are none, or are not held out.

    Raises:
        ConfigError: if there are none, or a group is in both.
    """
    if not held_out:
        raise ConfigError("no held-out rankings to judge a reward model on; hold some out")
    known = {normalise(ranking.group) for ranking in train}
    shared = [r.group for r in held_out if normalise(r.group) in known]
    if shared:
        raise ConfigError(
            f"{len(shared)} of {len(held_out)} held-out rankings have a group that is trained on "
            f"as well, e.g. {shared[0]!r:.60}; take them out of one of the two files, or let "
            "--held-out-share split one file by group"
        )


def answer_logits(reward: RewardModel, rankings: Sequence[Ranking]) -> list[np.ndarray]:
    """Return the model's own output for each answer, before its scale is applied."""
    samples = [(r.prompt, answer) for r in rankings for answer in r.answers]
    ends = np.cumsum([len(r.answers) for r in rankings])[:-1]
    return list(np.split(reward.raw_scores(samples), ends))


def pair_margins(scores: Scores, rankings: Sequence[Ranking]) -> PairMargins:
    """Return by how much the better answer of each pair scores higher; ties make no pair.

    Args:
        scores: Of each answer of each ranking.
        rankings: N of them; the same prompt may stand in several.
    """
    number: dict[str, int] = {}
    margins, prompts = [], []
    for own, ranking in zip(scores, rankings, strict=True):
        prompt = number.setdefault(ranking.prompt, len(number))
        for i, j in permutations(range(len(ranking.ranks)), 2):
            if ranking.ranks[i] < ranking.ranks[j]:
                margins.append(float(own[i] - own[j]))
                prompts.append(prompt)
    return PairMargins(np.array(margins), np.array(prompts, np.int64))


def _mean_logits(
    rewards: Mapping[str, RewardModel], logits: Mapping[str, Scores]
) -> list[np.ndarray]:
    scale = float(np.mean([reward.std for reward in rewards.values()]))
    normalised = [
        [(scores - reward.mean) / reward.std for scores in logits[name]]
        for name, reward in rewards.items()
    ]
    return [scale * np.mean(members, axis=0) for members in zip(*normalised, strict=True)]
