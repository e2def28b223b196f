"""Words, runs, copies, distinct-n and ROUGE: figures worked by hand, and odd text."""

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenvs.errors import ConfigError, RewardError, UnknownNameError
from textenvs.rewards import DistinctN, Rouge, resolve_reward
from textenvs.rewards.classic.diversity import distinct_share
from textenvs.rewards.classic.rouge import rouge
from textenvs.rewards.classic.words import copied_share, ngrams, words_of
from textenvs.types import Episode, Prompt

few_words = st.lists(st.sampled_from("abc"), max_size=7).map(" ".join)


def test_words() -> None:
    assert words_of("BA's profits: £92.5m,\tup_12% ") == "ba s profits 92 5m up 12".split()
    assert words_of("Ærø 2 кот 北京大 も") == ["ærø", "2", "кот", "北", "京", "大", "も"]
    assert words_of(" .,_!") == [] and words_of("a b c", 2) == ["a", "b"]
    assert ngrams(["a", "b", "c"], 2) == [("a", "b"), ("b", "c")] and ngrams(["a"], 2) == []


def test_copied_share() -> None:
    """Different pairs: "the cat" is the source's, "cat sat" and "sat the" are not."""
    assert copied_share("The cat sat. The cat", "see the cat") == pytest.approx(1 / 3)
    assert copied_share("see the cat", "See: the cat!") == 1.0
    assert copied_share("cat", "cat") == copied_share("", "cat") == 0.0
    assert copied_share("a b c d", "a b c", 3) == 0.5


def test_distinct_share() -> None:
    assert distinct_share("a b a b", 1) == 0.5
    assert distinct_share("a b a b", 2) == pytest.approx(2 / 3)
    assert distinct_share("a", 2) == distinct_share("", 1) == 0.0


def test_distinct_rewards() -> None:
    episodes = [Episode(Prompt("p", "p"), text) for text in ("a b a b", "a b c", "")]
    result = resolve_reward("distinct-1")(episodes)
    assert result.scores.tolist() == [0.5, 1.0, 0.0] and list(result.terms) == ["distinct_1"]
    assert DistinctN(3)(episodes).scores.tolist() == [1.0, 1.0, 0.0]
    assert DistinctN().bounds(Prompt("p", "p")) == (0.0, 1.0)
    with pytest.raises(ConfigError, match="n must be at least 1, got 0"):
        DistinctN(0)


def test_rouge_by_hand() -> None:
    """Lin (2004), section 3: police killed the gunman."""
    reference = "police killed the gunman"
    for answer, expected in (
        ("police kill the gunman", {"rouge-1": 3 / 4, "rouge-2": 1 / 3, "rouge-l": 3 / 4}),
        ("the gunman kill police", {"rouge-1": 3 / 4, "rouge-2": 1 / 3, "rouge-l": 2 / 4}),
        ("The police! Police, police", {"rouge-1": 4 / 8, "rouge-2": 0, "rouge-l": 1 / 4}),
        ("gunman", {"rouge-1": 2 / 5, "rouge-2": 0.0, "rouge-l": 2 / 5}),
        (reference, {"rouge-1": 1.0, "rouge-2": 1.0, "rouge-l": 1.0}),
        (" .", {"rouge-1": 0.0, "rouge-2": 0.0, "rouge-l": 0.0}),
    ):
        for kind, score in expected.items():
            assert rouge(answer, reference, kind) == pytest.approx(score), (answer, kind)  # type: ignore[arg-type]


def longest_common(one: list[str], other: list[str]) -> int:
    """By trying every subsequence."""
    for size in range(min(len(one), len(other)), 0, -1):
        if set(combinations(one, size)) & set(combinations(other, size)):
            return size
    return 0


@given(few_words, few_words)
def test_rouge_l_is_the_longest_common_subsequence(answer: str, reference: str) -> None:
    one, other = answer.split(), reference.split()
    common = longest_common(one, other)
    expected = 2 * common / (len(one) + len(other)) if common else 0.0
    assert rouge(answer, reference) == pytest.approx(expected)
    assert rouge(answer, reference) == rouge(reference, answer)


@given(st.text(max_size=200), st.text(max_size=200))
def test_any_text_is_scored_within_bounds(answer: str, reference: str) -> None:
    prompt = Prompt("p", "p", reference=reference)
    for kind in ("rouge-1", "rouge-2", "rouge-l"):
        score = resolve_reward(kind)([Episode(prompt, answer)]).scores[0]
        assert 0.0 <= score <= 1.0
    assert 0.0 <= distinct_share(answer, 1) <= 1.0
    assert 0.0 <= copied_share(answer, reference) <= 1.0


def test_rouge_needs_a_reference_and_a_kind() -> None:
    with pytest.raises(RewardError, match="'p' has no reference"):
        Rouge()([Episode(Prompt("p", "p"), "a")])
    with pytest.raises(UnknownNameError, match="Did you mean 'rouge-l'"):
        Rouge("rouge-L")  # type: ignore[arg-type]
