"""The charges for the wording: each on what it is for, and on what it must leave alone."""

import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textenvs.rewards.learned.wording import (
    ORDER_CHARGE,
    WEIGHTY_KEPT,
    letters_share,
    order_share,
    surplus_share,
    weighty_share,
    wording_of,
)

SHARES = (weighty_share, surplus_share, order_share, letters_share)
TEXTS = st.text() | st.text(alphabet="ab2о\u0336\u0301\u200b 的no'\n", max_size=60)


@pytest.mark.parametrize(
    ("answer", "reference", "share"),
    [
        ("It has 2 moons.", "It has two moons.", 1.0),
        ("ISN’T it 1,000?", "It is not one thousand.", 1.0),
        ("I do not know.", "No, I don't know.", 1.0),
        ("That one is red.", "It is red.", 1.0),
        ("I am a robot.", "A robot.", 1.0),
        ("It has 3 moons.", "It has two moons.", WEIGHTY_KEPT),
        ("Rocky II", "Rocky III", WEIGHTY_KEPT),
        ("Rocky", "Rocky 2", WEIGHTY_KEPT),
        ("It is red. Not", "It is red.", WEIGHTY_KEPT),
        ("It is red.", "It isn't red.", WEIGHTY_KEPT),
    ],
)
def test_numbers_and_negations(answer: str, reference: str, share: float) -> None:
    assert weighty_share(wording_of(answer), wording_of(reference)) == share


@pytest.mark.parametrize(
    ("answer", "reference", "share"),
    [
        ("Paris", "Paris is the capital.", 1.0),
        ("New York, New York", "New York, New York", 1.0),
        ("Paris PARIS Ｐａｒｉｓ", "Paris", 1 / 3),
        ("It is red, it is red and it is red", "It is red", 1 - 3 / 9),
        ("the red of the sky and the sea", "red like sky and like sea today, yes", 1.0),
        ("the capital is Paris", "the capital", 1 - 0.5 * 2 / 4),
        ("人人人", "我我我", 1.0),
        ("!!!", "Paris", 1.0),
    ],
)
def test_words_too_many(answer: str, reference: str, share: float) -> None:
    assert surplus_share(wording_of(answer), wording_of(reference)) == pytest.approx(share)


def test_order() -> None:
    def share(answer: str) -> float:
        return order_share(wording_of(answer), wording_of("dog bites man"))

    assert share("DOG bites man") == share("the dog bites a man") == share("cat") == 1.0
    assert share("man bites dog") == pytest.approx(1 - ORDER_CHARGE * 2 / 3)


@pytest.mark.parametrize(
    ("answer", "reference", "share"),
    [
        ("Beyoncé, Zürich", "Beyonce, Zurich", 1.0),
        (unicodedata.normalize("NFD", "Beyoncé"), "Beyonce", 1.0),
        ("हिन्दी", "Hindi", 1.0),
        ("Москва", "Moscow", 1.0),
        ("n\u0336o\u0336", "n\u0336o\u0336", 1.0),
        ("n\u0336o\u0336", "no", 0.0),
        ("n\u20e0o", "no", 0.5),
        ("i\u0301\u0301 no", "i no", 2 / 3),
        ("Rоck", "Rock", 3 / 4),
    ],
)
def test_letters_that_are_not_what_they_seem(answer: str, reference: str, share: float) -> None:
    assert letters_share(wording_of(answer), wording_of(reference)) == pytest.approx(share)


@settings(max_examples=200, deadline=None, derandomize=True, database=None)
@given(TEXTS, TEXTS)
def test_shares_are_bounded_and_nothing_is_taken_from_the_reference(one: str, two: str) -> None:
    for share in SHARES:
        assert 0.0 <= share(wording_of(one), wording_of(two)) <= 1.0
        assert share(wording_of(one), wording_of(one)) == 1.0
