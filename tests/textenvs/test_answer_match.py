"""`AnswerMatch`: what is right, what is not, and attacks on both scorings."""

import math
import re
import string
from typing import Any

import numpy as np
import pytest

from textenvs.errors import RewardError, UnknownNameError
from textenvs.rewards import resolve_reward
from textenvs.rewards.grounding.answer_match import (
    METRICS,
    AnswerMatch,
    answer_key,
    gold_metrics,
    token_f1,
)
from textenvs.types import Episode, Prompt

CONTEXT = (
    '"Duel" was directed by Steven Spielberg.',
    '"Willow" came out in 1988.',
    "It stars Ann.",
)
OUTCOMES = ("answer_right", "refusal_right", "refusal_wrong", "misread", "invented", "empty")


def asked(*answers: str, **metadata: Any) -> Prompt:
    known = {"answers": list(answers), "refusal": "not in the text", **metadata}
    return Prompt("p", "text", CONTEXT, metadata=known)


DIRECTOR, YEAR, UNKNOWN = asked("Steven Spielberg"), asked("1988"), asked()


def score(prompt: Prompt, *texts: str, scoring: Any = "exact") -> list[float]:
    return AnswerMatch(scoring)([Episode(prompt, text) for text in texts]).scores.tolist()


def squad_normalised(text: str) -> str:
    """`normalize_answer` as the evaluation script of SQuAD 1.1 has it."""
    text = "".join(c for c in text.lower() if c not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


@pytest.mark.parametrize(
    "text",
    [
        "The Big-Sleep!",
        "  an  apple,\na pear ",
        "Mr. & Mrs. O'Neil (1988)",
        "$1,234",
        "1,234,567 people",
        "e.g. 50%",
        "theatre and anthem",
        "Answer: [yes]",
        '"quoted" `code` #1 @home',
    ],
)
def test_the_key_is_that_of_squad(text: str) -> None:
    assert answer_key(text) == squad_normalised(text) != ""


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("１９８８", "1988"),
        ("١٩٨٨", "1988"),
        ("Ste\u200bven\ufeff  Spiel\u00adberg", "steven spielberg"),
        ("«Amélie»", "amélie"),
        ("Ame\u0301lie", "amélie"),
        ("19.88", "19.88"),
        ("19,88", "19,88"),
        ("-1988", "-1988"),
        ("\u22121988", "-1988"),
        ("1914–1918", "1914-1918"),
        ("198²", "198 2"),
        ("~1988", "~1988"),
        ("≠ 1988", "≠ 1988"),
        ("The", "the"),
        ("?!", "?!"),
        (" \t\n\u200b", ""),
    ],
)
def test_where_the_key_is_stricter_than_squad(text: str, key: str) -> None:
    assert answer_key(text) == key


def test_right_answers() -> None:
    assert (
        score(DIRECTOR, "Steven Spielberg", "steven spielberg.", " Steven\nSpielberg ") == [1] * 3
    )
    assert score(YEAR, "1988", "1988.", "(1988)", "١٩٨٨") == [1.0] * 4
    assert score(UNKNOWN, "not in the text", "Not in text.") == [1.0] * 2
    assert score(asked("blue", "dark blue"), "blue", "Dark Blue", "light blue") == [1.0, 1.0, -1.0]


ATTACKS = {
    "refusal of an answerable question": "not in the text",
    "wrong entity": "Ann",
    "invention": "George Lucas",
    "whole passage": " ".join(CONTEXT),
    "whole sentence": CONTEXT[0],
    "candidates": "Steven Spielberg, George Lucas, Ann",
    "negated": "not Steven Spielberg",
    "negated, contracted": "isn't Steven Spielberg",
    "negated by a symbol": "≠ Steven Spielberg",
    "alternative": "Steven Spielberg or George Lucas",
    "alternative without a word": "Steven Spielberg / George Lucas",
    "with the refusal": "Steven Spielberg, not in the text",
    "twice": "Steven Spielberg\nSteven Spielberg",
    "many times": "Steven Spielberg " * 50,
    "homoglyph": "Stеven Spielberg",
    "struck through": "S\u0336t\u0336even Spielberg",
    "half of it": "Steven",
    "letters inside": "StevenSpielbergs",
    "article": "the",
}


@pytest.mark.parametrize("attack", ATTACKS.values(), ids=ATTACKS)
def test_anything_else_is_wrong(attack: str) -> None:
    assert score(DIRECTOR, attack) == [-1.0]


@pytest.mark.parametrize("text", ["1987", "1889", "19 88", "19.88", "-1988", "<1988", "1988 1987"])
def test_a_number_is_right_or_wrong(text: str) -> None:
    assert score(YEAR, text) == [-1.0]
    assert score(asked("June 1988"), f"June {text}", scoring="f1")[0] == -1.0


def test_where_there_is_no_answer_only_the_refusal_is_right() -> None:
    texts = ("", "Ann", "1988", "not in the text: Ann", "text", "in the text", "none")
    for scoring in ("exact", "f1"):
        assert score(UNKNOWN, *texts, scoring=scoring) == [-1.0] * len(texts)
    assert score(asked(refusal="Unknown."), "unknown", "not in the text") == [1.0, -1.0]


@pytest.mark.parametrize("scoring", ["exact", "f1"])
@pytest.mark.parametrize("prompt", [DIRECTOR, UNKNOWN, asked("the"), asked("!"), asked("\u200b!")])
def test_an_empty_answer_gets_the_least(prompt: Prompt, scoring: str) -> None:
    empty = score(prompt, "", " ", "\n\t", "\u200b\ufeff", scoring=scoring)
    assert empty == [AnswerMatch().bounds(prompt)[0]] * 4


