"""Laws of rewards: each is broken by a reward made to break it, and kept by the shipped ones."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import textenvs  # noqa: F401  registers the environments
from textenvs.audit import properties
from textenvs.audit.properties import PropertyError, answers, drawn_answers
from textenvs.audit.property_rows import TELLERS, property_rows
from textenvs.audit.subject import make_subject
from textenvs.env import TextEnv
from textenvs.errors import MissingDependencyError, RewardError, UnknownNameError
from textenvs.prompts import normalise
from textenvs.rewards import REWARDS, BaseReward, RewardResult, reward
from textenvs.suite import SUITE
from textenvs.types import Episode, Item, Prompt

ITEMS = (
    Item("Lawrence of Arabia", "drama"),
    Item("Rocky Part 2", "drama"),
    Item("Some Like It Hot", "comedy"),
    Item("Duma", "family"),
)
RIGHT = "Lawrence of Arabia\nRocky Part 2"
PROMPT = Prompt(
    "films",
    "Lawrence of Arabia\nRocky Part 2\nSome Like It Hot\nDuma\nWhich are dramas?",
    ITEMS,
    RIGHT,
    metadata={"category": "drama", "keywords": ["Arabia", "Rocky"]},
)
NUMBER = Prompt("number", "How much is 6 times 7?", reference="42")
TEXTS = [RIGHT, "Rocky Part 2", "Duma", "", "x"]
QUICK = settings(max_examples=40, deadline=None, derandomize=True)


class Scripted(BaseReward):
    """A reward in [0, 1] that does what a function of (prompt, completion) says."""

    name = "scripted"

    def __init__(self, function: Callable[[Prompt, str], float]) -> None:
        """Keep the function."""
        self.function = function

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score one by one."""
        return RewardResult.from_scores(
            self.name, [self.function(e.prompt, e.completion) for e in episodes]
        )

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return (0, 1)."""
        return (0.0, 1.0)


def sound(prompt: Prompt, completion: str) -> float:
    """Pay the F1 of the set of lines, each in normal form, without lines said twice."""
    said = [key for line in completion.splitlines() if (key := normalise(line))]
    wanted = {normalise(line) for line in (prompt.reference or "").splitlines()}
    if not said:
        return 0.0
    return 2 * len(wanted & set(said)) / (len(wanted) + len(said))


def raising(prompt: Prompt, completion: str) -> float:
    """Break down over control characters."""
    if "\x00" in completion:
        raise RuntimeError("a null byte")
    return sound(prompt, completion)


@reward(name="by_batch")
def by_batch(episodes: Sequence[Episode]) -> list[float]:
    """Pay by rank in the batch."""
    order = np.argsort([len(e.completion) for e in episodes], kind="stable")
    return [float(np.flatnonzero(order == i)[0]) for i in range(len(episodes))]


class Drifting(Scripted):
    """A reward that pays more at every call."""

    calls = 0

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Count the calls."""
        self.calls += 1
        return RewardResult.from_scores(self.name, [0.01 * self.calls] * len(episodes))


def shouted(prompt: Prompt, completion: str) -> float:
    """Pay more for capitals."""
    return sound(prompt, completion) * (1.0 if completion.isupper() else 0.5)


def per_line(prompt: Prompt, completion: str) -> float:
    """Pay each right line, however often it is said."""
    return 0.1 * sum(line in (prompt.reference or "") for line in completion.splitlines() if line)


def only_first(prompt: Prompt, completion: str) -> float:
    """Charge for everything behind the first line."""
    return float(completion.startswith("Lawrence")) / (1 + completion.count("\n"))


