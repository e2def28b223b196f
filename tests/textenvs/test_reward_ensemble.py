"""`Ensemble` and `Staged`: worked by hand, their bounds for any scores, who is asked."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenvs.errors import ConfigError, RewardError
from textenvs.rewards import Ensemble, FunctionReward, Gate, Staged, WeightedSum, reward
from textenvs.rewards.base import checked_result
from textenvs.types import Episode, Prompt

PROMPT = Prompt("p", "say something")
UNIT = (0.0, 1.0)


def episodes_of(*texts: str) -> list[Episode]:
    return [Episode(PROMPT, text) for text in texts]


def reader(name: str, column: int = 0, bounds: tuple[float, float] | None = UNIT) -> FunctionReward:
    """A reward that reads its score in the answer: "0.5 0.2", "-" for none."""

    def read(prompt: Prompt, completion: str) -> float | None:
        word = completion.split()[column]
        return None if word == "-" else float(word)

    return FunctionReward(read, name, bounds=bounds)


def ensemble(how: Any, n: int = 3, **options: Any) -> Ensemble:
    return Ensemble([reader(f"r{i}", i) for i in range(n)], how, **options)


@pytest.mark.parametrize(
    ("how", "lam", "expected"),
    [
        ("mean", 1.0, [0.5, 0.5]),
        ("min", 1.0, [0.5, 0.2]),
        ("mean-std", 1.0, [0.5, 0.5 - math.sqrt(0.06)]),
        ("mean-std", 0.5, [0.5, 0.5 - 0.5 * math.sqrt(0.06)]),
        ("mean-std", 0.0, [0.5, 0.5]),
    ],
)
def test_by_hand(how: str, lam: float, expected: list[float]) -> None:
    result = checked_result(ensemble(how, lam=lam), episodes_of("0.5 0.5 0.5", "0.2 0.5 0.8"))
    assert result.scores == pytest.approx(expected)
    terms = result.terms
    assert [terms[f"r{i}"].score[1] for i in range(3)] == [0.2, 0.5, 0.8]
    assert terms["ensemble:std"].score == pytest.approx([0.0, math.sqrt(0.06)])
    assert {name: term.weight for name, term in terms.items()} == ensemble(how).term_weights()
    assert sum(term.weight for term in terms.values()) == 1.0


def test_doubt_changes_who_is_best() -> None:
    """The negative control: the mean prefers what one of three overrates."""
    hacked, honest = "1.0 0.2 0.6", "0.6 0.5 0.6"
    for how, best in (("mean", hacked), ("min", honest), ("mean-std", honest)):
        scores = ensemble(how)(episodes_of(hacked, honest)).scores
        assert [hacked, honest][int(scores.argmax())] == best


@pytest.mark.parametrize(
    ("on_unscored", "expected"),
    [("unscored", [math.nan] * 2), ("leave_out", [0.3, math.nan]), (0.0, [0.2, 0.0])],
)
def test_members_that_cannot_score(on_unscored: Any, expected: list[float]) -> None:
    result = checked_result(
        ensemble("mean", on_unscored=on_unscored), episodes_of("0.2 0.4 -", "- - -")
    )
    assert result.scores == pytest.approx(expected, nan_ok=True)
    assert result.terms["r2"].status == ("unscored", "unscored")
    low, high = ensemble("min", on_unscored=-5.0).bounds(PROMPT)
    assert (low, high) == (-5.0, 1.0)


def test_within_other_rewards() -> None:
    total = 2.0 * ensemble("min") + reader("other", 0)
    result = checked_result(total, episodes_of("0.5 0.2 0.9"))
    assert result.scores == pytest.approx([2 * 0.2 + 0.5])
    gate = Gate(lambda prompt, completion: completion != "no", ensemble("mean"))
    shut = checked_result(gate, episodes_of("no"))
    assert shut.scores.tolist() == [0.0] and set(shut.terms) >= {"r0", "ensemble:std"}
    assert ensemble("mean")([]).scores.shape == (0,)


NUMBERS = st.one_of(st.none(), st.floats(-1.0, 1.0, width=16))


@given(
    rows=st.lists(st.lists(NUMBERS, min_size=3, max_size=3), min_size=1, max_size=5),
    how=st.sampled_from(["mean", "min", "mean-std"]),
    lam=st.sampled_from([0.0, 0.5, 1.0, 4.0]),
    on_unscored=st.sampled_from(["unscored", "leave_out", -2.0]),
)
def test_bounds_hold(
    rows: list[list[float | None]], how: Any, lam: float, on_unscored: Any
) -> None:
    members = [reader("a", 0, (-1, 1)), reader("b", 1, (-1, 1)), reader("c", 2, (-1, 2))]
    united = Ensemble(members, how, lam=lam, on_unscored=on_unscored)
    texts = [" ".join("-" if x is None else repr(x) for x in row) for row in rows]
    result = checked_result(united, episodes_of(*texts))
    low, high = united.bounds(PROMPT)
    scored = result.scores[~np.isnan(result.scores)]
    assert math.isfinite(low) and ((low <= scored) & (scored <= high)).all()
    for row, score in zip(rows, result.scores.tolist(), strict=True):
        assert not (None not in row and math.isnan(score))


def test_bounds_are_not_idle() -> None:
    """Corners come near the lower bound, and the best answer is at the upper one."""
    united = ensemble("mean-std", 6)
    corners = [" ".join(map(str, corner)) for corner in itertools.product((0, 1), repeat=6)]
    scores = united(episodes_of(*corners)).scores
    low, high = united.bounds(PROMPT)
    assert scores.min() == pytest.approx(low, abs=0.01) and scores.max() == high == 1.0
    free = Ensemble([reader("a", 0, None), reader("b", 1)], "mean-std")
    assert free.bounds(PROMPT) == (-math.inf, math.inf)


def test_bad_ensembles() -> None:
    for members, options, message in (
        ([reader("a")], {}, "at least 2 members, got 1"),
        ([reader("a"), reader("a")], {}, "two terms of the ensemble are called 'a'"),
        ([reader("a"), reader("ensemble")], {}, "called 'ensemble'"),
        ([reader("a"), reader("b")], {"how": "median"}, "how must be one of"),
        ([reader("a"), reader("b")], {"lam": -1}, "lam must be a number of at least 0"),
        ([reader("a"), reader("b")], {"on_unscored": "skip"}, "on_unscored must be"),
        ([reader("a"), 3], {}, "3 cannot be combined"),
    ):
        with pytest.raises(ConfigError, match=message):
            Ensemble(members, **options)


def stages(**options: Any) -> Staged:
    return Staged(
        [(reader("form"), 1.0), (reader("fact", 1), 0.5), (reader("style", 2), None)], **options
    )


@pytest.mark.parametrize(
    ("text", "units", "pays"),
    [
        ("0 1 1", 0.0, [0, None, None]),
        ("0.4 1 1", 0.4, [0.4, None, None]),
        ("1 0 1", 1.0, [1, 0, None]),
        ("1 0.25 1", 1.5, [1, 0.5, None]),
        ("1 0.5 0", 2.0, [1, 1, 0]),
        ("1 0.9 0.25", 2.25, [1, 1, 0.25]),
        ("1 1 1", 3.0, [1, 1, 1]),
    ],
)
def test_stages_by_hand(text: str, units: float, pays: list[float | None]) -> None:
    result = checked_result(stages(), episodes_of(text))
    assert result.scores == pytest.approx([units / 3])
    for name, pay in zip(("form", "fact", "style"), pays, strict=True):
        term = result.terms[f"staged:{name}"]
        assert term.status == (("gated",) if pay is None else ("scored",))
        assert term.score == pytest.approx([math.nan if pay is None else pay], nan_ok=True)
        assert result.terms[name].weight == 0.0
    assert stages(weights=[1, 1, 1])(episodes_of(text)).scores == pytest.approx([units])


def test_only_those_who_passed_are_asked() -> None:
    asked: list[str] = []

    @reward(bounds=(0, 1))
    def costly(episodes: Sequence[Episode]) -> list[float]:
        asked.extend(episode.completion for episode in episodes)
        return [1.0] * len(episodes)

    staged = Staged([(reader("form"), 0.5), (costly, None)])
    scores = staged(episodes_of("0.4", "0.5", "0.9", "0")).scores
    assert asked == ["0.5", "0.9"] and scores == pytest.approx([0.4, 1.0, 1.0, 0.0])
    asked.clear()
    assert checked_result(staged, episodes_of("0")).scores.tolist() == [0.0] and asked == []
    assert checked_result(staged, []).scores.shape == (0,)


def test_a_stage_that_cannot_score() -> None:
    result = checked_result(stages(), episodes_of("1 - 1", "1 1 1"))
    assert result.scores == pytest.approx([math.nan, 1.0], nan_ok=True)
    assert result.terms["staged:fact"].status == ("unscored", "scored")
    assert result.terms["style"].status == ("gated", "scored")


SHARES = st.one_of(st.sampled_from([0.0, 0.5, 1.0]), st.floats(0.0, 1.0))


@given(one=st.tuples(SHARES, SHARES, SHARES), other=st.tuples(SHARES, SHARES, SHARES))
def test_passing_more_never_pays_less(one: Sequence[float], other: Sequence[float]) -> None:
    """Whatever the scores; and the negative control: a weighted sum does pay less."""
    staged = stages(weights=[0.2, 0.5, 0.3])
    low, high = staged.bounds(PROMPT)
    result = checked_result(staged, episodes_of(*(" ".join(map(repr, x)) for x in (one, other))))
    passed = [_passed(scores) for scores in (one, other)]
    assert ((low <= result.scores) & (result.scores <= high)).all()
    if passed[0] < passed[1]:
        assert result.scores[0] <= result.scores[1]
    if passed[0] == 3:
        assert result.scores[0] == high


def _passed(scores: Sequence[float]) -> int:
    for count, (score, threshold) in enumerate(zip(scores, (1.0, 0.5, 1.0), strict=True)):
        if score < threshold:
            return count
    return len(scores)


def test_a_sum_does_not_keep_the_order() -> None:
    """The negative control of the property above."""
    total = WeightedSum(
        [(reader("form"), 0.2), (reader("fact", 1), 0.5), (reader("style", 2), 0.3)]
    )
    one, other = total(episodes_of("0.9 1 1", "1 0.5 0")).scores
    assert _passed([0.9, 1, 1]) < _passed([1, 0.5, 0]) and one > other


def test_bad_stages() -> None:
    for given_stages, options, message in (
        ([], {}, "at least one"),
        ([(reader("a"), None), (reader("b"), 1.0)], {}, "threshold must be a finite number"),
        ([(reader("a"), math.nan)], {}, "threshold must be a finite number"),
        ([(reader("a"), 1.0), (reader("a"), 1.0)], {}, "two terms of the stages are called 'a'"),
        ([(reader("a"), 1.0)], {"weights": [0.0]}, "weights must be 1 numbers above 0"),
        ([(reader("a"), 1.0)], {"weights": [1, 1]}, "weights must be 1 numbers above 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            Staged(given_stages, **options)
    for threshold in (0.0, 1.5):
        with pytest.raises(RewardError, match="must be above the lower one, and at most"):
            Staged([(reader("a"), threshold)])(episodes_of("1"))
    with pytest.raises(RewardError, match="give it finite ones, such as reward.clip"):
        Staged([(reader("a", bounds=None), 1.0)])(episodes_of("1"))
    clipped = Staged([(reader("a", bounds=None).clip(-3, 3), 0.0)])
    assert clipped(episodes_of("-3", "-1.5", "2")).scores == pytest.approx([0.0, 0.5, 1.0])
