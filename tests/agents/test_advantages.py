"""GAE and whitening, against numbers worked by hand and a naive double loop."""

import numpy as np
import pytest
import torch

from agents.advantages import generalized_advantages, masked_mean, whiten
from textenvs.errors import ConfigError


def naive(rewards, values, terminated, gamma, gae_lambda):  # type: ignore[no-untyped-def]
    """Sum (gamma * lambda)^l * delta_{t+l} up to the end of each episode, term by term."""
    rows, steps = rewards.shape
    found = np.zeros((rows, steps))
    for row in range(rows):
        for t in range(steps):
            weight = 1.0
            for k in range(t, steps):
                following = 0.0 if terminated[row, k] else values[row, k + 1]
                delta = rewards[row, k] + gamma * following - values[row, k]
                found[row, t] += weight * delta
                weight *= gamma * gae_lambda
                if terminated[row, k]:
                    break
    return found


def test_by_hand() -> None:
    """Deltas are 0.4, -0.1 and 0.7: with gamma * lambda = 1/2, A is 0.525, 0.25, 0.7."""
    found = generalized_advantages(
        torch.tensor([[0.0, 0.0, 1.0]]),
        torch.tensor([[0.1, 0.5, 0.4, 9.0]]),
        torch.tensor([[False, False, True]]),
        gamma=1.0,
        gae_lambda=0.5,
    )
    deltas = [0.5 - 0.1, 0.4 - 0.5, 0.6]
    by_hand = [deltas[0] + deltas[1] / 2 + deltas[2] / 4, deltas[1] + deltas[2] / 2, deltas[2]]
    np.testing.assert_allclose(by_hand, [0.5, 0.2, 0.6])
    torch.testing.assert_close(found, torch.tensor([by_hand]))


def test_truncated_rows_bootstrap() -> None:
    rewards, values = torch.tensor([[1.0]]), torch.tensor([[0.25, 8.0]])
    for over, expected in ((False, 1 + 0.5 * 8 - 0.25), (True, 0.75)):
        found = generalized_advantages(
            rewards, values, torch.tensor([[over]]), gamma=0.5, gae_lambda=0.9
        )
        assert found.item() == pytest.approx(expected)


@pytest.mark.parametrize(("gamma", "gae_lambda"), [(1.0, 0.95), (0.9, 1.0), (0.7, 0.0), (0.0, 0.5)])
def test_against_the_double_loop(gamma: float, gae_lambda: float) -> None:
    generator = np.random.default_rng(0)
    rewards, values = generator.normal(size=(5, 9)), generator.normal(size=(5, 10))
    terminated = generator.random((5, 9)) < 0.25
    assert terminated.any() and not terminated[:, -1].all()
    found = generalized_advantages(
        torch.from_numpy(rewards),
        torch.from_numpy(values),
        torch.from_numpy(terminated),
        gamma=gamma,
        gae_lambda=gae_lambda,
    )
    expected = naive(rewards, values, terminated, gamma, gae_lambda)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-10, atol=1e-12)


def test_lambda_one_is_the_return_minus_the_value() -> None:
    rewards = torch.tensor([[0.0, 2.0, 3.0]])
    values = torch.tensor([[1.0, -1.0, 0.5, 0.0]])
    over = torch.tensor([[False, False, True]])
    found = generalized_advantages(rewards, values, over, gamma=1.0, gae_lambda=1.0)
    assert found.tolist() == [[4.0, 6.0, 2.5]]


def test_shapes_are_checked() -> None:
    with pytest.raises(ConfigError, match="one more column"):
        generalized_advantages(
            torch.zeros(2, 3),
            torch.zeros(2, 3),
            torch.zeros(2, 3, dtype=torch.bool),
            gamma=1.0,
            gae_lambda=1.0,
        )


def test_masked_mean() -> None:
    values = torch.tensor([[1.0, 100.0], [3.0, 5.0]])
    assert masked_mean(values, torch.tensor([[True, False], [True, True]])).item() == 3.0
    assert masked_mean(values, torch.zeros(2, 2, dtype=torch.bool)).item() == 0.0


def test_whiten_by_hand() -> None:
    """1, 2, 3 have mean 2 and unbiased variance 1; the masked 99 counts for nothing."""
    values = torch.tensor([[1.0, 2.0], [3.0, 99.0]])
    mask = torch.tensor([[True, True], [True, False]])
    torch.testing.assert_close(whiten(values, mask), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]))
    torch.testing.assert_close(
        whiten(2 * values, mask, shift_mean=False), torch.tensor([[3.0, 4.0], [5.0, 0.0]])
    )


def test_whiten_without_variance() -> None:
    mask = torch.tensor([[True, True, False]])
    assert whiten(torch.tensor([[5.0, 5.0, 1.0]]), mask).tolist() == [[0.0, 0.0, 0.0]]
    one = torch.tensor([[True, False, False]])
    assert whiten(torch.tensor([[5.0, 5.0, 1.0]]), one).tolist() == [[5.0, 0.0, 0.0]]


def test_whiten_ignores_nan_outside_the_mask() -> None:
    mask = torch.tensor([[True, True, False]])
    found = whiten(torch.tensor([[1.0, 3.0, float("nan")]]), mask)
    assert found.isfinite().all() and found[0, 0] == -found[0, 1] != 0