BROKEN: dict[str, tuple[BaseReward, Callable[[BaseReward], Any]]] = {
    "finite": (Scripted(raising), lambda r: properties.finite(r, PROMPT, [*TEXTS, "a\x00"])),
    "bounded": (
        Scripted(lambda p, c: float(len(c))),
        lambda r: properties.bounded(r, PROMPT, TEXTS),
    ),
    "deterministic": (
        Drifting(sound),
        lambda r: properties.deterministic(r, PROMPT, TEXTS),
    ),
    "independent": (by_batch, lambda r: properties.independent(r, PROMPT, TEXTS)),
    "invariant": (
        Scripted(lambda p, c: float(c == p.reference)),
        lambda r: properties.invariant(r, PROMPT, TEXTS),
    ),
    "normalisation_pays_no_more": (
        Scripted(shouted),
        lambda r: properties.normalisation_pays_no_more(
            r, PROMPT, [RIGHT.lower(), *TEXTS], honest=0.5
        ),
    ),
    "monotone": (
        Scripted(only_first),
        lambda r: properties.monotone(r, PROMPT, RIGHT.splitlines(), np.random.default_rng(0)),
    ),
    "repetition_pays_no_more": (
        Scripted(per_line),
        lambda r: properties.repetition_pays_no_more(r, PROMPT, TEXTS),
    ),
}


@pytest.mark.parametrize("law", BROKEN)
def test_each_law_is_broken_by_its_broken_reward(law: str) -> None:
    broken, check = BROKEN[law]
    with pytest.raises(PropertyError) as caught:
        check(broken)
    assert caught.value.law == law and caught.value.prompt is PROMPT
    assert str(caught.value).startswith(f"{law}: ") and repr("films") in str(caught.value)


@pytest.mark.parametrize("law", BROKEN)
def test_a_sound_reward_keeps_each_law(law: str) -> None:
    _, check = BROKEN[law]
    sounder = Scripted(sound)
    check(Scripted(lambda p, c: 0.5 * sound(p, c)) if law.startswith("normalisation") else sounder)


def test_finite_counts_what_is_not_scored() -> None:
    unscored = Scripted(lambda p, c: float("nan"))
    with pytest.raises(PropertyError, match="scores nan"):
        properties.finite(unscored, PROMPT, TEXTS)
    properties.finite(unscored, PROMPT, TEXTS, allow_unscored=True)
    with pytest.raises(PropertyError, match="raises RewardError.*infinity"):
        properties.finite(Scripted(lambda p, c: float("inf")), PROMPT, ["a"], allow_unscored=True)
    assert properties.survivors(Scripted(raising), PROMPT, ["a", "\x00", "b"]) == ["a", "b"]


def test_other_writings_have_the_same_normal_form() -> None:
    written = properties.variants("Amélie  2\nDuma")
    assert set(written) == set(properties.VARIANTS)
    assert len(set(written.values())) == len(written)
    assert {normalise(text) for text in written.values()} == {normalise("Amélie 2\nDuma")}
    assert all(text.count("\n") == 1 for text in written.values())
    assert set(properties.variants("12")) == {
        "full width",
        "more white space",
        "zero-width spaces",
    }


