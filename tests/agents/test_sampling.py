"""Choosing tokens: the right law, within the mask, from one number a row."""

import pytest
import torch

from agents.modeling.sampling import choose_tokens


def test_frequencies_are_those_of_the_softmax() -> None:
    """A chi-square of 7 degrees of freedom is above 24.3 once in a thousand times."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, generator=generator)
    law = (logits / 0.7).softmax(-1)
    rows = logits.expand(20_000, 8).clone()
    tokens, logprobs = choose_tokens(rows, temperature=0.7, generator=generator)
    expected = law * len(tokens)
    statistic = ((torch.bincount(tokens, minlength=8) - expected) ** 2 / expected).sum()
    assert statistic < 24.3
    torch.testing.assert_close(logprobs, law.log()[tokens], atol=1e-6, rtol=1e-5)
    wrong = logits.softmax(-1) * len(tokens)
    assert ((torch.bincount(tokens, minlength=8) - wrong) ** 2 / wrong).sum() > 24.3


@pytest.mark.parametrize("allowed", [[0], [4], [1, 3]])
@pytest.mark.parametrize("deterministic", [False, True])
def test_only_allowed_tokens_are_chosen(allowed: list[int], deterministic: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = 30 * torch.randn(500, 5, generator=generator)
    mask = torch.zeros(500, 5, dtype=torch.bool)
    mask[:, allowed] = True
    law = logits[:, allowed].log_softmax(-1)
    tokens, logprobs = choose_tokens(
        logits, generator=generator, allowed=mask, deterministic=deterministic
    )
    assert set(tokens.tolist()) == set(allowed)
    places = torch.tensor([allowed.index(token) for token in tokens.tolist()])
    torch.testing.assert_close(logprobs, law[torch.arange(500), places], atol=1e-4, rtol=1e-4)
    if deterministic:
        assert torch.equal(places, law.argmax(-1))


def test_the_largest_draw_stays_inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A draw of exactly 1 would lie behind the last token, masked or not."""
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.ones(shape, dtype=torch.float64))
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    tokens, _ = choose_tokens(torch.zeros(2, 4), allowed=mask)
    assert tokens.tolist() == [2, 3]
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.zeros(shape, dtype=torch.float64))
    tokens, _ = choose_tokens(torch.zeros(2, 4), allowed=mask.flip(1))
    assert tokens.tolist() == [1, 0]
