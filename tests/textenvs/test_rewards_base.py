"""What a reward is, the algebra, and what is refused."""

import math
from functools import partial
from typing import Any

import numpy as np
import pytest

from textenvs.errors import ConfigError, RewardError, UnknownNameError
from textenvs.rewards import (
    REWARDS,
    BaseReward,
    ContextMatch,
    RewardResult,
    WeightedSum,
    resolve_reward,
    reward,
)
from textenvs.rewards.base import Term, checked_result
from textenvs.rewards.results import GATED, SCORED, UNSCORED
from textenvs.types import Episode, Item, Prompt

PROMPT = Prompt("p", "say", (Item("One", "a"), Item("Two", "b")), metadata={"category": "a"})
EPISODES = [Episode(PROMPT, text) for text in ("One", "", "four four")]


@reward
def length(prompt: Prompt, completion: str) -> float:
    """Count the letters."""
    return float(len(completion))


@reward(name="silent")
def silent_on_empty(episodes: Any) -> list[float | None]:
    return [1.0 if episode.completion else None for episode in episodes]


def module_level(prompt: Prompt, completion: str) -> float:
    return 4.0


def test_functions_become_rewards() -> None:
    assert (length.name, length.__doc__) == ("length", "Count the letters.")
    assert length(EPISODES).scores.tolist() == [3.0, 0.0, 9.0]
    assert silent_on_empty.name == "silent" and silent_on_empty.batched


def test_unscored_is_not_zero() -> None:
    result = silent_on_empty(EPISODES)
    assert result.terms["silent"].status == ("scored", "unscored", "scored")
    assert np.isnan(result.scores).tolist() == [False, True, False]
    total = (length + silent_on_empty)(EPISODES)
    assert np.isnan(total.scores).tolist() == [False, True, False]
    assert total.terms["length"].status == ("scored",) * 3


def test_algebra_by_hand() -> None:
    mix = 0.5 * length - 2 * silent_on_empty + ContextMatch() * 3
    result = mix(EPISODES[::2])
    assert result.scores.tolist() == [0.5 * 3 - 2 + 3, 0.5 * 9 - 2 - 3]
    assert {name: term.weight for name, term in result.terms.items()} == {
        "length": 0.5,
        "silent": -2.0,
        "context_match": 3.0,
    }
    assert result.terms["length"].score.tolist() == [3.0, 9.0], "raw scores are kept"
    weighted = sum(term.weighted for term in result.terms.values())
    np.testing.assert_allclose(weighted, result.scores)
    assert (-mix)(EPISODES[::2]).scores.tolist() == [-2.5, 0.5]
    assert (2 * mix)(EPISODES[::2]).terms["length"].weight == 1.0


def test_bounds_of_a_sum() -> None:
    assert ContextMatch().bounds(PROMPT) == (-2.0, 1.0)
    assert (-2 * ContextMatch()).bounds(PROMPT) == (-2.0, 4.0)
    assert (ContextMatch() + 0 * length).bounds(PROMPT) == (-2.0, 1.0)
    assert (ContextMatch() + length).bounds(PROMPT) == (-math.inf, math.inf)


@pytest.mark.parametrize("weight", [math.nan, math.inf, True, "2", None])
def test_bad_weights(weight: Any) -> None:
    with pytest.raises(ConfigError, match="weight must be a finite number"):
        length * weight


def test_two_terms_of_one_name() -> None:
    with pytest.raises(ConfigError, match="two rewards of the sum are called 'length'"):
        length + 0.5 * length
    with pytest.raises(TypeError):
        length + 1.0
    with pytest.raises(ConfigError, match="two terms of the sum are called 'length'"):
        Several("pair", "length") + length


class Several(BaseReward):
    """Two terms, one of them of any name."""

    def __init__(self, name: str, second: str) -> None:
        self.name, self.second = name, second

    def __call__(self, episodes: Any) -> RewardResult:
        ones = np.ones(len(episodes))
        return RewardResult(2 * ones, {self.name: Term.of(ones), self.second: Term.of(ones)})

    def term_weights(self) -> dict[str, float]:
        return {self.name: 1.0} if self.second == "undeclared" else {self.name: 1, self.second: 1}


def test_a_clash_of_names_that_nobody_declared_is_found_when_scoring() -> None:
    clash = Several("one", "undeclared") + Several("two", "undeclared")
    with pytest.raises(RewardError, match="two terms of the reward .* are called 'undeclared'"):
        clash(EPISODES)


