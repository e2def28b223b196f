"""`Perplexity`: its arithmetic on a tiny model, the batch it must not depend on, bad options."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from textenvs.errors import ConfigError, UnknownNameError
from textenvs.rewards import Perplexity
from textenvs.rewards.learned.perplexity import perplexity
from textenvs.types import Episode, Prompt

PROMPT = Prompt("p", "ab")
TEXTS = ["a", "abc", "hello there", "\x00\ud800", "\U0001f600", "aaaa" * 30, "  x"]


@pytest.fixture(scope="module")
def folder(
    make_model: Callable[..., Any], byte_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> str:
    path = tmp_path_factory.mktemp("scorer")
    make_model().save_pretrained(path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (path / name).write_bytes((byte_folder / name).read_bytes())
    return str(path)


def scores(reward: Perplexity, *answers: str) -> list[float]:
    return reward([Episode(PROMPT, text) for text in answers]).scores.tolist()


def test_enough_over_perplexity(folder: str) -> None:
    measured = perplexity([Episode(PROMPT, text) for text in TEXTS], folder)
    assert measured.min() < np.median(measured) < measured.max()
    enough = float(np.median(measured))
    got = scores(Perplexity(folder, enough=enough), *TEXTS)
    assert got == pytest.approx(np.minimum(1.0, enough / measured), rel=1e-12)
    assert max(got) == 1.0 > min(got) > 0.0


def test_an_empty_answer_gets_nothing(folder: str) -> None:
    reward = Perplexity(folder, enough=1e9)
    assert scores(reward, "", "a", " \n") == [0.0, 1.0, 0.0]
    assert scores(reward) == [] and reward.bounds(PROMPT) == (0.0, 1.0)


@settings(max_examples=10, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.text(max_size=30), min_size=1, max_size=5))
def test_bounded_deterministic_independent_of_the_batch(folder: str, answers: list[str]) -> None:
    reward = Perplexity(folder, enough=100.0)
    whole = scores(reward, *answers, *TEXTS)
    assert all(0.0 <= score <= 1.0 for score in whole)
    assert whole == scores(reward, *answers, *TEXTS)
    assert whole[: len(answers)] == [scores(reward, text)[0] for text in answers]


def test_over_long_answers_are_cut(folder: str) -> None:
    """The model has 256 places: a prompt takes half of them at most, an answer the rest."""
    long, longer = Episode(PROMPT, "abc" * 90), Episode(PROMPT, "abc" * 9_000)
    far = Prompt("far", "xyz " * 200 + "ab" * 64)
    near = Prompt("near", "ab" * 64)
    both = perplexity([long, longer, Episode(far, "abc"), Episode(near, "abc")], folder)
    assert both[0] == both[1] and both[2] == both[3] and np.isfinite(both).all()


def test_bad_options(folder: str) -> None:
    for enough in (0.5, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match="enough must be finite and at least 1"):
            Perplexity(folder, enough=enough)
    with pytest.raises(UnknownNameError):
        scores(Perplexity("no-such-model"), "a")
