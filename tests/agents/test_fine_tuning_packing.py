"""Packed rows: several examples in a row read what they would read alone."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from agents.config import SFTConfig
from agents.fine_tuning import sft
from agents.supervision.epochs import EpochSampler
from agents.supervision.examples import Example
from agents.supervision.likelihood import answer_logprobs, example_losses, perplexity_of
from agents.supervision.rows import laid_out, micro_batches, packed_rows, row_tokens, single_rows
from textenvs.errors import ConfigError

Make = Callable[..., Any]


def drawn_examples(count: int = 12) -> list[Example]:
    """Examples of 2 to 24 tokens."""
    rng = np.random.default_rng(3)
    return [
        Example(
            tuple(rng.integers(2, 258, size=rng.integers(1, 12)).tolist()),
            tuple(rng.integers(2, 258, size=rng.integers(1, 12)).tolist()),
        )
        for _ in range(count)
    ]


def test_rows_by_hand() -> None:
    examples = [Example((7,), (8,) * n) for n in (1, 3, 5, 2)]  # 2, 4, 6, 3 tokens
    assert single_rows(examples) == [[2], [1], [3], [0]]
    assert packed_rows(examples) == [[2], [1, 0], [3]]
    assert list(micro_batches(examples, [[2], [1, 0], [3]], 12)) == [[[2], [1, 0]], [[3]]]
    assert list(micro_batches(examples, single_rows(examples), 5)) == [[[2]], [[1]], [[3]], [[0]]]
    with pytest.raises(ConfigError, match="token_budget must be at least 1"):
        list(micro_batches(examples, [[0]], 0))


def test_layout_by_hand() -> None:
    examples = [Example((5, 6), (7,)), Example((8,), (9, 1))]
    packed = laid_out(examples, [[0, 1]])
    assert packed.input_ids.tolist() == [[5, 6, 7, 8, 9, 1]]
    assert packed.position_ids is not None and packed.allowed is not None
    assert packed.position_ids.tolist() == [[0, 1, 2, 0, 1, 2]]
    assert packed.tokens.tolist() == [7, 9, 1] and packed.reads.tolist() == [1, 3, 4]
    assert packed.episodes.tolist() == [0, 1, 1] and packed.steps.tolist() == [0, 0, 1]
    sees = packed.allowed[0, 0]
    assert torch.equal(sees[:3, :3], torch.ones(3, 3, dtype=torch.bool).tril())
    assert torch.equal(sees[3:, 3:], torch.ones(3, 3, dtype=torch.bool).tril())
    assert not sees[3:, :3].any()
    alone = laid_out(examples, [[0], [1]])
    assert alone.position_ids is None and alone.allowed is None


def test_every_example_is_in_one_row_that_holds_it() -> None:
    examples = drawn_examples(40)
    rows = packed_rows(examples)
    assert sorted(i for row in rows for i in row) == list(range(40))
    width = max(map(len, examples))
    assert all(row_tokens(examples, row) <= width for row in rows)
    assert len(rows) < 0.8 * len(examples)


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
def test_packing_changes_neither_loss_nor_gradient(kind: str, make_policy: Make) -> None:
    examples = drawn_examples()
    found = {}
    for packing in (False, True):
        policy = make_policy(kind)
        parts = list(answer_logprobs(policy, examples, packing=packing))
        loss = -sum((part.logprobs.sum() for part in parts), torch.zeros(()))
        (loss / sum(len(e.answer) for e in examples)).backward()
        gradient = [p.grad.flatten() for p in policy.model.parameters() if p.grad is not None]
        columns = sum(part.columns for part in parts)
        found[packing] = loss.item(), torch.cat(gradient), columns
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-5)
    assert torch.allclose(found[True][1], found[False][1], atol=1e-5)
    assert found[True][2] < found[False][2]  # and it is what was laid out together


def test_examples_that_see_each_other_would_be_found_out(make_policy: Make) -> None:
    """Negative control: one causal row over two examples gives another likelihood."""
    examples = drawn_examples(2)
    policy = make_policy()
    right = example_losses(policy, examples, packing=True).nats
    joined = Example(examples[0].prompt, examples[0].answer + examples[1].prompt)
    together = Example(joined.prompt + joined.answer, examples[1].answer)
    wrong = example_losses(policy, [together]).nats[0]
    assert abs(wrong - right[1]) > 1e-2
    assert right[1] == pytest.approx(example_losses(policy, examples[1:]).nats[0], abs=1e-5)


def test_a_short_window_of_attention_is_not_packed(make_policy: Make, make_model: Make) -> None:
    """Where columns tell the window, rows are shared only by what fits into it."""
    examples = drawn_examples(6)
    policy = make_policy()
    policy.model.config.sliding_window = 4
    policy.model.config.layer_types = ["sliding_attention"] * 2
    parts = list(answer_logprobs(policy, examples, packing=True))
    assert sum(part.columns for part in parts) == 6 * max(map(len, examples))


def test_training_packed_and_unpacked_learn_alike(make_policy: Make) -> None:
    told: dict[bool, list[Any]] = {False: [], True: []}
    for packing, rows in told.items():
        config = SFTConfig(steps=4, batch_size=8, learning_rate=1e-2, packing=packing)
        sft(make_policy(), drawn_examples(), config, log=rows.append)
    for one, other in zip(told[False], told[True], strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-4)
        assert one["padding"] > other["padding"] >= 0


def test_losses_by_hand(make_policy: Make) -> None:
    """At temperature 1, whatever the policy samples at; one number an example, in order."""
    examples = drawn_examples(5)
    policy = make_policy(temperature=0.5)
    losses = example_losses(policy, examples, micro_batch_tokens=30)
    for i, example in enumerate(examples):
        ids = torch.tensor([example.prompt + example.answer])
        with torch.no_grad():
            law = policy.model(ids).logits[0].log_softmax(-1)
        first = len(example.prompt) - 1
        expected = -sum(law[first + t, token].item() for t, token in enumerate(example.answer))
        assert losses.nats[i] == pytest.approx(expected, rel=1e-5)
    assert losses.tokens.tolist() == [len(e.answer) for e in examples]
    whole = perplexity_of(losses)
    assert whole.mean == pytest.approx(np.exp(losses.nats.sum() / losses.tokens.sum()))
    assert whole.low < whole.mean < whole.high and perplexity_of(losses) == whole


def test_indices_epoch_by_epoch() -> None:
    sampler = EpochSampler(5, seed=1)
    drawn = sampler.draw(10)
    assert sorted(drawn[:5]) == sorted(drawn[5:]) == list(range(5))
    state = sampler.state_dict()
    expected = sampler.draw(7)
    other = EpochSampler(5, seed=2)
    other.load_state_dict(state)
    assert other.draw(7) == expected
    assert EpochSampler(5, seed=2).draw(10) != drawn
