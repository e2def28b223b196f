"""What every classic reward promises, whatever the answer; and those that count words."""

import importlib.util
import json
import math
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from textenvs.errors import ConfigError, MissingDependencyError, RewardError, UnknownNameError
from textenvs.rewards import (
    REWARDS,
    AgainstReference,
    BaseReward,
    Bleu,
    DistinctN,
    FinalAnswer,
    JsonFormat,
    Keywords,
    Length,
    Profanity,
    Readability,
    RegexFormat,
    Repetition,
    Rouge,
    resolve_reward,
    reward,
)
from textenvs.rewards.classic.keywords import holds_word
from textenvs.rewards.classic.length import length_of
from textenvs.rewards.classic.profanity import swear_words
from textenvs.rewards.classic.readability import reading_ease, syllables_of
from textenvs.rewards.classic.repetition import looped_share, repeated_share
from textenvs.types import Episode, Prompt

PAGE = Path(__file__).parents[2] / "docs" / "reward_catalogue.md"
PROMPT = Prompt(
    "p", "Say 42.", reference="The answer is 42", metadata={"keywords": ["forty two", "数"]}
)
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
MAKERS: dict[str, Callable[[], BaseReward]] = {
    "bleu": Bleu,
    "chrf": lambda: Bleu("chrf"),
    "chrf++": lambda: Bleu("chrf++"),
    "distinct-1": lambda: DistinctN(1),
    "final-number": FinalAnswer,
    "final-number, last": lambda: FinalAnswer(where="last", tolerance=0.01),
    "final-text": lambda: FinalAnswer("text"),
    "json": JsonFormat,
    "json, schema": lambda: JsonFormat(SCHEMA),
    "keywords": Keywords,
    "keywords, any": lambda: Keywords(["a", "b c"], "any"),
    "keywords, none": lambda: Keywords(["a", "b c"], "none"),
    "length": Length,
    "length, characters": lambda: Length(3, 9, unit="characters"),
    "length, tokens": lambda: Length(3, 9, unit="tokens", fade=1),
    "profanity": Profanity,
    "profanity, own": lambda: Profanity(["darn", "what the heck"], enough=3),
    "readability": Readability,
    "regex": lambda: RegexFormat("[a-z ]+"),
    "repetition": Repetition,
    "rouge-l": Rouge,
    "against reference": lambda: AgainstReference(Rouge()),
    "think-format": RegexFormat,
}
PENALTIES = {"profanity", "profanity, own", "repetition"}
EASY = "The river was wider than anyone remembered, and we waited quietly for a boat. " * 2
ODD = [
    "",
    " \n\t",
    "\x00",
    "\ud800\udfff",
    "\U0001f600" * 300,
    "\u202e\u200b\u00ad",
    "在北京市吃饭。" * 50,
    "กขค" * 100,
    "a" * 30_000,
    "the " * 5_000,
    "....!?",
    "[" * 5_000,
    '{"a": 1e999, "b": NaN}',
    "#### 1e999",
    "\\boxed{" * 100,
    "<think>" * 100,
    "$%@!*4" * 100,
    "1,234,567/0",
]
texts = st.one_of(
    st.text(st.characters(), max_size=60),  # lone surrogates included
    st.text("ab 4$.,!#\n", max_size=60),
    st.sampled_from(ODD),
    st.lists(st.sampled_from("the cat 42 #### answer is: {} [1] shit numéro".split())).map(
        " ".join
    ),
)


def episodes(*answers: str, prompt: Prompt = PROMPT) -> list[Episode]:
    return [Episode(prompt, text, tuple(range(len(text[:12]) + 1))) for text in answers]


def scores(reward: BaseReward, *answers: str, prompt: Prompt = PROMPT) -> list[float]:
    return reward(episodes(*answers, prompt=prompt)).scores.tolist()


@pytest.mark.parametrize("name", MAKERS)
def test_every_reward_on_odd_texts(name: str) -> None:
    reward = MAKERS[name]()
    low, high = reward.bounds(PROMPT)
    assert math.isfinite(low) and math.isfinite(high)
    whole = scores(reward, *ODD)
    assert all(low <= score <= high for score in whole)
    assert whole == [scores(MAKERS[name](), text)[0] for text in ODD]
    # Of a charge, the least is what an empty answer pays.
    assert whole[0] == whole[1] == low


