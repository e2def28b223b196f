"""Which fuzzy scorers can be a reward: the refused ones pay for what their reasons say."""

import pytest

from textenvs.errors import ConfigError, UnknownNameError
from textenvs.rewards.grounding.context_match import ContextMatch
from textenvs.rewards.grounding.fuzzy_scorers import UNFIT_SCORERS, WHOLE_SCORERS, scorer_named
from textenvs.types import Episode, Prompt

MENU = Prompt("menu", "?", ("Tiramisu", "Panna cotta", "Lemon sorbet", "Cheese plate"))


def score(text: str, scorer: str, *, force: bool = False) -> float:
    reward = ContextMatch(scorer=scorer, force=force)
    return float(reward([Episode(MENU, text)]).scores[0])


@pytest.mark.parametrize("name", UNFIT_SCORERS)
def test_refused_with_an_example_that_holds(name: str) -> None:
    example = UNFIT_SCORERS[name]
    paid = example.scorer(example.answer, example.target)
    assert paid == pytest.approx(example.score, abs=0.1)
    for whole in WHOLE_SCORERS.values():
        assert whole(example.answer, example.target) < 80, "a fit scorer does not pay for it"
    with pytest.raises(ConfigError, match="cannot be a reward: it pays") as caught:
        scorer_named(name)
    assert repr(example.answer) in str(caught.value) and "force=True" in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be a reward"):
        ContextMatch(scorer=name)
    assert scorer_named(name, force=True) is example.scorer


@pytest.mark.parametrize("name", WHOLE_SCORERS)
def test_fit_scorers_need_no_force(name: str) -> None:
    assert score("Tiramisu\nLemon sorbett", name) == 2
    assert score("Tiramisu\nLemon sorbett", name, force=True) == 2
    assert score("Lemon lobster", name) == -1


def test_unknown_scorer() -> None:
    with pytest.raises(UnknownNameError, match="unknown scorer 'ratios'. Did you mean 'ratio'"):
        ContextMatch(scorer="ratios")
    with pytest.raises(UnknownNameError, match="unknown scorer"):
        scorer_named("jaro", force=True)


def test_a_forced_scorer_judges_alone_and_is_gamed() -> None:
    assert score("e", "partial_ratio", force=True) == 1
    assert score("Tiramisu is not on the menu", "partial_ratio", force=True) == 1
    assert score("lemon lobster", "partial_token_set_ratio", force=True) == 1
    assert score("e", "ratio") == score("lemon lobster", "ratio") == -1


def test_a_forced_scorer_reads_long_lines_in_part() -> None:
    assert score("zx" * 50_000, "partial_ratio", force=True) == -1
    assert score(("zx" * 50_000 + "\n") * 3, "partial_ratio", force=True) == -3
