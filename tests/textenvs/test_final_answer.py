"""`FinalAnswer`: where the answer stands, which numbers are the same, and what is none."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenvs.errors import ConfigError, RewardError, UnknownNameError
from textenvs.rewards import FinalAnswer
from textenvs.rewards.classic.final_answer import final_number, final_text, parsed_number
from textenvs.types import Episode, Prompt

SOLUTION = "Natalia sold 48/2 = <<48/2=24>>24 clips in May.\nTogether 48+24 = 72 clips.\n#### 72"
"""The form of GSM8K's references."""


def score(reward: FinalAnswer, reference: str, *answers: str) -> list[float]:
    prompt = Prompt("p", "p", reference=reference)
    return reward([Episode(prompt, text) for text in answers]).scores.tolist()


def test_gsm8k_by_hand() -> None:
    right = ["#### 72", "So 48 + 24 = 72.\n#### 72.0 clips", "72", "The answer is 72.", "####72\n"]
    right += [r"Thus \boxed{72}", "<answer> 72 </answer>", "**Answer:** 72", "#### 7\n#### 72"]
    wrong = ["", "#### 73", "#### 72 or 73", "#### not 72", "72 73", "#### 7 2", "#### 72\n#### 7"]
    wrong += ["48 + 24 = 72 clips, I think", "#### ", "The answer is 72 plus 1.", r"\boxed{72"]
    assert score(FinalAnswer(), SOLUTION, *right) == [1.0] * len(right)
    assert score(FinalAnswer(), SOLUTION, *wrong) == [0.0] * len(wrong)


@pytest.mark.parametrize(
    "text",
    ["1000", "1,000", "$1,000.00", "1000 dollars", "1 thousand", "2000/2", r"\frac{2000}{2}"]
    + ["1e3", "+1000", "١٠٠٠", "€1000", r"\$1{,}000", r"$x = 1000$", "1000%", r"1000 \text{ cm}"],
)
def test_the_same_number(text: str) -> None:
    assert parsed_number(text) == 1000


@pytest.mark.parametrize("text", ["-7", "\u22127", "\u20137", "-$7", "$-7", "-7.0", "-14/2 C"])
def test_minus_signs(text: str) -> None:
    assert parsed_number(text) == -7


@pytest.mark.parametrize(
    "text",
    ["", "x", "40 + 2", "5:30", "12,34", "1,2345", "10²", "½", "3/0", "1 2", "2 1/2", "4 not 5"]
    + ["4 or five", "--4", "4e9999", "1.2.3", "9" * 201, "\ud800"],
)
def test_no_number(text: str) -> None:
    assert parsed_number(text) is None


def test_the_last_mark_counts() -> None:
    assert final_text("The answer is 1. No: #### 2\nThen so.") == "2"
    assert final_text("#### 2\nFinal answer: 3 apples. Bye.") == "3 apples"
    assert final_text(r"\boxed{1} and \boxed{\frac{1}{2}} so") == r"\frac{1}{2}"
    assert final_text("<answer>4</answer> #") == final_text("<ANSWER>4") == "4"
    assert final_text("The answer is 3.14") == "3.14"
    assert final_text("answer me 5") == "answer me 5"


def test_the_last_number_where_there_is_no_mark() -> None:
    text = "48 and 24 make 72 clips in all."
    assert final_number(text) is None and final_number(text, "last") == 72
    assert final_number("it fell from 3 to -$4", "last") == -4
    assert final_number("3-2", "last") == 2 and final_number("none", "last") is None
    last = FinalAnswer(where="last")
    assert score(last, "#### 72", text, "72 or 73") == score(last, text, "72", "73") == [1.0, 0.0]


def test_tolerance_is_relative() -> None:
    near = FinalAnswer(tolerance=0.01)
    assert score(near, "200", "202", "198", "202.1", "-200") == [1.0, 1.0, 0.0, 0.0]
    assert score(near, "0", "0.001", "0.0") == [0.0, 1.0]
    assert score(FinalAnswer(), "0.1", "0.1000000000000000001") == [0.0]


def test_texts() -> None:
    text = FinalAnswer("text")
    assert score(text, "#### The Nile", "nile", "Answer: the Nile!", "the Nile river") == [1, 1, 0]
    assert score(text, "(B)", "The answer is (B).", "b", "A or B", "", "the") == [1, 1, 0, 0, 0]


def test_any_of_several_references() -> None:
    prompt = Prompt("p", "p", reference="1", metadata={"references": ["1", "#### 2"]})
    answers = [Episode(prompt, text) for text in ("1", "2", "3")]
    assert FinalAnswer()(answers).scores.tolist() == [1.0, 1.0, 0.0]


@given(st.fractions(max_denominator=10**6), st.sampled_from(["#### {}", "The answer is {}", "{}"]))
def test_a_number_written_out_is_read_back(number: Fraction, form: str) -> None:
    assert final_number(form.format(number)) == number


@given(st.integers(-(10**12), 10**12))
def test_thousands_separators_change_nothing(number: int) -> None:
    assert parsed_number(f"{number:,}") == parsed_number(f"${number:,}.00") == number


def test_bad_options_and_references() -> None:
    with pytest.raises(UnknownNameError, match="unknown kind of final answer 'digits'"):
        FinalAnswer("digits")  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="unknown where of final answer"):
        FinalAnswer(where="first")  # type: ignore[arg-type]
    for tolerance in (-0.1, 1.0, float("nan")):
        with pytest.raises(ConfigError, match=r"tolerance must be in \[0, 1\)"):
            FinalAnswer(tolerance=tolerance)
    with pytest.raises(ConfigError, match='for kind="number" alone'):
        FinalAnswer("text", tolerance=0.1)
    with pytest.raises(RewardError, match="'many' of the prompt 'p' is no number"):
        score(FinalAnswer(), "many", "1")
    with pytest.raises(RewardError, match="'p' has no reference"):
        FinalAnswer()([Episode(Prompt("p", "p"), "1")])
