"""Rankings: what is one, its pairs, splits by group, and rows that are merged."""

from itertools import combinations
from typing import Any

import numpy as np
import pytest

from agents.preferences import Pair, Ranking, pairs, places, split_by_group
from agents.preferences.merging import merged
from textenvs.errors import ConfigError


def ranking(answers: str, ranks: tuple[int, ...], prompt: str = "p", **more: Any) -> Ranking:
    return Ranking(prompt, tuple(answers), ranks, **{"group": prompt, **more})


def ordered(rankings: list[Ranking]) -> set[tuple[str, str]]:
    return {(pair.chosen, pair.rejected) for pair in pairs(rankings)}


def test_pairs_are_all_that_differ_in_place() -> None:
    found = pairs([ranking("abcd", (1, 0, 2, 1))])
    assert set(found) == {
        Pair("p", chosen, rejected, "p") for chosen, rejected in ("ba", "bc", "bd", "ac", "dc")
    }
    assert len(pairs([ranking("abcde", (4, 3, 2, 1, 0))])) == len(list(combinations("abcde", 2)))
    assert pairs([]) == []


def test_places_close_gaps_and_tie() -> None:
    assert places([0.5, 2.0, 0.5, -1.0]) == (1, 0, 1, 2)
    assert places([]) == ()


@pytest.mark.parametrize(
    ("answers", "ranks", "words"),
    [
        (("a",), (0,), "at least two answers, got 1; add an answer"),
        ((), (), "at least two answers, got 0"),
        (("a", "b"), (0,), "2 answers have 1 ranks; give one rank an answer"),
        (("a", " \n"), (0, 1), "answer 1 is ' \\\\n'; an answer needs a visible character"),
        (("a", "b", "a"), (0, 1, 2), "'a' stands twice in a ranking; merge the two"),
        (("a", "b"), (3, 3), "all 2 answers have the rank 3, which prefers none; leave"),
        (("a", "b"), (0, -1), r"whole numbers from 0 \(best\), got \(0, -1\)"),
        (("a", "b"), (0, 1.0), r"whole numbers from 0 \(best\), got \(0, 1.0\)"),
        (("a", "b"), (False, True), "whole numbers from 0"),
        (("a", 7), (0, 1), r"answers must be texts, got \('a', 7\)"),
    ],
)
def test_what_is_no_ranking_is_refused(answers: Any, ranks: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        Ranking("the prompt", answers, ranks, "g")
    assert "'the prompt'" in str(caught.value)


def test_no_group_stands_in_two_splits() -> None:
    rankings = [
        Ranking(f"p{i}", ("a", "b"), (0, 1), group)
        for i, group in enumerate(["Film", "film ", *(f"g{i % 20}" for i in range(60))])
    ]
    train, test = split_by_group(rankings, held_out=0.25, seed=0)
    assert not {r.group for r in train} & {r.group for r in test}
    assert sorted([*train, *test], key=rankings.index) == rankings
    film = [r.group.strip().casefold() == "film" for r in test]
    assert sum(film) in (0, 2), "groups of one comparison form stay together"
    groups = {r.group.strip().casefold() for r in test}
    assert len(groups) == 5, "a quarter of 21 groups"
    assert (train, test) == split_by_group(rankings, held_out=0.25, seed=0)
    others = [split_by_group(rankings, held_out=0.25, seed=seed)[1] for seed in range(1, 6)]
    assert any(other != test for other in others)


def test_more_data_leaves_most_groups_where_they_are() -> None:
    rankings = [Ranking("p", ("a", "b"), (0, 1), f"g{i}") for i in range(200)]
    before = {r.group for r in split_by_group(rankings[:190], held_out=0.2, seed=3)[1]}
    after = {r.group for r in split_by_group(rankings, held_out=0.2, seed=3)[1]}
    assert len(before & after) >= 0.85 * len(before)


def test_splits_at_the_edges() -> None:
    two = [Ranking("p", ("a", "b"), (0, 1), group) for group in "gh"]
    for share in (0.01, 0.5, 0.99):
        train, test = split_by_group(two, held_out=share, seed=0)
        assert len(train) == len(test) == 1
    assert split_by_group(two, held_out=0, seed=0) == (two, [])
    with pytest.raises(ConfigError, match=r"have 1 group\(s\), and a split keeps groups whole"):
        split_by_group(two[:1], held_out=0.5, seed=0)
    for share in (-0.1, 1.0, True, float("nan")):
        with pytest.raises(ConfigError, match="at least 0 and below 1, got"):
            split_by_group(two, held_out=share, seed=0)


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        (["ab", "ac"], [{"ab", "ac"}]),  # b and c tie: nothing says more
        (["ac", "bc"], [{"ac", "bc"}]),
        (["ab", "bc"], [{"ab", "bc", "ac"}]),  # transitivity
        (["ab", "ac", "bc"], [{"ab", "bc", "ac"}]),
        (["ab", "cd"], [{"ab"}, {"cd"}]),  # nothing links the two
        (["ab", "cb", "cd"], [{"ab"}, {"cb"}, {"cd"}]),  # how a compares with c is open
    ],
)
def test_pairs_are_merged_where_they_fix_every_place(
    rows: list[str], expected: list[set[str]]
) -> None:
    found, counts = merged([ranking(row, (0, 1)) for row in rows])
    assert [{a + b for a, b in ordered([each])} for each in found] == expected
    assert counts == {}


def test_contradictions_are_dropped_and_counted() -> None:
    found, counts = merged([ranking(row, (0, 1)) for row in ("ab", "ba", "cd")])
    assert ordered(found) == {("c", "d")}
    assert counts == {"contradicting preferences": 2}
    found, counts = merged([ranking(row, (0, 1)) for row in ("ab", "bc", "ca", "ad")])
    assert ordered(found) == {("a", "d")} and counts == {"contradicting preferences": 3}
    found, counts = merged([ranking("ab", (0, 1)), ranking("ab", (1, 0))])
    assert found == [] and counts == {"contradicting preferences": 2}


def test_duplicates_are_dropped_and_counted() -> None:
    rows = [ranking("ab", (0, 1)), ranking("ba", (1, 0)), ranking("ab", (0, 1), prompt="q")]
    found, counts = merged(rows)
    assert found == [rows[0], rows[2]] and counts == {"duplicate rows": 1}


def test_rankings_of_a_prompt_join_and_other_prompts_do_not() -> None:
    rows = [ranking("abc", (0, 1, 1)), ranking("bd", (0, 1)), ranking("xa", (0, 1), prompt="q")]
    found, _ = merged(rows)
    assert len(found) == 4, "whether c is better than d is open, so the preferences stay apart"
    joined, _ = merged([ranking("abc", (0, 1, 2)), ranking("cd", (0, 1))])
    assert len(joined) == 1 and joined[0].answers == tuple("abcd")
    assert joined[0].ranks == (0, 1, 2, 3)


def test_every_stated_preference_survives_a_merge() -> None:
    """Property: without contradictions nothing stated is lost, and nothing is reversed."""
    rng = np.random.default_rng(0)
    for _ in range(50):
        worth = rng.permutation(8)
        letters = "abcdefgh"
        rows = []
        for _ in range(6):
            i, j = rng.choice(8, 2, replace=False)
            better, worse = (i, j) if worth[i] > worth[j] else (j, i)
            rows.append(ranking(letters[better] + letters[worse], (0, 1)))
        found, counts = merged(rows)
        assert ordered(rows) <= ordered(found) and "contradicting preferences" not in counts
        assert all(worth[letters.index(a)] > worth[letters.index(b)] for a, b in ordered(found))