@pytest.mark.parametrize("name", MAKERS)
def test_every_reward_can_be_sent_to_a_process_and_written_down(name: str) -> None:
    """`Guarded` pickles a reward; a run's records describe it."""
    reward = MAKERS[name]()
    sent = pickle.loads(pickle.dumps(reward))
    assert scores(sent, *ODD) == scores(reward, *ODD)
    assert json.loads(json.dumps(reward.describe()))["name"] == reward.name


@pytest.mark.parametrize("name", MAKERS)
@settings(max_examples=25, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(answers=st.lists(texts, min_size=1, max_size=4))
@example(answers=["a", "a", "The answer is 42"])
def test_bounded_deterministic_independent_of_the_batch(name: str, answers: list[str]) -> None:
    reward = MAKERS[name]()
    low, high = reward.bounds(PROMPT)
    whole = scores(reward, *answers)
    assert all(low <= score <= high for score in whole)
    assert whole == scores(reward, *answers)
    assert whole[::-1] == [scores(MAKERS[name](), text)[0] for text in reversed(answers)]


@pytest.mark.parametrize("name", [name for name in MAKERS if name not in PENALTIES])
def test_the_empty_answer_is_worst_and_some_answer_is_best(name: str) -> None:
    """Every reward but a pure penalty; and none of them is a constant."""
    reward = MAKERS[name]()
    low, high = reward.bounds(PROMPT)
    best = {
        "against reference": PROMPT.reference,
        "json, schema": '{"a": 1}',
        "json": "{}",
        "keywords": "数 forty two",
        "keywords, any": "b  C!",
        "keywords, none": "cab",
        "length": "word " * 20,
        "length, characters": "forty two",
        "length, tokens": "tok",
        "readability": EASY,
        "regex": "so it is",
        "think-format": "<think>so</think> <answer>42</answer>",
    }.get(name, "The answer is 42")
    empty, top = scores(reward, "", best or "")
    if name == "against reference":
        assert (empty, top) == (-1.0, 0.0)
    else:
        assert (empty, top) == (low, high) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("name", "exploit"),
    [
        ("final-number", "Cows are blue, so 3 + 3 = 9.\n#### 42"),
        ("keywords", "数, forty two"),
        ("length", "xq " * 20),
        ("json", "{}"),
        ("think-format", "<think>a</think><answer>a</answer>"),
        ("readability", EASY),
        ("distinct-1", "word"),
        ("repetition-penalty", ""),
        ("profanity-penalty", "You f*ck, you utter waste of air!"),
    ],
)
def test_each_is_gamed_as_its_page_says(name: str, exploit: str) -> None:
    """The page's warnings are true: this is the most there is to earn."""
    reward = resolve_reward(name)
    assert reward(episodes(exploit)).scores[0] == reward.bounds(PROMPT)[1]  # type: ignore[attr-defined]


def test_names_make_rewards_and_the_page_explains_each() -> None:
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]
    explained = {name for line in lines for name in re.findall(r"`([^`]+)`", line.split("|")[1])}
    assert explained >= set(REWARDS)
    for name in ("length", "keywords", "json", "think-format", "bleu", "chrf++", "final-text"):
        assert resolve_reward(name).bounds(PROMPT) == (0.0, 1.0)  # type: ignore[attr-defined]


def test_a_named_penalty_is_paid_negative() -> None:
    for name, bad in (("repetition-penalty", "on and on " * 9), ("profanity-penalty", "shit")):
        penalty = resolve_reward(name)
        assert penalty(episodes("", "A fine day.")).scores.tolist() == [0.0, 0.0]
        assert penalty(episodes(bad)).scores[0] < -0.5
        assert penalty.bounds(PROMPT) == (-1.0, 0.0)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("package", "name"),
    [
        ("sacrebleu", "bleu"),
        ("better_profanity", "profanity-penalty"),
        ("pyphen", "readability"),
        ("regex", "think-format"),
    ],
)
def test_a_missing_package_is_named(
    package: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda wanted: None if wanted == package else find(wanted)
    )
    with pytest.raises(MissingDependencyError, match=rf"'{package}'.*textenvs\[rewards\]"):
        resolve_reward(name)
    assert Profanity(["darn"]) and JsonFormat()  # these need no package


