"""The K-wise loss against explicit pairs, worked by hand; its negative controls."""

import math
from itertools import combinations

import pytest
import torch
from torch import Tensor

from agents.reward_modeling import centring_loss, kwise_loss
from agents.reward_modeling.loss import pair_accuracy
from textenvs.errors import ConfigError

RANKS = torch.tensor([0, 1, 2, 3, 0, 2, 1, 1, 0, 2, 2])
PROMPTS = torch.tensor([7, 7, 7, 7, 2, 2, 2, 2, 5, 5, 5])


def some_scores(dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    scores = torch.randn(len(RANKS), generator=generator, dtype=torch.float64) * 3
    return scores.to(dtype).requires_grad_()


def explicit(scores: Tensor, ranks: Tensor, prompts: Tensor) -> list[list[Tensor]]:
    """-log sigmoid of each pair, written out; one list a prompt."""
    losses = []
    for prompt in sorted(set(prompts.tolist())):
        own = [i for i in range(len(scores)) if prompts[i] == prompt]
        pairs = []
        for i, j in combinations(own, 2):
            if ranks[i] != ranks[j]:
                better, worse = (i, j) if ranks[i] < ranks[j] else (j, i)
                pairs.append(torch.log1p(torch.exp(scores[worse] - scores[better])))
        losses.append(pairs)
    return losses


def mean_of_means(losses: list[list[Tensor]]) -> Tensor:
    return torch.stack([torch.stack(pairs).mean() for pairs in losses]).mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_the_mean_over_explicit_pairs_with_its_gradient(dtype: torch.dtype) -> None:
    scores, same = some_scores(dtype), some_scores(dtype)
    loss = kwise_loss(scores, RANKS, PROMPTS)
    expected = mean_of_means(explicit(same, RANKS, PROMPTS))
    assert abs(loss.item() - expected.item()) < 1e-6
    loss.backward()
    expected.backward()
    assert scores.grad is not None and same.grad is not None
    assert (scores.grad - same.grad).abs().max() < 1e-6
    assert scores.grad.abs().max() > 0.01


def test_a_prompt_counts_once_however_many_answers_it_has() -> None:
    """Negative control: the mean over all pairs, whatever their prompt, is another number."""
    scores = some_scores()
    losses = explicit(scores, RANKS, PROMPTS)
    over_pairs = torch.stack([loss for pairs in losses for loss in pairs]).mean()
    assert abs(kwise_loss(scores, RANKS, PROMPTS).item() - over_pairs.item()) > 0.01


def test_the_order_of_the_answers_makes_no_difference() -> None:
    scores = some_scores()
    order = torch.randperm(len(scores), generator=torch.Generator().manual_seed(1))
    shuffled = kwise_loss(scores[order], RANKS[order], PROMPTS[order])
    assert shuffled.item() == pytest.approx(kwise_loss(scores, RANKS, PROMPTS).item(), abs=1e-6)


def test_numbers_worked_by_hand() -> None:
    """Places 0, 1, 1 with scores 2, 0, 5: the pairs (2, 0) and (2, 5); (0, 5) is a tie."""
    scores, ranks = torch.tensor([2.0, 0.0, 5.0]), torch.tensor([0, 1, 1])
    prompt = torch.zeros(3, dtype=torch.long)
    by_hand = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(3))) / 2
    assert kwise_loss(scores, ranks, prompt).item() == pytest.approx(by_hand, abs=1e-6)
    assert pair_accuracy(scores, ranks, prompt).item() == 0.5
    assert centring_loss(scores, ranks, prompt).item() == pytest.approx((2**2 + 7**2) / 2)
    all_three = by_hand * 2 / 3  # what dividing by C(3, 2) would give
    assert kwise_loss(scores, ranks, prompt).item() != pytest.approx(all_three, abs=0.1)


def test_a_tie_has_no_gradient_and_no_weight() -> None:
    """Two answers that tie and score the same are as one answer counted twice."""
    scores = torch.tensor([1.0, -0.5, -0.5], requires_grad=True)
    tied = kwise_loss(scores, torch.tensor([0, 4, 4]), torch.zeros(3, dtype=torch.long))
    alone = kwise_loss(scores[:2], torch.tensor([0, 4]), torch.zeros(2, dtype=torch.long))
    assert tied.item() == pytest.approx(alone.item(), abs=1e-7)
    tied.backward()
    assert scores.grad is not None
    assert scores.grad[1] == scores.grad[2] == -scores.grad[0] / 2


def test_a_constant_changes_the_centring_loss_alone() -> None:
    scores = some_scores().detach()
    moved = scores + torch.where(PROMPTS == 2, 4.0, -1.0)
    for loss, changes in ((kwise_loss, False), (centring_loss, True)):
        same = torch.isclose(loss(scores, RANKS, PROMPTS), loss(moved, RANKS, PROMPTS), atol=1e-5)
        assert bool(same) is not changes


def test_what_is_no_ranking_is_refused() -> None:
    scores = torch.zeros(2)
    with pytest.raises(ConfigError, match="no two of 2 answers.*differ in rank"):
        kwise_loss(scores, torch.tensor([1, 1]), torch.tensor([0, 0]))
    with pytest.raises(ConfigError, match="no two of 2 answers"):
        kwise_loss(scores, torch.tensor([0, 1]), torch.tensor([0, 1]))
    with pytest.raises(ConfigError, match=r"vectors of one length, got \(2,\), \(3,\)"):
        kwise_loss(scores, torch.tensor([0, 1, 2]), torch.tensor([0, 0]))
    large = kwise_loss(torch.tensor([-2e4, 2e4]), torch.tensor([0, 1]), torch.tensor([0, 0]))
    assert large.item() == 4e4
