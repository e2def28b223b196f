"""KL estimates and the coefficient, by hand."""

import math

import numpy as np
import pytest

from textenvs.errors import ConfigError, UnknownNameError
from textenvs.kl import KLCoefficient, kl_estimate


@pytest.mark.parametrize(
    ("estimator", "expected"),
    [
        ("k1", [0.5, -0.5, 0.0]),
        ("k2", [0.125, 0.125, 0.0]),
        ("k3", [math.exp(-0.5) - 0.5, math.exp(0.5) - 1.5, 0.0]),
    ],
)
def test_estimators_by_hand(estimator: str, expected: list[float]) -> None:
    found = kl_estimate(np.array([-1.0, -2.0, -3.0]), np.array([-1.5, -1.5, -3.0]), estimator)
    assert found.dtype == np.float64
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_full_by_hand() -> None:
    """KL of (3/4, 1/4) from (1/2, 1/2) is log 2 - H(3/4, 1/4) nats."""
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    found = kl_estimate(np.log([[0.75, 0.25]]), np.log([[0.5, 0.5]]), "full")
    np.testing.assert_allclose(found, [math.log(2) - entropy])


def test_full_leaves_out_what_the_policy_never_says() -> None:
    policy = np.array([[0.0, -np.inf]])
    both = kl_estimate(policy, np.array([[0.0, -np.inf]]), "full")
    assert both.tolist() == [0.0]
    np.testing.assert_allclose(kl_estimate(policy, np.log([[0.5, 0.5]]), "full"), [math.log(2)])


def test_k1_and_k3_average_to_the_full_divergence() -> None:
    """Both are unbiased under the policy; k2 is not, and the test can tell."""
    policy, reference = np.array([0.7, 0.2, 0.1]), np.array([0.2, 0.3, 0.5])
    full = float(kl_estimate(np.log(policy), np.log(reference), "full"))
    means = {
        name: float(policy @ kl_estimate(np.log(policy), np.log(reference), name))
        for name in ("k1", "k2", "k3")
    }
    assert means["k1"] == pytest.approx(full) and means["k3"] == pytest.approx(full)
    assert abs(means["k2"] - full) > 0.05


def test_unknown_estimator() -> None:
    with pytest.raises(UnknownNameError, match="unknown KL estimator 'k4'. Did you mean"):
        kl_estimate(np.zeros(1), np.zeros(1), "k4")  # type: ignore[arg-type]


def test_fixed_coefficient_stays() -> None:
    coefficient = KLCoefficient(0.3)
    coefficient.update(1e9, 1000)
    assert coefficient.value == 0.3


@pytest.mark.parametrize(
    ("kl", "episodes", "expected"),
    [
        (6.3, 100, 0.2 * (1 + 0.05 * 100 / 1000)),  # 5% above the target
        (60.0, 100, 0.2 * (1 + 0.2 * 100 / 1000)),  # clipped above
        (0.0, 50, 0.2 * (1 - 0.2 * 50 / 1000)),  # clipped below
        (6.0, 100, 0.2),  # on target
    ],
)
def test_adaptive_coefficient_by_hand(kl: float, episodes: int, expected: float) -> None:
    coefficient = KLCoefficient(0.2, target=6.0, horizon=1000)
    coefficient.update(kl, episodes)
    assert coefficient.value == pytest.approx(expected, rel=1e-12)


def test_coefficient_round_trip() -> None:
    coefficient = KLCoefficient(0.2, target=6.0, horizon=10)
    coefficient.update(9.0, 4)
    other = KLCoefficient(0.2, target=6.0, horizon=10)
    other.load_state_dict(coefficient.state_dict())
    assert other.value == coefficient.value != 0.2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"value": -0.1}, "must be at least 0, got -0.1"),
        ({"value": math.nan}, "must be at least 0, got nan"),
        ({"value": math.inf}, "must be at least 0, got inf"),
        ({"value": 0.1, "target": 0.0}, "must be above 0 nats"),
        ({"value": 0.0, "target": 1.0}, "0 never grows"),
        ({"value": 0.1, "horizon": 0}, "must be above 0 episodes"),
    ],
)
def test_bad_coefficients(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        KLCoefficient(**arguments)  # type: ignore[arg-type]
