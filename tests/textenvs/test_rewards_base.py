"""What a reward is, the algebra, and what is refused."""

import math
from typing import Any

import numpy as np
import pytest

from textenvs.errors import ConfigError, RewardError, UnknownNameError
from textenvs.rewards import REWARDS, BaseReward, ContextMatch, RewardResult, resolve_reward, reward
from textenvs.rewards.base import checked_result
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


@pytest.mark.parametrize("name", sorted(REWARDS))
def test_rewards_by_name(name: str) -> None:
    assert isinstance(resolve_reward(name), ContextMatch)


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
