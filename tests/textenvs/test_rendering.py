"""Rendering: what a terminal and a page are given, and what never reaches them."""

import re
import unicodedata
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.wrappers import TimeLimit
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.text import Text

from textenvs.env import TextEnv
from textenvs.reference import CausalLMReference
from textenvs.rendering import (
    GREEN,
    RED,
    EpisodeView,
    render,
    render_ansi,
    render_html,
    token_pieces,
    visible,
)
from textenvs.rewards.base import RewardResult
from textenvs.tokenization import load_tokenizer
from textenvs.vector_env import TextVectorEnv
from textenvs.wrappers.reference_kl import ReferenceKL, VectorReferenceKL

STYLE = re.compile(r"\x1b\[[0-9;]*m")
SCORED = EpisodeView("Q: ", ("a", "b\n", "c", ""), (0.0, -1.0, 0.1, 2.0), (), "eos", 1.1)
HOSTILE = "</script><img src=x onerror=alert(1)>\"'&\x1b]0;title\x07\x1b[2J\x9b31m\u202eevil\0\r"


@pytest.fixture(autouse=True)
def _coloured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)


class Page(HTMLParser):
    """The tags, attributes and text of a fragment; fails on tags that do not match."""

    def __init__(self, fragment: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(fragment)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data

    @property
    def titles(self) -> list[str | None]:
        return [attrs["title"] for _, attrs in self.tags if "title" in attrs]


def test_ansi_shades_tokens_by_reward() -> None:
    shown = render_ansi(SCORED)
    assert f"\x1b[97;48;5;{RED[1]}mb\x1b[0m\n" in shown, "no background over the line feed"
    assert f"\x1b[97;48;5;{GREEN[0]}mc\x1b[0m" in shown
    assert f"\x1b[97;48;5;{GREEN[2]}m<eos>\x1b[0m" in shown, "the strongest"
    lines = Text.from_ansi(shown).plain.splitlines()
    assert lines == [
        "Q: ab",
        "c<eos>",
        "green: reward, at most +2 a token; red: reward, at least -1 a token",
        "score 1.1, ended by eos",
    ]


def test_ansi_underlines_the_large_kl_terms() -> None:
    view = EpisodeView("Q:", ("a", "b", "c"), (), (-0.1, -2.0, 1.0))
    shown = render_ansi(view)
    assert shown.startswith("Q:a\x1b[4mb\x1b[0m\x1b[4mc\x1b[0m\n")
    assert "underlined: KL term of 1 or more, either way\nno score, KL terms -1.1 in all" in shown


def test_no_color_leaves_words_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    plain = render(SCORED, "ansi")
    assert plain == "Q: ab\nc<eos>\nscore 1.1, ended by eos" == render_ansi(SCORED, color=False)
    monkeypatch.setenv("NO_COLOR", "")  # by the convention, empty means unset
    assert "\x1b[" in (render(SCORED, "ansi") or "")


def test_html_says_the_same_as_ansi() -> None:
    page = Page(render_html(SCORED))
    assert page.tags[0] == ("div", {"class": "textenvs-episode", "dir": "ltr"})
    assert page.text == "".join(Text.from_ansi(render_ansi(SCORED)).plain.rsplit("\n", 2)[0]) + (
        "green: reward, at most +2 a token; red: reward, at least -1 a tokenscore 1.1, ended by eos"
    )
    assert page.titles == ["reward -1", "reward +0.1", "reward +2"]
    shades = [attrs.get("style") or "" for tag, attrs in page.tags if "title" in attrs]
    assert [("220,30,30" in s, "0,150,60" in s) for s in shades] == [
        (True, False),
        (False, True),
        (False, True),
    ]
    with_kl = EpisodeView("", ("a", "b"), (0.0, 1.0), (-3.0, 0.5), "length", 1.0)
    assert Page(render_html(with_kl)).titles == [
        "reward +0, KL term -3",
        "reward +1, KL term +0.5",
    ]


def test_nothing_is_coloured_before_there_are_numbers() -> None:
    view = EpisodeView("Q:", ("a", "b"))
    assert render_ansi(view) == "Q:ab"
    page = Page(render_html(view))
    assert page.text == "Q:ab" and not page.titles


@pytest.mark.parametrize("numbers", [{}, {"total": 1.0, "rewards": (1.0, 0.0)}])
def test_hostile_text_is_spelled_out(numbers: dict[str, Any]) -> None:
    view = EpisodeView(HOSTILE, (HOSTILE, "x"), **numbers)
    terminal = STYLE.sub("", render_ansi(view))
    assert not [c for c in terminal if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"]
    assert terminal.count("␛]0;title␇␛[2J<U+009B>31m<U+202E>evil␀␍") == 2
    page = Page(render_html(view))
    assert {tag for tag, _ in page.tags} == {"div", "span"}
    assert page.text.count("</script><img src=x onerror=alert(1)>\"'&␛]0;title␇") == 2
    attributes = {name for _, attrs in page.tags for name in attrs}
    assert attributes <= {"class", "dir", "style", "title"}


@given(st.text(st.characters(exclude_categories=())))
@settings(max_examples=200, deadline=None)
def test_any_text_is_safe_and_can_be_written(text: str) -> None:
    shown = visible(text)
    shown.encode("utf-8")
    bad = [c for c in shown if unicodedata.category(c) in ("Cc", "Cs", "Zl", "Zp")]
    assert set(bad) <= {"\n", "\t"}
    view = EpisodeView(text, (text,), (1.0,), (-1.0,), "length", 1.0)
    assert "\x1b" not in STYLE.sub("", render_ansi(view))
    assert {tag for tag, _ in Page(render_html(view)).tags} == {"div", "span"}


def test_plain_text_and_the_joiners_of_letters_stay() -> None:
    text = "Größe 日本\t🎉 می\u200cخواهم 👩\u200d🚀\n"
    assert visible(text) == text
    assert visible("\x7f\ud800\u2028\u200b") == "␡<U+D800><U+2028><U+200B>"


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_figures_that_are_not_finite_do_not_break_it(value: float) -> None:
    view = EpisodeView("Q:", ("a", "b"), (value, 1.0), (value, -1.0), "length", value)
    assert "a" in render_ansi(view) and Page(render_html(view)).text


def test_pieces_of_a_split_character_stand_with_its_last_token() -> None:
    tokenizer = load_tokenizer("tiny-lm")
    text = "Héllo — 日本 🎉\n  two"
    ids = tokenizer.encode_completion(text)
    alone = [tokenizer.decode([i]) for i in ids]
    pieces = token_pieces(tokenizer, ids)
    assert any("\ufffd" in piece for piece in alone), "some characters must be split"
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join(pieces) == text
    assert token_pieces(tokenizer, ids[:-1] + [tokenizer.eos_id])[-1] == ""
    cut = next(i for i, piece in enumerate(pieces) if piece == "日")
    assert token_pieces(tokenizer, ids[:cut])[-1] == "\ufffd", "nothing completes it"


@given(ids=st.lists(st.integers(0, 5119), max_size=24))
@settings(max_examples=100, deadline=None)
def test_pieces_of_any_tokens_add_up_to_the_text(ids: list[int]) -> None:
    tokenizer = load_tokenizer("tiny-lm")
    pieces = token_pieces(tokenizer, ids)
    assert len(pieces) == len(ids) and "".join(pieces) == tokenizer.decode(ids)


def say(env: Any, text: str) -> None:
    for token in env.unwrapped.tokenizer.encode_completion(text):
        env.step(token)


def test_an_environment_renders_as_it_goes(toy: dict[str, Any]) -> None:
    env = TextEnv(**toy, render_mode="ansi")
    assert env.render() is None
    env.reset(options={"prompt_id": "p0"})
    assert env.render() == "ab0"
    say(env, "xé")
    assert env.render() == "ab0xé"
    env.step(env.tokenizer.eos_id)
    shown = Text.from_ansi(env.render() or "").plain
    assert shown.startswith("ab0xé<eos>\n") and shown.endswith("\nscore 0.375, ended by eos")
    env.reset(options={"prompt_id": "p1"})
    assert env.render() == "abab1", "the numbers of the episode before are gone"
    assert TextEnv(**toy).render() is None


def test_html_mode_through_make(select_options: dict[str, Any]) -> None:
    env = gym.make("textenvs/ContextSelect-v0", render_mode="html", **select_options)
    env.reset(seed=0)
    env.step(env.unwrapped.tokenizer.eos_id)  # type: ignore[attr-defined]
    shown = env.render()
    assert isinstance(shown, str)
    assert "ended by eos" in Page(shown).text


def test_a_reward_that_spreads_shades_every_token(toy: dict[str, Any]) -> None:
    def spread(episodes: Any) -> RewardResult:
        result = RewardResult.from_scores("spread", [0.0] * len(episodes))
        share = [np.linspace(-1, 1, len(e.completion_ids)) for e in episodes]
        return RewardResult(result.scores, result.terms, share)

    env = TextEnv(**{**toy, "reward": spread}, render_mode="html")
    env.reset(seed=0)
    say(env, "ab")
    env.step(1)
    assert Page(env.render() or "").titles == ["reward -1", "reward +1"], "the middle one is 0"


def test_an_unscored_episode_shows_no_score(toy: dict[str, Any]) -> None:
    env = TextEnv(
        **{**toy, "reward": lambda prompt, completion: None}, on_unscored=-7, render_mode="ansi"
    )
    env.reset(seed=0)
    env.step(1)
    assert (env.render() or "").endswith("<eos>\nno score, ended by eos")


@pytest.mark.parametrize("timing", ["step", "episode"])
def test_kl_terms_are_rendered(
    timing: str, toy: dict[str, Any], make_model: Callable[..., Any]
) -> None:
    reference = CausalLMReference(make_model(seed=3), bfloat16=False)
    inner = TimeLimit(TextEnv(**toy, render_mode="html"), 9)
    env = ReferenceKL(inner, reference, 0.25, timing=timing)
    env.reset(seed=0)
    say(env, "ab")
    under_way: Any = env.render()
    assert len(Page(under_way).titles) == (2 if timing == "step" else 0)
    *_, info = env.step(1)
    shown: Any = env.render()
    expected = [f"KL term {term:+.4g}" for term in info["kl"]["terms"]]
    assert [str(title).partition(", ")[2] for title in Page(shown).titles] == expected
    env.reset(seed=0)
    begun: Any = env.render()
    assert not Page(begun).titles
    rows = {**toy, "num_envs": 2, "render_mode": "html"}
    venv = VectorReferenceKL(TextVectorEnv(**rows), reference, 0.25, timing=timing)
    venv.reset(seed=0)
    venv.step(np.array([1, 70]))
    over, going = venv.render() or ("", "")
    assert len(Page(over).titles) == 1
    assert len(Page(going).titles) == (1 if timing == "step" else 0)


@pytest.mark.parametrize("mode", ["NextStep", "SameStep", "Disabled"])
def test_a_vector_environment_renders_each_row(mode: str, toy: dict[str, Any]) -> None:
    venv = TextVectorEnv(**toy, num_envs=2, autoreset_mode=mode, render_mode="ansi")
    assert venv.render() == ("", "")
    venv.reset(options={"prompt_id": ["p0", "p1"]})
    assert venv.render() == ("ab0", "abab1")
    venv.step(np.array([1, 70]))
    over, going = venv.render() or ("", "")
    assert going == "abab1" + venv.tokenizer.decode([70])
    if mode == "SameStep":  # the row has moved on to its next episode
        assert venv.batch.current[0] is not None
        assert over == venv.batch.current[0].text
    else:
        assert "score 0.375, ended by eos" in over
    assert TextVectorEnv(**toy, num_envs=2).render() is None