def test_f1_by_hand() -> None:
    three = asked("Ann Bee Cee")
    texts = ("Ann Bee Cee", "Cee Ann Bee", "Ann Bee", "Ann Bee Cee Dee", "Ann", "Dee")
    # F1 1, 1, 4/5, 6/7, 1/2, 0
    expected = [1.0, 1.0, 2 * 0.6 - 1, 2 * (5 / 7) - 1, -1.0, -1.0]
    np.testing.assert_allclose(score(three, *texts, scoring="f1"), expected, atol=1e-12)
    # the best of several accepted answers
    assert score(asked("Dee", "Ann Bee"), "Ann Bee", scoring="f1") == [1.0]
    # a turning word is no fault where the answer has it
    assert score(asked("not guilty or dead"), "not guilty or dead", scoring="f1") == [1.0]
    assert score(three, "Ann Bee Cee not", scoring="f1") == [-1.0]


def test_f1_pays_no_attack_more_than_a_third() -> None:
    """Half of a two-word name is the most that is paid for: (2/3 * 2 - 1) of the way."""
    third = -1 + 2 / 3
    for name, attack in ATTACKS.items():
        assert score(DIRECTOR, attack, scoring="f1")[0] <= third + 1e-12, name
    assert score(DIRECTOR, "Steven", scoring="f1")[0] == pytest.approx(third)


def test_token_f1_counts_repeats() -> None:
    assert token_f1("b b", "b") == pytest.approx(2 / 3)
    assert token_f1("b b", "b b") == 1.0 and token_f1("c", "b") == token_f1("", "b") == 0.0


@pytest.mark.parametrize("scoring", ["exact", "f1"])
def test_bounds_hold_for_hostile_text(scoring: str) -> None:
    texts = ["\ud800", "\x00", "a" * 100_000, "1," * 50_000, "-" * 50_000, "٣\u0301" * 1000, "½²"]
    for prompt in (DIRECTOR, YEAR, UNKNOWN):
        low, high = AnswerMatch().bounds(prompt)
        assert all(
            low <= s <= high and math.isfinite(s) for s in score(prompt, *texts, scoring=scoring)
        )
        metrics = gold_metrics([Episode(prompt, text) for text in texts])
        assert all(((values >= 0) & (values <= 1)).all() for values in metrics.values())


def test_scores_do_not_depend_on_the_batch() -> None:
    texts = ["Steven Spielberg", "Ann", ""]
    assert score(DIRECTOR, *texts) == [score(DIRECTOR, text)[0] for text in texts]


def test_other_prompts() -> None:
    """A reference alone will do; a prompt without any answer is an error, not a score."""
    assert score(Prompt("p", "t", reference="Paris"), "paris", "not in the text") == [1.0, -1.0]
    for broken in (Prompt("p", "t"), asked(""), Prompt("p", "t", metadata={"answers": [1988]})):
        with pytest.raises(RewardError, match="the prompt 'p' has the answers"):
            score(broken, "Paris")


def test_names() -> None:
    assert resolve_reward("answer-match").name == "answer_match"
    assert resolve_reward("answer-match-f1").scoring == "f1"  # type: ignore[attr-defined]
    with pytest.raises(UnknownNameError, match="scoring 'F2'"):
        AnswerMatch("F2")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("prompt", "text", "outcome", "exact", "f1"),
    [
        (DIRECTOR, "Steven Spielberg", "answer_right", 1, 1),
        (DIRECTOR, "Spielberg", "misread", 0, 2 / 3),
        (DIRECTOR, "Ann", "misread", 0, 0),
        (DIRECTOR, "George Lucas", "invented", 0, 0),
        (DIRECTOR, "not Steven Spielberg", "invented", 0, 4 / 5),
        (DIRECTOR, "not in the text", "refusal_wrong", 0, 0),
        (DIRECTOR, " ", "empty", 0, 0),
        (UNKNOWN, "not in the text", "refusal_right", 1, 1),
        (UNKNOWN, "Ann", "misread", 0, 0),
        (UNKNOWN, "1989", "invented", 0, 0),
        (UNKNOWN, "", "empty", 0, 0),
    ],
)
def test_gold_metrics(prompt: Prompt, text: str, outcome: str, exact: int, f1: float) -> None:
    metrics = gold_metrics([Episode(prompt, text)])
    assert tuple(metrics) == METRICS
    assert {name for name in OUTCOMES if metrics[name][0]} == {outcome}
    assert metrics[outcome][0] == 1.0 and metrics["exact_match"][0] == exact
    assert metrics["f1"][0] == pytest.approx(f1)
    assert metrics["unanswerable"][0] == (prompt is UNKNOWN)


def test_gold_metrics_of_a_batch() -> None:
    metrics = gold_metrics(
        [Episode(DIRECTOR, "Ann"), Episode(UNKNOWN, "Ann"), Episode(YEAR, "1988")]
    )
    assert sum(metrics[name] for name in OUTCOMES).tolist() == [1.0] * 3  # type: ignore[union-attr]
    assert all(values.dtype == np.float64 for values in metrics.values())
    assert all(values.shape == (0,) for values in gold_metrics([]).values())


def test_an_endless_answer_is_not_read() -> None:
    padded = "Steven Spielberg" + " " * 30_000
    assert score(DIRECTOR, padded) == score(DIRECTOR, padded, scoring="f1") == [-1.0]
    assert score(DIRECTOR, "Steven Spielberg" + " " * 3_000) == [1.0]
    assert score(DIRECTOR, " " * 30_000) == [-1.0]
