"""The clipped losses, by hand."""

import math

import pytest
import torch

from agents.losses import answer_loss, kl_loss, policy_loss, value_loss
from textenvs.errors import UnknownNameError


def surrogate(ratios, advantages, mask=None, **options):  # type: ignore[no-untyped-def]
    logprobs = torch.tensor([ratios], dtype=torch.float64).log().requires_grad_()
    kept = torch.tensor([mask or [True] * len(ratios)])
    options = {"clip_range": 0.2, "count": kept.sum(), **options}
    old = torch.zeros_like(logprobs)
    found = policy_loss(logprobs, old, torch.tensor([advantages]), kept, **options)
    found.loss.backward()
    return found, logprobs.grad[0].tolist()


def test_surrogate_by_hand() -> None:
    """min(r A, clip(r) A): 1.2 * 2, 0.5 * 1, 1.5 * -1, 0.8 * -2, each negated."""
    found, gradient = surrogate([1.5, 0.5, 1.5, 0.5], [2.0, 1.0, -1.0, -2.0])
    assert found.loss.item() == pytest.approx((-2.4 - 0.5 + 1.5 + 1.6) / 4)
    assert gradient == pytest.approx([0.0, -0.5 / 4, 1.5 / 4, 0.0])
    assert found.clip_fraction.item() == 1.0
    assert found.ratio.item() == pytest.approx(1.0)


def test_at_the_old_policy_the_gradient_is_the_policy_gradient() -> None:
    found, gradient = surrogate([1.0, 1.0], [3.0, -1.0])
    assert gradient == pytest.approx([-1.5, 0.5])
    assert (found.clip_fraction.item(), found.approx_kl.item()) == (0.0, 0.0)


def test_masked_tokens_count_for_nothing() -> None:
    found, gradient = surrogate([1.1, 7.0], [1.0, 50.0], [True, False])
    assert found.loss.item() == pytest.approx(-1.1)
    assert gradient[1] == 0.0 and found.clip_fraction.item() == 0.0


def test_approx_kl_is_k3() -> None:
    found, _ = surrogate([1.1, 0.9], [1.0, 1.0])
    expected = ((0.1 - math.log(1.1)) + (-0.1 - math.log(0.9))) / 2
    assert found.approx_kl.item() == pytest.approx(expected)


def test_dual_clip_bounds_negative_advantages_alone() -> None:
    plain, _ = surrogate([10.0, 10.0], [-1.0, 1.0])
    dual, gradient = surrogate([10.0, 10.0], [-1.0, 1.0], dual_clip=3.0)
    assert plain.loss.item() == pytest.approx((10 - 1.2) / 2)
    assert dual.loss.item() == pytest.approx((3 - 1.2) / 2)
    assert gradient == [0.0, 0.0]
    near, _ = surrogate([1.1, 1.0], [-1.0, 1.0], dual_clip=3.0)
    assert near.loss.item() == pytest.approx((1.1 - 1.0) / 2), "inactive below the bound"


def test_huge_log_ratios_stay_finite() -> None:
    logprobs = torch.tensor([[0.0]], requires_grad=True)
    mask = torch.tensor([[True]])
    loss = policy_loss(
        logprobs,
        torch.tensor([[-500.0]]),
        torch.tensor([[-1.0]]),
        mask,
        clip_range=0.2,
        count=mask.sum(),
    ).loss
    assert loss.item() == pytest.approx(math.exp(20), rel=1e-4)


@pytest.mark.parametrize(
    ("clip_range", "expected", "share"),
    [(None, (0.25 + 4.0 + 0.0) / 6, 0.0), (0.2, (0.64 + 4.0 + 0.64) / 6, 2 / 3)],
)
def test_value_loss_by_hand(clip_range: float | None, expected: float, share: float) -> None:
    """From old 0 to a return of 1: clipped values stay at 0.2, off by 0.8.

    The second value moved away to -1 (clipped to -0.2), whose own error 2^2 is the larger.
    """
    values = torch.tensor([[0.5, -1.0, 1.0, 9.0]])
    old, returns = torch.zeros(1, 4), torch.ones(1, 4)
    mask = torch.tensor([[True, True, True, False]])
    loss, clipped = value_loss(values, old, returns, mask, clip_range=clip_range, count=mask.sum())
    assert loss.item() == pytest.approx(expected)
    assert clipped.item() == pytest.approx(share)


def test_answer_loss() -> None:
    logprobs = torch.tensor([[-1.0, -3.0, -50.0]])
    assert answer_loss(logprobs, torch.tensor([[True, True, False]])).item() == 2.0
    assert answer_loss(logprobs, torch.zeros(1, 3, dtype=torch.bool)).item() == 0.0


def test_an_upper_clip_of_its_own() -> None:
    """min(r A, clip(r) A) with the ratio held in [0.8, 1.4]."""
    found, gradient = surrogate([1.3, 1.5, 0.7], [1.0, 1.0, -1.0], clip_range_high=0.4)
    assert found.loss.item() == pytest.approx((-1.3 - 1.4 + 0.8) / 3)
    assert gradient == pytest.approx([-1.3 / 3, 0.0, 0.0])
    assert found.clip_fraction.item() == pytest.approx(2 / 3)


def test_a_count_for_each_row() -> None:
    """Two rows of one and of three tokens weigh alike when each is divided by its own."""
    ratios = torch.ones(2, 3, dtype=torch.float64)
    mask = torch.tensor([[True, False, False], [True, True, True]])
    advantages = torch.tensor([[4.0, 9.0, 9.0], [1.0, 1.0, 1.0]], dtype=torch.float64)
    counts = 2 * mask.sum(1, keepdim=True)
    found = policy_loss(ratios.log(), ratios.log(), advantages, mask, clip_range=0.2, count=counts)
    assert found.loss.item() == pytest.approx(-(4.0 + 1.0) / 2)


@pytest.mark.parametrize("estimator", ["k2", "k3"])
def test_kl_in_the_loss_by_hand(estimator: str) -> None:
    ours = torch.tensor([[-1.0, -0.5, -9.0]], dtype=torch.float64, requires_grad=True)
    theirs = torch.tensor([[-1.5, -0.25, -1.0]], dtype=torch.float64)
    mask = torch.tensor([[True, True, False]])
    d = [0.5, -0.25]
    value = {"k2": [x * x / 2 for x in d], "k3": [math.exp(-x) - 1 + x for x in d]}[estimator]
    slope = {"k2": d, "k3": [1 - math.exp(-x) for x in d]}[estimator]
    found = kl_loss(ours, theirs, mask, estimator=estimator, count=mask.sum())
    found.backward()
    assert found.item() == pytest.approx(sum(value) / 2)
    assert ours.grad is not None
    assert ours.grad[0].tolist() == pytest.approx([slope[0] / 2, slope[1] / 2, 0.0])


def test_k1_is_no_loss() -> None:
    one = torch.zeros(1, 1)
    with pytest.raises(UnknownNameError, match="k2"):
        kl_loss(one, one, one.bool(), estimator="k1", count=torch.tensor(1))