def test_sums_flatten_and_numpy_numbers_weigh() -> None:
    nested = 2 * (0.5 * length + (np.float64(0.25) * silent_on_empty)) / 4
    assert nested.name == "0.25*length + 0.125*silent"
    assert [weight for _, weight in nested.parts] == [0.25, 0.125]
    for two in (np.float32(2), np.int64(2), 2):
        assert (two * length).name == (length * two).name == "2*length"
    assert nested.term_weights() == {"length": 0.25, "silent": 0.125}
    with pytest.raises(ConfigError, match="use Gate"):
        length * silent_on_empty  # type: ignore[operator]
    with pytest.raises(ConfigError, match="cannot be divided by 0"):
        length / 0
    with pytest.raises(ConfigError, match="at least one reward"):
        WeightedSum([])


def test_a_weight_of_zero_logs_and_does_not_count() -> None:
    result = checked_result(length + 0 * silent_on_empty, EPISODES)
    assert result.scores.tolist() == [3.0, 0.0, 9.0], "an unscored measure leaves the total alone"
    assert result.terms["silent"].status == (SCORED, UNSCORED, SCORED)
    np.testing.assert_equal(result.terms["silent"].score, [1.0, np.nan, 1.0])


def test_a_part_of_the_wrong_length_is_named() -> None:
    short = Odd(RewardResult(np.ones(1)))
    with pytest.raises(RewardError, match=r"'odd' returned scores of shape \(1,\) for 3"):
        (length + short)(EPISODES)


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_rewards_by_name(name: str) -> None:
    assert isinstance(resolve_reward(name), BaseReward)


def test_resolving() -> None:
    assert resolve_reward(length) is length
    assert resolve_reward(ContextMatch).name == "context_match"
    assert resolve_reward(module_level)(EPISODES).scores.tolist() == [4.0] * 3
    assert resolve_reward("operator:eq").name == "eq"
    with pytest.raises(UnknownNameError, match="unknown reward 'context-mach'. Did you mean"):
        resolve_reward("context-mach")
    with pytest.raises(ConfigError, match="the reward math:absent cannot be imported"):
        resolve_reward("math:absent")
    with pytest.raises(ConfigError, match="3 is no reward"):
        resolve_reward(3)
    for function in (lambda: 0.0, "math:hypot"):
        with pytest.raises(ConfigError, match=r"must take \(prompt, completion\)"):
            resolve_reward(function)


class Odd(BaseReward):
    """Returns whatever it was given."""

    name = "odd"

    def __init__(self, result: Any) -> None:
        self.result = result

    def __call__(self, episodes: Any) -> Any:
        return self.result


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([1.0, 2.0, 3.0], "returned list, not a RewardResult"),
        (RewardResult(np.zeros(2)), r"scores of shape \(2,\) for 3 episodes"),
        (RewardResult(np.array([0, np.inf, 0])), "returned infinity for the prompt 'p'"),
    ],
)
def test_bad_results(result: Any, message: str) -> None:
    with pytest.raises(RewardError, match=message):
        checked_result(Odd(result), EPISODES)


@pytest.mark.parametrize("returned", ["much", [1.0], object()])
def test_bad_numbers(returned: Any) -> None:
    with pytest.raises(RewardError, match="it must return one number an episode"):
        reward(lambda prompt, completion: returned)(EPISODES)


def term(score: list[float], status: list[str], weight: float = 1.0) -> Term:
    return Term(np.array(score), weight, tuple(status))


NAN = math.nan


@pytest.mark.parametrize(
    ("terms", "message"),
    [
        ({"t": term([1, 2, 4], [SCORED] * 3)}, "its terms add up to 4"),
        ({"t": term([1, 2, 3], [SCORED] * 3, 2.0)}, "scores the prompt 'p' 1, but"),
        ({"t": term([1, 2], [SCORED] * 2)}, r"shape \(2,\) and 2 statuses for 3 episodes"),
        ({"t": term([1, 2, 3], [SCORED] * 2)}, "2 statuses for 3 episodes"),
        ({"t": term([1, 2, 3], [SCORED, SCORED, GATED])}, "NaN where it is"),
        ({"t": term([1, 2, NAN], [SCORED] * 3)}, "a finite number where it is"),
        ({"t": term([1, 2, 3], [SCORED, SCORED, "lost"])}, "'lost'"),
        ({"t": term([1, 2, NAN], [SCORED, SCORED, UNSCORED])}, "its terms add up to nan"),
        ({"t": term([1, 2, NAN], [SCORED, SCORED, GATED])}, "its terms add up to 0"),
    ],
)
def test_terms_that_do_not_explain_the_total(terms: dict[str, Term], message: str) -> None:
    with pytest.raises(RewardError, match=message):
        checked_result(Odd(RewardResult(np.array([1.0, 2.0, 3.0]), terms)), EPISODES)


