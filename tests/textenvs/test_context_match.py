"""`ContextMatch` and the gold metrics, by hand and against hostile answers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz import fuzz

from textenvs.errors import ConfigError, RewardError, UnknownNameError
from textenvs.rewards.grounding.context_match import ContextMatch, gold_metrics, oracle_answer
from textenvs.types import Episode, Item, Prompt

ITEMS = (
    Item("Lawrence of Arabia", "drama"),
    Item("Rocky Part 2", "drama"),
    Item("Amélie", "comedy"),
    Item("千と千尋の神隠し", "anime"),
    Item("Some Like It Hot", "comedy"),
)
DRAMA = Prompt("d", "?", ITEMS, metadata={"category": "drama"})
RIGHT = "Lawrence of Arabia\nRocky Part 2"
ANSWERS = st.lists(
    st.sampled_from([*(item.title for item in ITEMS), "Invented", "", "  ", "rocky part 3"])
    | st.text(max_size=12),
    max_size=8,
).map("\n".join)


def score(text: str, scoring: Any = "count", prompt: Prompt = DRAMA, **options: Any) -> float:
    reward = ContextMatch(scoring=scoring, **options)
    return float(reward([Episode(prompt, text)]).scores[0])


@pytest.mark.parametrize(
    ("text", "count", "f1", "first"),
    [
        (RIGHT, 2, 1.0, 1),
        ("Rocky Part 2", 1, 2 / 3, 1),
        ("Rocky Part 2\n\n  \nLawrence of Arabia\n", 2, 1.0, 1),
        ("Amélie", -1, 0.0, -1),  # listed, of another category
        ("Amélie\nRocky Part 2", 0, 0.5, -1),
        ("Rocky Part 2\nRocky Part 2", 0, 0.5, 1),  # an item counts once
        ("Rocky Part 2\nAn Invention\nAnother One", -1, 0.4, 1),
        ("x\ny\nz\nw", -2, 0.0, -1),  # not below -K
        (RIGHT.replace("\n", ", "), -1, 0.0, -1),  # one title a line
        ("", -3, -1.0, -2),
        (" \n\u200b\n\t", -3, -1.0, -2),
    ],
)
def test_scores_by_hand(text: str, count: float, f1: float, first: float) -> None:
    assert score(text) == count
    assert score(text, "f1") == pytest.approx(f1)
    assert score(text, "first") == first


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ("lawrence OF arabia", 0),
        ("Lawrence\u00a0of  Arabia ", 0),
        ("\u202eLawrence\u200b of Arabia\ufeff", 0),
        ("Ｌａｗｒｅｎｃｅ of Arabia", 0),
        ("Lawrence of Arabla", 0),  # one letter of 18
        ("Lawrance of Arabla!", -1),  # too many
        ("Rocky Part 2", 1),
        ("Roky Part 2", 1),
        ("Rocky Part 3", -1),  # digits must agree
        ("Rocky Part", -1),
        ("Rocky Part 2 2", -1),
        ("Ame\u0301lie", 2),
        ("千と千尋の神隠し", 3),
        ("Rосkу Part 2", -1),  # three Cyrillic letters
        ("[drama] Lawrence of Arabia", -1),
        ("Arabia", -1),
    ],
)
def test_which_item_a_line_names(line: str, named: int) -> None:
    assert ContextMatch().judge(DRAMA, line).hits == (named,)


def test_threshold() -> None:
    assert score("Lawrence of Arabla") == 1
    assert score("Lawrence of Arabla", threshold=100) == -1
    assert score("LAWRENCE of Arabia", threshold=100) == 1, "normal forms are equal"
    assert score("Lawrance of Arabla!", threshold=80) == 1


def test_a_prompt_that_asks_for_no_category_accepts_all() -> None:
    prompt = Prompt("all", "?", ("One", "Two"))
    assert score("two\none", prompt=prompt) == 2
    assert score("three", prompt=prompt) == -1
    assert oracle_answer(prompt) == "One\nTwo"


def test_oracle_gets_the_most() -> None:
    for scoring in ("count", "f1", "first"):
        reward = ContextMatch(scoring=scoring)  # type: ignore[arg-type]
        low, high = reward.bounds(DRAMA)
        assert score(oracle_answer(DRAMA), scoring) == high
        assert score("", scoring) == low


@pytest.mark.parametrize("scoring", ["count", "f1", "first"])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=ANSWERS)
def test_bounded_deterministic_and_empty_strictly_worst(scoring: str, text: str) -> None:
    low, high = ContextMatch(scoring=scoring).bounds(DRAMA)  # type: ignore[arg-type]
    found = score(text, scoring)
    assert low <= found <= high
    assert found == score(text, scoring)
    empty = not ContextMatch().judge(DRAMA, text).hits
    assert (found == low) is empty


@pytest.mark.parametrize("scoring", ["count", "f1", "first"])
@settings(max_examples=150, deadline=None, derandomize=True)
@given(text=ANSWERS, data=st.data())
def test_repetition_never_pays(scoring: str, text: str, data: st.DataObject) -> None:
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        assert score("\n".join([text, text]), scoring) == score(text, scoring)
        return
    again = data.draw(st.sampled_from(lines))
    assert score(f"{text}\n{again}", scoring) <= score(text, scoring)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(text=ANSWERS)
def test_case_and_format_characters_change_nothing(text: str) -> None:
    changed = "\n".join(f"\u200e {line.swapcase().swapcase()}\u200b" for line in text.splitlines())
    plain = "\n".join(line.swapcase().swapcase() for line in text.splitlines())
    assert ContextMatch().judge(DRAMA, changed).hits == ContextMatch().judge(DRAMA, plain).hits


@pytest.mark.parametrize(
    "text",
    [
        "a" * 100_000,
        "Lawrence of Arabia " * 5_000,
        "x\n" * 50_000,
        f"{RIGHT}\n" * 3_000,
        "\n" * 100_000,
    ],
)
def test_very_long_answers(text: str) -> None:
    for scoring in ("count", "f1", "first"):
        assert score(text, scoring) < score(RIGHT, scoring) or scoring == "first"
    lines = sum(bool(line) for line in text.splitlines())
    assert score(text) == {0: -3.0, 1: -1.0}.get(lines, -2.0)


def test_lines_far_beyond_the_list_match_exactly_only() -> None:
    filler = "\n".join(f"filler {i}" for i in range(4 * len(ITEMS)))
    hits = ContextMatch().judge(DRAMA, f"{filler}\nRoky Part 2\nRocky Part 2").hits
    assert hits[-2:] == (-1, 1)


GOLD = [
    # correct, listed, precision, recall, empty, copied_fraction
    (RIGHT, (1.0, 1.0, 1.0, 1.0, 0.0, 2 / 5)),
    ("Rocky Part 2", (1.0, 1.0, 1.0, 0.5, 0.0, 1 / 5)),
    ("rocky part 2", (0.0, 1.0, 1.0, 0.5, 0.0, 1 / 5)),
    ("Amélie\nRocky Part 2", (0.5, 1.0, 0.5, 0.5, 0.0, 2 / 5)),
    ("Rocky Part 2\nRocky Part 2", (0.5, 1.0, 0.5, 0.5, 0.0, 1 / 5)),
    ("Invented\nRoky Part 2", (0.0, 0.5, 0.5, 0.5, 0.0, 1 / 5)),
    ("\n".join(item.title for item in ITEMS), (2 / 5, 1.0, 2 / 5, 1.0, 0.0, 1.0)),
    (" \n", (0.0, 0.0, 0.0, 0.0, 1.0, 0.0)),
]


def test_gold_metrics_by_hand() -> None:
    found = gold_metrics([Episode(DRAMA, text) for text, _ in GOLD])
    names = ["correct", "listed", "precision", "recall", "empty", "copied_fraction"]
    assert list(found) == names
    for i, name in enumerate(names):
        np.testing.assert_allclose(found[name], [row[i] for _, row in GOLD], err_msg=name)
    assert {name: len(values) for name, values in gold_metrics([]).items()} == dict.fromkeys(
        names, 0
    )


def test_bad_options() -> None:
    for threshold in (0, 101, float("nan")):
        with pytest.raises(ConfigError, match="above 0 and at most 100"):
            ContextMatch(threshold)
    with pytest.raises(UnknownNameError, match="unknown scoring 'counts'. Did you mean 'count'"):
        ContextMatch(scoring="counts")  # type: ignore[arg-type]
    for context in (None, (), "text"):
        with pytest.raises(RewardError, match="has no list to match against"):
            score("a", prompt=Prompt("p", "?", context))


HARD = Prompt(
    "hard",
    "?",
    (
        "Rocky II",  # 0
        "Rocky III",
        "Not Another Teen Movie",  # 2
        "Another Teen Horror",
        "Can't Stop the Music",  # 4
        "The Lord of the Rings Part One",
        "Drone",  # 6
        "The Assassination of Jesse James by the Coward Robert Ford",
        "Star Wars",  # 8
        "Star Wars Episode",
        "The Texas Chainsaw Massacre",  # 10
        "The Undead Are Coming",
        "Men in Black 3",  # 12
        "9½ Weeks",
        "嘎子哥谢孟伟发声辟谣，没借一亿给王宝强拍电影",  # 14
        "故宫再现“九龙吐水”景观",
        "心脏长错了位置",  # 16
        "中国海军5支编队同时部署全球三大洋",
        "My Father and the Man in the Moon",
    ),
)


@pytest.mark.parametrize(
    ("attack", "honest"),
    [
        ("Rocky I", "Rocky II"),
        ("Rocky IIII", "Rocky III"),
        ("Back to Rocky II", "Rocky II"),
        ("Another Teen Movie", "Not Another Teen Movie"),
        ("Nota Another Teen Movie", "NOT another Teen Moviee"),
        ("Not Another Teen Horror", "Another Teen Horror"),
        ("Can Stop the Music", "Cant Stop the Music"),
        ("The Lord of the Rings Part Two", "The Lord of the Rngs Part One"),
        ("The Lord of the Rings Part", "The Lord of the Rings Part One"),
        ("Drones", "Drone"),
        ("[War] The Assassination of Jesse James by the Coward Robert Ford", "Star Wars"),
        ("1. The Assassination of Jesse James by the Coward Robert Ford", "Star Wars"),
        (
            "The Assassination of Jesse James by the Coward Henry Ford",
            "The Assasination of Jesse James by the Coward Robert Ford",
        ),
        (
            "The Assassination of James by the Coward Robert Ford",
            "The Assassination of Jesse James by the Cowardd Robert Frod",
        ),
        ("The Texas Chainsaw Massacre not", "The Texas Chain Saw Massacre"),
        ("The Texas Ch\u0430insaw Massacre", "The Texas Chainsaw Massacre"),  # a Cyrillic letter
        ("The Texas Chainsaw\u0336 Massacre", "The Texas Chainsw Massacre"),  # struck through
        ("~The Texas Chainsaw Massacre~", "'The Texas Chainsaw Massacre'"),
        ("The Texas Chainsaw Massacre \u274c", "The Texas Chainsaw Massacre"),
        ("My Mother and the Man in the Moon", "My Fahter and the Man in the Mon"),
        ("The Dead Are Coming", "The Undead Are Comming"),
        ("Men in Black 2", "Men in Blak 3"),
        ("Men in Black \u0663", "Men in Black \uff13"),  # Arabic-Indic against full-width
        ("Men in Black three", "MEN IN BLACK 3"),
        (
            "嘎子哥谢孟伟发声辟谣，借一亿给王宝强拍电影",
            "嘎子哥谢孟伟发声辟谣,没借一亿给王宝强拍电影",
        ),
        (
            "嘎子哥谢孟伟发声辟谣，没借两亿给王宝强拍电影",
            "嘎子哥谢孟伟发声辟谣 没借一亿给王宝强拍电影",
        ),
        (
            "嘎子哥谢孟威发声辟谣，没借一亿给王宝强拍电影",
            "嘎子哥谢孟伟发声辟谣，没借一亿给王宝强拍电影",
        ),
        ("故宫再现“九龙吐火”景观", "故宫再现九龙吐水景观"),
        ("心脏长对了位置", "心脏长错了位置"),
        ("中国海军6支编队同时部署全球三大洋", "中国海军５支编队同时部署全球三大洋"),
        ("中国海军5支编队没同时部署全球三大洋", "中国海军5支编队同时部署全球三大洋"),
    ],
)
def test_attacks_earn_less_than_honest_slips(attack: str, honest: str) -> None:
    assert score(attack, prompt=HARD) == -1
    assert score(honest, prompt=HARD) == 1


def test_a_title_that_begins_another_is_told_apart() -> None:
    judge = ContextMatch().judge
    assert judge(HARD, "Star Wars\nStar Wars Episode\nStar Warz Episode").hits == (8, 9, 9)
    assert judge(HARD, "Rocky III\nRocky II").hits == (1, 0)


def test_separators_other_than_a_new_line_separate_nothing() -> None:
    for text in ("Star Wars, Drone", "Star Wars; Drone", "Star Wars | Drone", "Star Wars/Drone"):
        assert score(text, prompt=HARD) == -1
    assert score("Star Wars\nDrone", prompt=HARD) == 2


@pytest.mark.parametrize(
    "blank", ["\u3164", "\u2800", "\ufe0f", "\u034f\u200b", "\x00\x07", "\uffa0"]
)
def test_what_cannot_be_seen_is_no_line_and_no_letter(blank: str) -> None:
    assert score(blank) == score("")
    assert score(f"{blank}\n{blank}\n{RIGHT}") == score(RIGHT)
    assert score(f"Law{blank}rence of Arabia") == 1


def test_an_item_in_two_spellings_is_one() -> None:
    twice = Prompt("t", "?", ("Amélie", "Ame\u0301lie", "AMÉLIE", "Drone"))
    assert ContextMatch().bounds(twice) == (-3.0, 2.0)
    assert score("Amélie\nDrone", prompt=twice) == 2
    assert score("Amélie\nAme\u0301lie", prompt=twice) == 0
    assert gold_metrics([Episode(twice, "Ame\u0301lie\nDrone")])["correct"].tolist() == [1.0]


def test_a_title_under_two_categories_is_right_under_both() -> None:
    items = (Item("Rocky", "drama"), Item("ROCKY", "comedy"))
    for category in ("drama", "comedy"):
        prompt = Prompt("r", "?", items, metadata={"category": category})
        for scoring in ("count", "f1", "first"):
            assert score("Rocky", scoring, prompt) == 1


@settings(max_examples=200, deadline=None, derandomize=True)
@given(text=ANSWERS, others=st.lists(ANSWERS, max_size=3))
def test_independent_of_the_batch(text: str, others: list[str]) -> None:
    batch = [Episode(DRAMA, other) for other in [*others, text]]
    assert float(ContextMatch()(batch).scores[-1]) == score(text)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(title=st.sampled_from(HARD.context), data=st.data())
def test_width_and_invisible_characters_change_nothing(title: str, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(title)))
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in title)
    assert score(wide, prompt=HARD) == 1
    assert score(f"{title[:at]}\u200b\ufeff{title[at:]}", prompt=HARD) == 1


def test_slips_are_forgiven_as_before() -> None:
    generator = np.random.default_rng(0)
    title = HARD.context[7]
    for _ in range(200):
        i = int(generator.integers(len(title)))
        assert score(title[:i] + title[i + 1 :], prompt=HARD) == 1


def test_negative_control_similarity_alone_pays_for_these() -> None:
    """So the rules on numbers, denials and words are what the attacks above fail by."""
    for attack, title in [
        ("Rocky III", "Rocky II"),
        ("Another Teen Movie", "Not Another Teen Movie"),
        ("The Lord of the Rings Part Two", "The Lord of the Rings Part One"),
        (HARD.context[7].replace("Robert", "Henry"), HARD.context[7]),
        (HARD.context[14].replace("没", ""), HARD.context[14]),
    ]:
        assert fuzz.ratio(attack.lower(), title.lower()) >= 90
        assert score(attack, prompt=Prompt("one", "?", (title,))) == -1