class Timed(Scripted):
    """A reward whose seconds are a function of the length of the answer."""

    def __init__(self, seconds: Callable[[int], float]) -> None:
        """Begin at no time."""
        super().__init__(lambda p, c: 0.0)
        self.seconds, self.now = seconds, 0.0
        self.texts: list[str] = []

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Let the time pass."""
        self.texts += [e.completion for e in episodes]
        self.now += sum(self.seconds(len(e.completion)) for e in episodes)
        return super().__call__(episodes)

    def clock(self) -> float:
        """Return the seconds that have passed."""
        return self.now


def test_time_bounded() -> None:
    linear = Timed(lambda n: 1e-5 * n)
    found = properties.time_bounded(linear, PROMPT, clock=linear.clock)
    assert set(found) == set(properties.LONG_TEXTS)
    assert all(seconds == pytest.approx(1.0) for seconds in found.values())
    assert {len(text) for text in linear.texts} == {10_000, 30_000, 100_000}
    assert len(set(linear.texts)) == len(linear.texts), "no cache may answer"
    cheap = Timed(lambda n: 1e-12 * n * n)
    properties.time_bounded(cheap, PROMPT, clock=cheap.clock)
    quadratic = Timed(lambda n: 1e-9 * n * n)
    with pytest.raises(PropertyError, match="10,000 .* 0.1 s, 30,000 take 0.9 s, 9 times"):
        properties.time_bounded(quadratic, PROMPT, clock=quadratic.clock)
    assert {len(text) for text in quadratic.texts} == {10_000, 30_000}, "it does not go on"


def test_one_disturbance_is_forgiven() -> None:
    disturbances = iter([0.0] * 3 + [9.0] + [0.0] * 1000)
    jittery = Timed(lambda n: 1e-5 * n + next(disturbances))
    properties.time_bounded(jittery, PROMPT, clock=jittery.clock)


@given(answer=answers(PROMPT))
@QUICK
def test_answers_are_texts(answer: str) -> None:
    assert isinstance(answer, str)
    properties.bounded(Scripted(sound), PROMPT, [answer])


def test_hypothesis_finds_and_shrinks() -> None:
    @settings(max_examples=300, deadline=None, derandomize=True, database=None)
    @given(answer=answers(PROMPT, kinds=("item", "several", "repeated")))
    def run(answer: str) -> None:
        properties.repetition_pays_no_more(Scripted(per_line), PROMPT, [answer])

    with pytest.raises(PropertyError) as caught:
        run()
    assert caught.value.answer == "Lawrence of Arabia\nLawrence of Arabia"


@pytest.mark.parametrize("kind", properties.KINDS)
def test_every_kind_by_both_ways(kind: str) -> None:
    drawn = drawn_answers(PROMPT, np.random.default_rng(0), 60, [kind])
    assert drawn == drawn_answers(PROMPT, np.random.default_rng(0), 60, [kind])
    assert drawn != drawn_answers(PROMPT, np.random.default_rng(1), 60, [kind])
    assert len(set(drawn)) >= 10
    bare = Prompt("bare", "")
    assert all(
        isinstance(text, str) for text in drawn_answers(bare, np.random.default_rng(0), 20, [kind])
    )

    @QUICK
    @given(data=st.data())
    def same_source(data: st.DataObject) -> None:
        assert isinstance(data.draw(answers(PROMPT, [kind])), str)

    same_source()


def test_kinds_are_checked_and_hypothesis_is_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UnknownNameError, match="kind of answer 'junks'. Did you mean 'junk'"):
        answers(PROMPT, ["junks"])
    assert set(drawn_answers(PROMPT, np.random.default_rng(0), 9, ["item"])) <= {
        text for item in ITEMS for text in (*item, " ".join(item))
    }
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    drawn_answers(PROMPT, np.random.default_rng(0), 9)
    with pytest.raises(MissingDependencyError, match="pip install hypothesis"):
        answers(PROMPT)


def prompt_for(name: str) -> Prompt:
    """Return a prompt that the reward of this name can score."""
    return NUMBER if name == "final-number" else PROMPT


def shipped(name: str) -> BaseReward:
    """Return a shipped reward; skip where its package is absent."""
    try:
        made: Any = REWARDS[name]()
        made([Episode(prompt_for(name), "a")])
    except MissingDependencyError as error:
        pytest.skip(str(error))
    return made


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_shipped_rewards_keep_the_laws(name: str) -> None:
    tested, prompt = shipped(name), prompt_for(name)
    slow = name in ("similarity", "perplexity")

    @settings(max_examples=8 if slow else 40, deadline=None, derandomize=True, database=None)
    @given(texts=st.lists(answers(prompt), min_size=1, max_size=6))
    def keeps(texts: list[str]) -> None:
        properties.finite(tested, prompt, texts)
        properties.bounded(tested, prompt, texts)
        properties.deterministic(tested, prompt, texts)
        properties.independent(tested, prompt, texts)

    keeps()


NO_RIGHT_ANSWER = {"length", "readability", "sentiment"}
"""Rewards that measure a text and know no right answer: a longer one may be better."""


@pytest.mark.parametrize("name", sorted({*REWARDS} - NO_RIGHT_ANSWER))
def test_nothing_pays_more_than_the_right_answer_said_once(name: str) -> None:
    tested, prompt = shipped(name), prompt_for(name)
    right = prompt.reference or ""
    honest = float(properties.scores_of(tested, prompt, [right])[0])
    properties.repetition_pays_no_more(tested, prompt, [right])
    properties.normalisation_pays_no_more(tested, prompt, [right, "Duma", "41"], honest)
    properties.monotone(tested, prompt, right.splitlines(), np.random.default_rng(0))


def test_a_ruler_pays_for_repetition() -> None:
    """Negative control."""
    with pytest.raises(PropertyError, match="said twice"):
        properties.repetition_pays_no_more(shipped("length"), PROMPT, [RIGHT])


@pytest.mark.parametrize("env_id", sorted(SUITE))
def test_the_default_rewards_of_the_suite_keep_the_laws(env_id: str) -> None:
    try:
        subject = make_subject(env_id, n_prompts=4)
    except MissingDependencyError as error:
        pytest.skip(str(error))
    rows = property_rows(subject, np.random.default_rng(0), n_examples=20, n_prompts=2, timed=False)
    assert not [str(row) for row in rows if row.status == "fault"]
    assert rows[0].status == "ok" and rows[1].status in ("ok", "note")


def environment(function: Any) -> TextEnv:
    prompts = [PROMPT, Prompt("cities", "Rome Oslo", ("Rome", "Oslo"), "Rome\nOslo")]
    return TextEnv(prompts, function, max_new_tokens=24)


def test_rows_of_a_sound_reward() -> None:
    subject = make_subject(environment(Scripted(sound)), n_prompts=2)
    rows = property_rows(subject, np.random.default_rng(0))
    assert [row.name for row in rows] == ["property: finite"] + [f"property: {t}" for t in TELLERS]
    assert {row.kind for row in rows} == {"property"}
    assert not [str(row) for row in rows if row.status == "fault"]
    untimed = property_rows(subject, np.random.default_rng(0), timed=False)
    assert untimed == rows[:-1], "the same seed, the same rows"


@pytest.mark.parametrize(
    ("function", "law"),
    [
        (Scripted(raising), "finite"),
        (Scripted(lambda p, c: float(len(c))), "bounded"),
        (Drifting(sound), "deterministic"),
        (by_batch, "independent of the batch"),
        (Scripted(shouted), "invariant under normalisation"),
        (Scripted(only_first), "monotone in right items"),
        (Scripted(per_line), "not increased by repetition"),
    ],
)
def test_rows_name_the_law_that_is_broken(function: Any, law: str) -> None:
    subject = make_subject(environment(function), n_prompts=2)
    rows = property_rows(subject, np.random.default_rng(0), timed=False)
    (row,) = [row for row in rows if row.name == f"property: {law}"]
    assert row.status == "fault" and row.prompt_id in ("films", "cities")


def test_a_reward_that_minds_the_case_gets_a_note() -> None:
    strict = Scripted(lambda p, c: float(c == p.reference))
    rows = property_rows(make_subject(environment(strict)), np.random.default_rng(0), timed=False)
    (row,) = [row for row in rows if row.name == "property: invariant under normalisation"]
    assert row.status == "note" and "capitals" in row.words


def test_a_reward_that_raises_on_what_only_a_law_tries() -> None:
    def doubled(prompt: Prompt, completion: str) -> float:
        if completion == f"{RIGHT}, {RIGHT}":
            raise RewardError("said twice")
        return sound(prompt, completion)

    subject = make_subject(environment(Scripted(doubled)))
    rows = property_rows(subject, np.random.default_rng(0), timed=False)
    assert [str(row) for row in rows if row.status == "fault"] == [
        "property: not increased by repetition: the reward raised RewardError: said twice"
    ]


def test_the_environments_of_the_suite_are_registered() -> None:
    """Negative control of the loop over the suite."""
    assert len(SUITE) > 8 and all(env_id in gym.registry for env_id in SUITE)