def test_importing_the_rewards_imports_no_optional_package() -> None:
    program = (
        "import sys, textenvs.rewards\n"
        "from textenvs.rewards import *\n"
        "made = [Length(), Bleu(), Profanity(), Readability(), JsonFormat()]\n"
        "names = ('sacrebleu', 'jsonschema', 'regex', 'pyphen', 'better_profanity', 'torch')\n"
        "print(*(name for name in names if name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.split() == []


def test_length_by_hand() -> None:
    length = Length(4, 8)
    answers = ["", "one", "one two", "a b c d", "a " * 8, "a " * 12, "a " * 16, "a " * 99]
    assert scores(length, *answers) == [0.0, 5 / 32, 0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    assert scores(Length(4, 8, fade=2), "a " * 9, "a " * 10) == [0.5, 0.0]
    assert scores(Length(2, 4), "你好") == [1.0]
    assert scores(Length(2, 2, unit="characters"), " ab ", "a", "abc") == [1.0, 0.5, 0.5]


def test_invisible_characters_change_nothing() -> None:
    """They would cut one word into many, and make a repeated phrase a new one."""
    split, loop = "\u200b".join("hello"), "on and on and on and on"
    hidden = "\u00ad".join(loop[:12]) + loop[12:]
    for each in (Length(1), Length(9, unit="characters"), Repetition(1), Readability()):
        for plain, odd in (("hello", split), (loop, hidden)):
            assert scores(each, plain) == scores(each, odd)
    assert scores(Length(2, 3, unit="characters"), "a" + " " * 9 + "b") == [1.0]


def test_length_in_tokens_leaves_eos_out() -> None:
    assert length_of(Episode(PROMPT, "abc", (5, 6, 1)), "tokens") == 2
    assert length_of(Episode(PROMPT, "abc", (5, 6, 7), "length"), "tokens") == 3
    assert length_of(Episode(PROMPT, "", (1,)), "tokens") == 0
    assert length_of(Episode(PROMPT, "abc"), "tokens") is None
    result = Length(1, 5, unit="tokens")([Episode(PROMPT, "abc"), Episode(PROMPT, " ")])
    assert math.isnan(result.scores[0]) and result.scores[1] == 0.0


def test_bad_lengths() -> None:
    with pytest.raises(ConfigError, match="low must be at least 1, got 0"):
        Length(0)
    with pytest.raises(ConfigError, match="high must be at least low, got low=9 and high=4"):
        Length(9, 4)
    with pytest.raises(ConfigError, match="fade must be at least 1"):
        Length(1, 2, fade=0)
    with pytest.raises(UnknownNameError, match="Did you mean 'words'"):
        Length(unit="word")  # type: ignore[arg-type]


def test_repetition_by_hand() -> None:
    assert repeated_share("a b c a b c a b c", 3) == pytest.approx(4 / 7)
    assert repeated_share("a b", 3) == repeated_share("", 1) == 0.0
    assert looped_share("ab" * 10) == 18 / 20
    assert looped_share("No way" + "!" * 14) == 13 / 20
    assert looped_share("book 1000 !! ...") == 0.0
    assert scores(Repetition(), "ha" * 50, "x y z " * 20)[0] == 0.98
    fine = "The cat sat on the mat, and the dog lay on the rug beside it all day."
    assert scores(Repetition(), fine) == [0.0]
    with pytest.raises(ConfigError, match="n must be at least 1"):
        Repetition(0)


@given(st.text("ab", max_size=40))
def test_a_loop_is_what_its_definition_says(text: str) -> None:
    longest = 0
    for period in range(1, 65):
        run = 0
        for i in range(period, len(text)):
            run = run + 1 if text[i] == text[i - period] else 0
            if run >= max(8, 2 * period):
                longest = max(longest, run)
    assert looped_share(text) == (longest / len(text) if text else 0.0)


def test_keywords() -> None:
    every = Keywords(["New York", "art", "北京"])
    assert scores(every, "new\n york ART", "party in NEW YORKS", "在北京市") == [2 / 3, 0.0, 1 / 3]
    assert scores(Keywords(["cat"], "any"), "cats", "a cat.", "bobcat", "cat_2") == [0, 1, 0, 0]
    assert scores(Keywords(["cat"], "none"), "cats", "a cat.", "", " ") == [1, 0, 0, 0]
    # A mark belongs to its letter: the word ends behind it.
    assert not holds_word("कि", "क") and holds_word("서울은", "서울")
    assert holds_word("a b a c", "a c") and holds_word("c++ code", "c++")
    own = Prompt("q", "q", metadata={"keywords": ["ski", "mountain"]})
    assert scores(Keywords(), "I ski.", prompt=own) == [0.5]


def test_bad_keywords() -> None:
    for empty in ([], [""], ["a", " "]):
        with pytest.raises(ConfigError, match="keywords must be non-empty texts"):
            Keywords(empty)
    with pytest.raises(ConfigError, match="must be a list of texts, got the text 'art'"):
        Keywords("art")
    with pytest.raises(UnknownNameError, match="unknown need 'every'"):
        Keywords(["a"], "every")  # type: ignore[arg-type]
    with pytest.raises(RewardError, match="the prompt 'q' has the keywords"):
        Keywords()(episodes("a", prompt=Prompt("q", "q")))


def test_profanity() -> None:
    assert swear_words("Scunthorpe, assassin and cocktail") == 0
    assert swear_words("Shit! Sh1t. $hit? what a blow  job") == 4
    assert swear_words("455 people, 1 cup") == 0
    assert scores(Profanity(), "A fine day.", "Bullshit.") == [0.0, 1.0]
    own = Profanity(["darn", "what the heck", "heck"], enough=4)
    assert scores(own, "Darn, what the HECK, d4rn", "heck", "shit") == [0.75, 0.25, 0.0]
    for bad, message in (("darn", "must be a list"), ([], "no word"), (["!"], "no word")):
        with pytest.raises(ConfigError, match=message):
            Profanity(bad)


def test_the_list_is_that_of_the_library() -> None:
    """Its own verdict on plain words, where look-alikes play no part."""
    from better_profanity import profanity

    words = "bastard bitch kitten table wanker teacher damnit piss pass class crap trap".split()
    assert [bool(swear_words(w)) for w in words] == [profanity.contains_profanity(w) for w in words]


def test_reading_ease_by_hand() -> None:
    assert [syllables_of(w) for w in ("cat", "reading", "syllable")] == [1, 2, 3]
    assert reading_ease("The cat sat.") == pytest.approx(206.835 - 1.015 * 3 - 84.6)
    text = "The cat sat on the mat. It isn't reading!"
    assert reading_ease(text) == pytest.approx(206.835 - 1.015 * 9 / 2 - 84.6 * 11 / 9)
    assert reading_ease("") == reading_ease("...") == 0.0
    hard = "Institutional considerations necessitate comprehensive administrative reorganisation."
    assert reading_ease(hard) < 0 < 60 < reading_ease("We walk to the river every morning.")


def test_readability_falls_on_both_sides_and_for_short_answers() -> None:
    easy = "Go. " * 20
    assert reading_ease(easy) == pytest.approx(121.22)
    assert scores(Readability(), easy) == [pytest.approx(1 - 41.22 / 50)]
    assert scores(Readability(100, 150), easy, "Go. " * 5) == [1.0, 0.25]
    for low, high in ((2.0, 1.0), (math.nan, 1.0), (0.0, math.inf)):
        with pytest.raises(ConfigError, match="low must be at most high"):
            Readability(low, high)


def test_against_reference() -> None:
    """Each answer less its own prompt's reference, scored once a prompt."""
    asked: list[str] = []

    @reward(bounds=(0, 9))
    def size(prompt: Prompt, completion: str) -> float:
        asked.append(completion)
        return len(completion)

    one, two = Prompt("1", "q", reference="abc"), Prompt("2", "q", reference="a")
    relative = AgainstReference(size)
    result = relative([Episode(one, "abcd"), Episode(two, ""), Episode(one, "ab")])
    assert result.scores.tolist() == [1.0, -1.0, -1.0]
    assert asked == ["abcd", "", "ab", "abc", "a"]
    assert {name: term.score.tolist() for name, term in result.terms.items()} == {
        "size": [4.0, 0.0, 2.0],
        "against_reference(size)": [-3.0, -1.0, -3.0],
    }
    assert relative.bounds(one) == (-9, 9) and relative.inner == (size,)
    assert set(relative.term_weights()) == set(result.terms)
    assert relative([]).scores.shape == (0,)
    with pytest.raises(RewardError, match="'p' has no reference"):
        relative([Episode(Prompt("p", "q"), "a")])
