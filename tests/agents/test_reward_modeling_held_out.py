"""Held-out accuracy, the length ruler, calibration and intervals, with numbers worked by hand."""

import sys
from pathlib import Path

import numpy as np
import pytest

from agents.evaluation import bootstrap_mean, clustered_mean
from agents.preferences import Ranking
from agents.reward_modeling.calibration import calibrate, plot_calibration
from agents.reward_modeling.held_out import (
    MEAN,
    LengthRuler,
    judge_reward_models,
    pair_margins,
    refuse_shared_groups,
)
from textenvs.errors import ConfigError, MissingDependencyError
from textenvs.rewards.learned.model import RewardModel

LONGER = [Ranking(f"p{i}", ("good one", "bad", "no"), (0, 1, 1), f"g{i}") for i in range(4)]
SHORTER = [Ranking(f"q{i}", ("ok", "far too long"), (0, 2), f"h{i}") for i in range(3)]


class Lookup(RewardModel):
    """A reward model whose logits are known: those of its table, on a scale of its own."""

    def __init__(self, table: dict[str, float], *, mean: float = 0.0, std: float = 1.0) -> None:
        """Keep a logit for each answer."""
        self.table, self.mean, self.std = table, mean, std

    def raw_scores(self, samples: object) -> np.ndarray:
        """Return what the table says of each answer."""
        return np.array([self.table[answer] for _, answer in samples])  # type: ignore[attr-defined]


def test_margins_are_of_pairs_without_ties() -> None:
    pairs = pair_margins([np.array([3.0, 1.0, 2.0])] * 4, LONGER)
    assert pairs.margins.tolist() == [2.0, 1.0] * 4
    assert pairs.prompts.tolist() == [0, 0, 1, 1, 2, 2, 3, 3]
    twice = pair_margins([np.array([1.0, 1.0])] * 2, [SHORTER[0], SHORTER[0]])
    assert twice.right.tolist() == [0.5, 0.5] and twice.prompts.tolist() == [0, 0]


def test_the_ruler_is_chosen_on_training_data() -> None:
    assert LengthRuler.fitted(LONGER).longer_is_better
    assert not LengthRuler.fitted(SHORTER).longer_is_better
    assert LengthRuler.fitted(SHORTER).words == "shorter is better"
    # Fitted on the wrong kind, it is wrong in every pair: it never sees the held-out ones.
    report = judge_reward_models({"rm": Lookup({"ok": 1, "far too long": 0})}, SHORTER, LONGER)
    assert report.ruler_accuracy.mean == 0 and report.judged["rm"].accuracy.mean == 1
    assert report.judged["rm"].over_ruler == (1.0, 1.0, 1.0)
    assert (report.prompts, report.pairs) == (3, 3)


def test_several_models_and_their_mean() -> None:
    """Each is wrong about another answer; on one scale their mean is right about both."""
    rankings = [Ranking(f"p{i}", ("a", "b", "c"), (0, 1, 1), f"g{i}") for i in range(2)]
    first = Lookup({"a": 10, "b": 12, "c": 0}, mean=10, std=2)
    second = Lookup({"a": 0.0, "b": -2.0, "c": 0.5})
    report = judge_reward_models({"one": first, "two": second}, rankings, SHORTER)
    assert list(report.judged) == ["one", "two", MEAN]
    assert report.judged["one"].accuracy.mean == report.judged["two"].accuracy.mean == 0.5
    assert report.judged[MEAN].accuracy.mean == 1.0
    # (0, 1, -5) and (0, -2, 0.5) give means 0, -0.5, -2.25, times the mean scale 1.5.
    margins = pair_margins([1.5 * np.array([0, -0.5, -2.25])] * 2, rankings).margins
    assert report.judged[MEAN].calibration == calibrate(margins)
    assert report.metrics()["one"]["length_ruler"] == (0.5, 0.5, 0.5)


def test_a_group_may_not_be_on_both_sides() -> None:
    with pytest.raises(ConfigError, match="1 of 3 held-out rankings.*e.g. 'G0'.*held-out-share"):
        refuse_shared_groups(LONGER, [*SHORTER[:2], Ranking("new", ("a", "b"), (0, 1), "G0")])
    with pytest.raises(ConfigError, match="no held-out rankings"):
        judge_reward_models({}, [], LONGER)


def test_the_interval_is_over_prompts() -> None:
    """Pairs of a prompt that are right or wrong together tell as little as one of them."""
    right = np.repeat(np.random.default_rng(0).integers(2, size=60), 10).astype(float)
    prompts = np.repeat(np.arange(60), 10)
    over_prompts, over_pairs = clustered_mean(right, prompts), bootstrap_mean(right)
    assert over_prompts.mean == over_pairs.mean
    widths = [interval.high - interval.low for interval in (over_prompts, over_pairs)]
    assert widths[0] == pytest.approx(np.sqrt(10) * widths[1], rel=0.15)
    apart = clustered_mean(right, np.arange(len(right)))
    assert apart.low == pytest.approx(over_pairs.low, abs=0.02)
    assert clustered_mean(right, prompts, seed=3) == clustered_mean(right, prompts, seed=3)
    assert clustered_mean(right[:10], prompts[:10]).low == right[0]


def test_the_mean_weighs_prompts_by_their_pairs() -> None:
    values, prompts = np.array([1.0, 1.0, 1.0, 0.0]), np.array([0, 0, 0, 1])
    found = clustered_mean(values, prompts)
    assert found.mean == 0.75 and (found.low, found.high) == (0.0, 1.0)


def test_calibration_by_hand() -> None:
    """Four pairs at 0.8, three of them right; one at 0.5 that counts half."""
    margin = np.log(0.8 / 0.2)
    found = calibrate(np.array([margin, margin, margin, -margin, 0.0]), bins=5)
    unsure, sure = found.bins
    assert (unsure.low, unsure.high, unsure.pairs) == (0.5, 0.6, 1)
    assert (unsure.predicted, unsure.observed) == (0.5, 0.5)
    assert (sure.pairs, sure.observed) == (4, 0.75) and sure.predicted == pytest.approx(0.8)
    assert found.error == pytest.approx(0.8 * 0.05)
    certain = calibrate(np.array([1e4, 1e4, -1e4, -1e4]))
    assert certain.error == pytest.approx(0.5)
    assert certain.bins[0].high == 1.0
    with pytest.raises(ConfigError, match="at least one pair and one bin, got 0"):
        calibrate(np.zeros(0))


def test_margins_drawn_from_the_model_are_calibrated() -> None:
    rng = np.random.default_rng(0)
    difference = rng.normal(0, 2, 20_000)
    first_wins = rng.random(20_000) < 1 / (1 + np.exp(-difference))
    margins = np.where(first_wins, difference, -difference)
    assert calibrate(margins).error < 0.02
    assert calibrate(3 * margins).error > 0.05  # three times too sure


def test_the_plot_is_the_same_for_the_same_data(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    table = calibrate(np.random.default_rng(0).normal(1, 2, 200))
    for name in ("a.svg", "b.svg", "c.png"):
        plot_calibration({"seed <0>": table}, tmp_path / name)
    picture = (tmp_path / "a.svg").read_bytes()
    assert picture == (tmp_path / "b.svg").read_bytes() and b"seed &lt;0&gt;" in picture
    assert (tmp_path / "c.png").stat().st_size > 1000


def test_without_matplotlib_the_command_to_install_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingDependencyError, match="matplotlib.*pip install"):
        plot_calibration({}, tmp_path / "a.svg")
