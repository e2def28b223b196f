"""Statistics of rankings against numbers worked by hand, and the warning about length."""

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console
from scipy import stats

from agents.evaluation import clustered_mean
from agents.preferences import (
    Ranking,
    RankingSet,
    agreement,
    oracle_notes,
    remarks,
    statistics,
    statistics_table,
)
from textenvs.errors import ConfigError
from textenvs.types import Prompt

HAND = [
    Ranking("p", ("aaaa", "bb", "cc"), (0, 1, 2), "g"),
    Ranking("q", ("a", "bb", "ccc", "d"), (0, 1, 1, 2), "g"),
    Ranking("r", ("aa", "bb"), (1, 0), "h"),
]


def test_against_numbers_worked_by_hand() -> None:
    told = statistics(HAND)
    assert (told["prompts"], told["groups"], told["answers"]) == (3, 2, 9)
    assert (told["pairs"], told["tied pairs"]) == (3 + 5 + 1, 1)
    assert told["answers a ranking"] == 3.0
    # p: 1, 1, 1/2. q: a<bb 0, a<ccc 0, a=d 1/2, bb>d 1, ccc>d 1. r: 1/2.
    longer: Any = told["longer is chosen"]
    assert longer.mean == pytest.approx((2.5 + 2.5 + 0.5) / 9)
    assert longer.low <= longer.mean <= longer.high
    assert told["length ruler"] == pytest.approx(5.5 / 9)
    assert told["chosen length"] == pytest.approx((4 + 4 + 2 + 1 + 1 + 1 + 2 + 3 + 2) / 9)
    assert told["rejected length"] == pytest.approx((2 + 2 + 2 + 2 + 3 + 1 + 1 + 1 + 2) / 9)
    by_scipy = [stats.spearmanr([0, -1, -2], [4, 2, 2])[0]]
    by_scipy.append(stats.spearmanr([0, -1, -1, -2], [1, 2, 3, 1])[0])
    correlation: Any = told["rank-length correlation"]
    assert correlation.mean == pytest.approx(np.mean(by_scipy)), "equal lengths tell nothing"
    assert "gold pairs" not in told


def test_same_lengths_have_no_correlation() -> None:
    told = statistics(HAND[2:])
    assert "rank-length correlation" not in told and told["longer is chosen"] == (0.5, 0.5, 0.5)
    with pytest.raises(ConfigError, match="no ranking to describe"):
        statistics([])


def test_agreement_with_scores() -> None:
    def gold(ranking: Ranking) -> list[float] | None:
        known = {"p": [3.0, float("nan"), 1.0], "q": [5.0, 6.0, 5.0, 0.0]}
        return known.get(ranking.prompt)

    count, agreed = agreement(HAND, gold)
    # p: a>c yes. q: a>bb no, a=ccc -, a>d yes, bb>d yes, ccc>d yes. r: unknown.
    assert count == 5 and agreed is not None and agreed.mean == pytest.approx(4 / 5)
    assert agreement(HAND[2:], gold) == (0, None)
    told = statistics(HAND[2:], gold=gold)
    assert told["gold pairs"] == 0 and "gold agreement" not in told


def test_agreement_with_second_rankings() -> None:
    reverse = [
        Ranking(r.prompt, r.answers, tuple(max(r.ranks) - x for x in r.ranks), "") for r in HAND
    ]
    assert agreement(HAND, HAND) == (9, (1.0, 1.0, 1.0))
    assert agreement(HAND, reverse) == (9, (0.0, 0.0, 0.0))
    assert agreement(HAND, [*HAND, *reverse]) == (0, None), "a judge who says both says nothing"
    tie = Ranking("p", ("aaaa", "bb", "cc"), (0, 0, 1), "")
    assert agreement(HAND, [tie])[0] == 2


def test_the_interval_keeps_groups_whole() -> None:
    """Ten copies of each value in its group tell no more than one: the interval is as wide."""
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2, 60).astype(float)
    names = [f"g{i}" for i in range(60)]
    once = clustered_mean(values.tolist(), names)
    often = clustered_mean(np.repeat(values, 10).tolist(), np.repeat(names, 10).tolist())
    assert often == pytest.approx(once)
    apart = clustered_mean(np.repeat(values, 10).tolist(), [f"g{i}" for i in range(600)])
    assert apart.high - apart.low < 0.5 * (once.high - once.low)
    normal = 1.96 * values.std() / np.sqrt(60)
    assert once.high - once.mean == pytest.approx(normal, rel=0.15)
    assert clustered_mean(values.tolist(), names, seed=0) == once


@pytest.mark.parametrize(
    ("share", "warned"), [(0.6, False), (0.7, True), (0.4, False), (0.3, True)]
)
def test_the_length_warning(share: float, warned: bool) -> None:
    rankings = [
        Ranking(f"p{i}", ("long answer", "short"), (0, 1) if i < 10 * share else (1, 0), f"p{i}")
        for i in range(10)
    ]
    said = remarks(rankings, statistics(rankings))
    assert bool(said) == warned
    if warned:
        word = "longer" if share > 0.5 else "shorter"
        assert said[0].startswith(f"Warning: the rule that the {word} answer is better")
        assert "70.0%" in said[0]


def test_remarks_say_what_was_left_out() -> None:
    found = RankingSet(tuple(HAND[2:]), {"all ties": 3}, ("something",), {"flipped": 0.25})
    assert remarks(found, statistics(found)) == [
        "Left out or merged: all ties 3.",
        "flipped: 25.0% of pairs.",
        "Note: something.",
    ]


def test_the_table_shows_every_number() -> None:
    console = Console(width=100, record=True, file=io.StringIO())
    told = statistics(HAND, gold=HAND)
    console.print(statistics_table("A title", told))
    shown = console.export_text()
    assert "A title" in shown and all(name in shown for name in told)
    assert "1.000  [1.000, 1.000]" in shown


def test_oracle_answers_that_are_rejected(make_venv: Any) -> None:
    prompts = [Prompt(f"p{i}", f"q{i}", reference="right") for i in range(3)]
    venv = make_venv(1, prompts=prompts)

    def rankings(places: tuple[int, int], **more: Any) -> list[Ranking]:
        return [Ranking(f"q{i}", ("right", "wrong"), places, "g", **more) for i in range(2)]

    (note,) = oracle_notes(rankings((1, 0)), venv)
    assert "stands last in 2 rankings and first in 0" in note and "swapped" in note
    assert oracle_notes(rankings((0, 1)), venv) == ()
    assert oracle_notes(rankings((1, 0), prompt_id="p7"), venv) == (), "prompts of elsewhere"
    assert oracle_notes(rankings((1, 0), prompt_id="p2"), venv) == (), "the text is another"
    assert oracle_notes(rankings((1, 0)), make_venv(1, prompts=["q0", "q1"])) == ()
