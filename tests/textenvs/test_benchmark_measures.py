"""The measures of answers, by hand and at their ends."""

import numpy as np
import pytest

from textenvs.benchmark.measures import (
    context_texts,
    copied_fraction,
    distinct_n,
    matched_spans,
    mean_of,
    self_bleu,
    wins,
)
from textenvs.errors import ConfigError
from textenvs.types import Item, Prompt

TITLES = ("The Thin Red Line", "Giant", "Cane Toads: The Conquest")


def said(completion: str, sources: tuple[str, ...] = TITLES) -> list[str]:
    return [completion[start:end] for start, end in matched_spans(completion, sources)]


def test_distinct_n_counts_over_all_texts() -> None:
    assert distinct_n(["a b", "a b"], 1) == 0.5
    assert distinct_n(["a b", "b a"], 2) == 1.0
    assert distinct_n(["a b c", "A, b!"], 2) == pytest.approx(2 / 3)
    assert distinct_n(["one", ""], 2) == 0.0
    with pytest.raises(ConfigError, match="at least 1"):
        distinct_n(["a"], 0)


def test_self_bleu_of_equal_different_and_empty_texts() -> None:
    same = ["the cat sat on the mat"] * 4
    other = [
        "the cat sat on the mat",
        "green ideas sleep furiously",
        "we ate nine plums",
        "no more",
    ]
    assert self_bleu(same) == 1.0
    assert self_bleu(["", " ", ""]) == 1.0
    low = self_bleu(other)
    assert low is not None and low < 0.1
    half = self_bleu([*same[:2], *other[1:3]])
    assert half is not None and low < 0.5 <= half < 0.6
    assert self_bleu(["alone"]) is None
    assert self_bleu(["", "a word"]) == 0.0


def test_self_bleu_draws_the_same_places_from_a_seed() -> None:
    texts = ["x y z w"] * 20 + [f"a{i} b{i} c{i} d{i}" for i in range(20)]
    first = self_bleu(texts, seed=1, n_texts=10)
    assert first == self_bleu(texts, seed=1, n_texts=10)
    assert len({self_bleu(texts, seed=seed, n_texts=10) for seed in range(8)}) > 1
    with pytest.raises(ConfigError, match="n_texts"):
        self_bleu(texts, n_texts=1)


def test_spans_are_whole_titles_and_long_runs() -> None:
    assert said("the THIN red  line!") == ["the THIN red  line"]
    assert said("Giant") == ["Giant"]
    assert said("1. Giant") == []  # one word inside a line is no copy
    assert said("Giant\nCane Toads\nred herring") == ["Giant", "Cane Toads"]
    assert said("a thin red wall of toads: the conquest") == ["thin red", "toads: the conquest"]
    assert said("") == said("...") == []


def test_the_longest_run_of_one_source_is_taken() -> None:
    assert said("b c d", ("a b c", "b c d")) == ["b c d"]
    assert said("x y x y z", ("x y z",)) == ["x y", "x y z"]
    # Two sources are never joined to one run.
    assert said("thin giant", ("so thin", "giant leap")) == []
    assert matched_spans("red wall", ("red",), least=1) == [(0, 3)]


def test_copied_fraction_is_the_share_of_words_in_spans() -> None:
    assert copied_fraction("The Thin Red Line", TITLES) == 1.0
    assert copied_fraction("thin red wall wolf", TITLES) == 0.5
    assert copied_fraction("", TITLES) == 0.0
    assert copied_fraction("entirely of my own making", TITLES) == 0.0


def test_what_an_answer_may_draw_on() -> None:
    items = (Item("Giant", "Western"), Item("Lemmy", "Biography"))
    assert context_texts(Prompt("p", "ask", context=items)) == ("Giant", "Lemmy")
    assert context_texts(Prompt("p", "ask", context="a passage")) == ("a passage",)
    assert context_texts(Prompt("p", "ask", context=["one", "two"])) == ("one", "two")
    for nothing in (None, (), ((1, 2), (2, 3))):
        assert context_texts(Prompt("p", "ask", context=nothing)) == ("ask",)


def test_wins_count_ties_half_and_leave_out_what_is_missing() -> None:
    found = wins([1.0, 0.5, 0.0, None, 1.0], [0.0, 0.5, 1.0, 1.0, None])
    assert found == [1.0, 0.5, 0.0, None, None]
    assert mean_of(found) == 0.5
    assert mean_of([None]) is None
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=50).tolist(), rng.normal(size=50).tolist()
    forth, back = wins(ours, theirs), wins(theirs, ours)
    assert all(
        a is not None and b is not None and a + b == 1 for a, b in zip(forth, back, strict=True)
    )
    with pytest.raises(ConfigError, match="one each a prompt"):
        wins([1.0], [])