def test_totals_without_terms_become_one_and_rounding_is_forgiven() -> None:
    bare = checked_result(Odd(RewardResult([1, 2, NAN])), EPISODES)  # type: ignore[arg-type]
    assert bare.scores.dtype == np.float64
    assert bare.terms["odd"].status == (SCORED, SCORED, UNSCORED)
    single = np.array([0.1, 0.2, 0.7], np.float32).astype(np.float64)
    terms = {"t": Term.of(single)}
    checked_result(Odd(RewardResult(np.array([0.1, 0.2, 0.7]), terms)), EPISODES)


TOLD = [Episode(PROMPT, text, tuple(range(len(text)))) for text in ("One", "four four", "")]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([np.ones(3), np.ones(9)], "per_token for 2 of 3 episodes"),
        ([np.ones(2), np.ones(9), np.zeros(0)], r"shape \(2,\) for an episode of 3 tokens"),
        ([np.ones(3), np.ones(9) / 2, np.zeros(0)], "shares of its tokens add up to 4.5"),
        ([np.array([1, NAN, 1]), np.ones(9), np.zeros(0)], "add up to nan"),
    ],
)
def test_tokens_that_do_not_explain_the_total(rows: list[np.ndarray], message: str) -> None:
    result = RewardResult(np.array([3.0, 9.0, 5.0]), {}, rows)
    with pytest.raises(RewardError, match=message):
        checked_result(Odd(result), TOLD)


def test_tokens_of_unscored_episodes_and_of_texts_without_tokens_are_not_judged() -> None:
    rows = [np.full(3, NAN), np.ones(9), np.zeros(0)]
    checked_result(Odd(RewardResult(np.array([NAN, 9.0, 5.0]), {}, rows)), TOLD)


def test_declared_bounds_are_kept() -> None:
    @reward(bounds=(0, 5), name="short")
    def letters(prompt: Prompt, completion: str) -> float | None:
        return float(len(completion)) if completion else None

    assert letters.bounds(PROMPT) == (0.0, 5.0) and letters.name == "short"
    assert length.bounds(PROMPT) == (-math.inf, math.inf)
    assert letters(EPISODES[:2]).terms["short"].status == (SCORED, UNSCORED)
    with pytest.raises(RewardError, match=r"'four four' of the prompt 'p' 9.0, but .* \[0, 5\]"):
        letters(EPISODES)
    barely = reward(lambda prompt, completion: 0.1 + 0.2, bounds=(0, 0.3))
    assert barely(EPISODES).scores[0] > 0.3, "rounding is no broken bound"


@pytest.mark.parametrize("bounds", [(1, 0), (0,), 3, (0, math.nan), ("a", "b"), (math.inf,) * 2])
def test_bad_bounds(bounds: Any) -> None:
    with pytest.raises(ConfigError, match="the bounds of 'length' must be"):
        reward(length.function, bounds=bounds)


def test_a_function_of_tokens() -> None:
    @reward(per_token=True)
    def evens(episodes: Any) -> list[list[float] | None]:
        return [[float(i % 2 == 0) for i in e.completion_ids] or None for e in episodes]

    result = checked_result(evens, TOLD)
    np.testing.assert_equal(result.scores, [2.0, 5.0, NAN])
    assert result.per_token is not None and result.per_token[0].tolist() == [1.0, 0.0, 1.0]
    for returned in ([1.0, 2.0, 3.0], [[[1.0]], [1.0], [1.0]], "much", 4):
        wrong = reward(partial(lambda value, episodes: value, returned), per_token=True)
        with pytest.raises(RewardError, match="one sequence of numbers an episode"):
            wrong(TOLD)
    with pytest.raises(ConfigError, match=r"must take \(episodes\)"):
        reward(lambda prompt, completion: [0.0], per_token=True)
