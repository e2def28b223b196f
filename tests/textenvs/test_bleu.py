"""`Bleu`: by hand, and against sacreBLEU's own functions."""

import math

import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st

from textenvs.errors import RewardError, UnknownNameError
from textenvs.rewards import Bleu
from textenvs.rewards.classic.bleu import LONGEST, bleu
from textenvs.types import Episode, Prompt

words = st.lists(st.sampled_from("a b c the cat sat".split()), min_size=1, max_size=9).map(" ".join)


def test_bleu_by_hand() -> None:
    """Papineni et al., section 2: clipped precisions 5/6, 3/5, 2/4, 1/3, and no brevity."""
    got = bleu("the cat sat on the mat", ["the cat sat on a mat"])
    assert got == pytest.approx((5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** 0.25)
    # Two words: precisions of one and two words, and exp(1 - 4/2) for brevity.
    assert bleu("the cat", ["the cat sat down"]) == pytest.approx(math.exp(-1))
    assert bleu("the the the", ["the cat"]) < 0.4


def test_chrf_by_hand() -> None:
    """Runs of one and two characters, "ab" against "abc": F2 of the mean precision and recall."""
    got = bleu("ab", ["abc"], "chrf")
    precision, recall = (1.0 + 1.0) / 2, (2 / 3 + 1 / 2) / 2
    assert got == pytest.approx(5 * precision * recall / (4 * precision + recall), abs=1e-4)


def test_copies_earn_all_and_strangers_nothing() -> None:
    for kind in ("bleu", "chrf", "chrf++"):
        prompt = Prompt("p", "p", reference="The cat sat on the mat.")
        answers = ["The cat sat on the mat.", "", " \n", "xyz", "a" * (LONGEST + 1)]
        result = Bleu(kind)([Episode(prompt, text) for text in answers])  # type: ignore[arg-type]
        assert result.scores.tolist() == [1.0, 0.0, 0.0, pytest.approx(0, abs=0.06), 0.0]
        assert list(result.terms) == [kind]


@given(words, st.lists(words, min_size=1, max_size=2))
def test_agrees_with_the_library(answer: str, references: list[str]) -> None:
    prompt = Prompt("p", "p", reference="zzz", metadata={"references": references})
    for kind, expected in (
        ("bleu", sacrebleu.sentence_bleu(answer, references, use_effective_order=True)),
        ("chrf", sacrebleu.sentence_chrf(answer, references)),
        ("chrf++", sacrebleu.sentence_chrf(answer, references, word_order=2)),
    ):
        got = Bleu(kind)([Episode(prompt, answer)]).scores[0]  # type: ignore[arg-type]
        assert got == pytest.approx(expected.score / 100)


def test_needs_a_reference_and_a_kind() -> None:
    with pytest.raises(RewardError, match="'p' has no reference"):
        Bleu()([Episode(Prompt("p", "p"), "a")])
    with pytest.raises(UnknownNameError, match="Did you mean 'chrf"):
        Bleu("chrF")  # type: ignore[arg-type]
