"""Packed episodes: laid out right, and learned from as if each had a row of its own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from agents.config import LoRAConfig
from agents.policy import CausalLMPolicy
from textenvs.errors import ConfigError
from textenvs.teacher_forcing.packing import Lengths, block_mask, pack, samples_per_row

PROMPT_COLUMNS, BUDGET = 9, 6
PACKING = "textenvs.teacher_forcing.packing"
Maker = Callable[..., CausalLMPolicy]


def episodes(
    groups: list[tuple[int, list[int]]], *, vocab_size: int = 258, seed: int = 0
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return episodes: for each group the prompt's length and those of its completions."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(len(lengths) for _, lengths in groups)
    ids = torch.zeros(count, PROMPT_COLUMNS + BUDGET, dtype=torch.long)
    mask = torch.zeros_like(ids)
    row = 0
    for prompt, lengths in groups:
        tokens = torch.randint(2, vocab_size, (prompt,), generator=generator)
        for length in lengths:
            ids[row, PROMPT_COLUMNS - prompt : PROMPT_COLUMNS] = tokens
            stop = PROMPT_COLUMNS + length
            drawn = torch.randint(2, vocab_size, (length,), generator=generator)
            ids[row, PROMPT_COLUMNS:stop] = drawn
            mask[row, PROMPT_COLUMNS - prompt : stop] = 1
            row += 1
    return ids, mask


GROUPS = [(9, [6, 3, 1, 5]), (4, [2, 6, 4]), (7, [1]), (2, [5, 5])]


def plain(
    policy: CausalLMPolicy, ids: torch.Tensor, mask: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return log-probabilities, entropy and values by one unpadded full forward an episode."""
    rows = []
    for row in range(len(ids)):
        sequence = ids[row][mask[row].bool()][None]
        n = int(mask[row, PROMPT_COLUMNS:].sum())
        output = policy.model(sequence, output_hidden_states=True)
        hidden = output.hidden_states[-1]
        if policy.critic_trunk is not None:
            hidden = policy.critic_trunk(sequence).last_hidden_state
        law = (output.logits[0, -n - 1 : -1] / policy.temperature).log_softmax(-1)
        rows.append(
            (
                law.gather(-1, sequence[0, -n:, None])[:, 0],
                -(law.exp() * law).sum(-1),
                policy.value_head(hidden[0, -n - 1 :])[:, 0],
            )
        )
    pad = torch.nn.functional.pad
    logprobs = torch.stack([pad(a, (0, BUDGET - len(a))) for a, _, _ in rows])
    entropy = torch.stack([pad(b, (0, BUDGET - len(b))) for _, b, _ in rows])
    values = torch.stack([pad(c, (0, BUDGET + 1 - len(c))) for _, _, c in rows])
    return logprobs, entropy, values


def gradients(policy: CausalLMPolicy, outputs: Any, seed: int = 1) -> dict[str, torch.Tensor]:
    """Return the gradient of a random mixture of all outputs, per trained parameter."""
    generator = torch.Generator().manual_seed(seed)
    policy.zero_grad()
    sum((torch.randn(part.shape, generator=generator) * part).sum() for part in outputs).backward()
    named = policy.named_parameters()
    return {name: p.grad.clone() for name, p in named if p.grad is not None}


def random_heads(policy: CausalLMPolicy) -> CausalLMPolicy:
    """Give the zero-initialised parts weights, so that gradients flow through all."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad and not parameter.any():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    return policy


@pytest.mark.parametrize("kind", ["llama", "gpt2", "qwen2"])
@pytest.mark.parametrize("critic", ["shared", "separate"])
@pytest.mark.parametrize("lora", [None, LoRAConfig(r=2, alpha=1.0)])
def test_packed_equals_one_row_an_episode(
    kind: str, critic: str, lora: LoRAConfig | None, make_policy: Maker
) -> None:
    policy = random_heads(make_policy(kind, critic=critic, lora=lora, temperature=0.7))
    ids, mask = episodes(GROUPS)
    packing = pack(ids, mask, PROMPT_COLUMNS, hidden_size=16)
    assert packing.allowed is not None and len(packing.input_ids) < len(ids), "nothing was shared"
    found = policy.evaluate(ids, mask, PROMPT_COLUMNS)
    expected = plain(policy, ids, mask)
    ours = (found.logprobs, found.entropy, found.values)
    for one, other in zip(ours, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    shared, alone = gradients(policy, ours), gradients(policy, expected)
    assert shared.keys() == alone.keys()
    assert ("critic_trunk" in "".join(shared)) is (critic == "separate")
    for name, gradient in alone.items():
        error = (shared[name] - gradient).norm() / gradient.norm()
        assert error < 1e-5, (name, error)


def test_every_number_of_samples_a_row_says_the_same(
    make_policy: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = random_heads(make_policy())
    ids, mask = episodes(GROUPS)
    expected = plain(policy, ids, mask)
    rows = set()
    for samples in (1, 2, 3, 4):
        monkeypatch.setattr(
            "textenvs.teacher_forcing.packing.samples_per_row", lambda *_, n=samples: n
        )
        found = policy.evaluate(ids, mask, PROMPT_COLUMNS)
        rows.add(len(pack(ids, mask, PROMPT_COLUMNS, hidden_size=16).input_ids))
        for one, other in zip(found, expected, strict=True):
            torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    assert rows == {10, 6, 5, 4}


def test_a_mask_without_blocks_would_be_seen(
    make_policy: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Negative control: were completions to see each other, the comparison would fail."""
    policy = make_policy()
    ids, mask = episodes(GROUPS)
    expected, _, _ = plain(policy, ids, mask)
    monkeypatch.setattr(
        "textenvs.teacher_forcing.packing.block_mask",
        lambda segments: block_mask(torch.zeros_like(segments)),
    )
    found = policy.evaluate(ids, mask, PROMPT_COLUMNS).logprobs
    assert (found - expected).abs().max() > 1e-2
    assert (found - expected)[0].abs().max() < 1e-5, "the first completion of a row is right"


def test_eager_attention_and_odd_implementations(make_model: Callable[..., Any]) -> None:
    ids, mask = episodes(GROUPS)
    found = []
    for implementation in ("sdpa", "eager"):
        model = make_model()
        model.set_attn_implementation(implementation)
        policy = CausalLMPolicy(model, bfloat16=False)
        found.append(policy.evaluate(ids, mask, PROMPT_COLUMNS).logprobs)
    torch.testing.assert_close(*found, atol=1e-5, rtol=1e-5)


def test_layout_by_hand() -> None:
    ids = torch.tensor([[0, 5, 6, 11, 12], [0, 5, 6, 21, 0], [7, 8, 9, 31, 0]])
    mask = (ids > 0).long()
    packing = pack(ids, mask, 3, hidden_size=1000)
    assert packing.input_ids.tolist() == [[5, 6, 11, 12, 21], [7, 8, 9, 31, 0]]
    assert packing.position_ids is not None and packing.allowed is not None
    assert packing.position_ids[0].tolist() == [0, 1, 2, 3, 2]
    assert packing.allowed[0, 0].int().tolist() == [
        [1, 0, 0, 0, 0],
        [1, 1, 0, 0, 0],
        [1, 1, 1, 0, 0],
        [1, 1, 1, 1, 0],
        [1, 1, 0, 0, 1],
    ]
    assert packing.tokens.tolist() == [11, 12, 21, 31]
    assert packing.reads.tolist() == [1, 2, 1, 5 + 2]
    assert packing.ends.tolist() == [3, 4, 5 + 3]
    filled = packing.per_token(torch.tensor([1.0, 2.0, 3.0, 4.0]), 2)
    assert filled.tolist() == [[1, 2], [3, 0], [4, 0]]
    states = packing.per_state(torch.arange(1.0, 8.0), 3)
    assert states.tolist() == [[1, 2, 5], [3, 6, 0], [4, 7, 0]]


def test_alone_needs_no_mask_and_no_positions() -> None:
    ids, mask = episodes([(5, [2]), (9, [6]), (5, [1])])
    packing = pack(ids, mask, PROMPT_COLUMNS, hidden_size=1000)
    assert packing.allowed is None and packing.position_ids is None
    assert packing.input_ids.shape == (3, 15)


def test_equal_prompts_of_other_lengths_or_apart_are_not_shared() -> None:
    ids, mask = episodes([(4, [2]), (3, [2]), (4, [2])])
    ids[:, PROMPT_COLUMNS - 4 : PROMPT_COLUMNS] = 9
    ids[1, PROMPT_COLUMNS - 4] = 0
    assert len(pack(ids, mask, PROMPT_COLUMNS, hidden_size=1000).input_ids) == 3
    together = ids[[0, 2, 1]], mask[[0, 2, 1]]
    assert len(pack(*together, PROMPT_COLUMNS, hidden_size=1000).input_ids) == 2


def test_cost_rule() -> None:
    def choose(prompt: int, completion: int, samples: int, hidden: int = 256) -> int:
        count = np.full(2 * samples, 1)
        opens = np.arange(2 * samples) % samples == 0
        return samples_per_row(Lengths(count * prompt, count * completion, opens), hidden)

    assert choose(400, 24, 8) == 8
    assert choose(400, 24, 1) == 1
    assert choose(4, 2000, 8) == 1, "a long row of long completions costs more than it saves"
    assert choose(400, 100, 64) == 8, "some completions a row, not all"


def test_longer_than_the_window_is_not_shared() -> None:
    ids, mask = episodes(GROUPS)
    assert pack(ids, mask, PROMPT_COLUMNS, hidden_size=16, shareable=15).allowed is not None
    assert pack(ids, mask, PROMPT_COLUMNS, hidden_size=16, shareable=14).allowed is None


def test_an_episode_without_prompt_is_refused() -> None:
    ids, mask = episodes([(3, [2]), (0, [2])])
    with pytest.raises(ConfigError, match="episode 1 has no prompt token"):
        pack(ids, mask, PROMPT_COLUMNS, hidden_size=16)


def test_an_empty_completion_has_a_value(make_policy: Maker) -> None:
    policy = random_heads(make_policy())
    ids, mask = episodes([(5, [3, 0, 2]), (4, [0])])
    found = policy.evaluate(ids, mask, PROMPT_COLUMNS)
    assert found.values[1, 0] == found.values[0, 0] != 0
    assert not found.values[1, 1:].any() and not found.logprobs[1].any()
    assert found.values[3, 0] != 0


class LargestTensor(TorchDispatchMode):
    """Remembers the largest float32 tensor any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(tensor, torch.Tensor) and tensor.dtype == torch.float32:
                self.numel = max(self.numel, tensor.numel())
        return result


def test_no_tensor_of_all_logits_is_ever_made(
    make_model: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    vocabulary, rows = 5000, 8
    policy = CausalLMPolicy(make_model(vocab_size=vocabulary), bfloat16=False)
    ids, mask = episodes([(9, [BUDGET]) for _ in range(rows)], vocab_size=vocabulary)
    everything = rows * BUDGET * vocabulary

    def largest() -> int:
        with LargestTensor() as watch:
            found = policy.evaluate(ids, mask, PROMPT_COLUMNS)
            (found.logprobs.sum() + found.entropy.sum() + found.values.sum()).backward()
        return watch.numel

    monkeypatch.setattr("textenvs.teacher_forcing.token_logprobs.LOGITS_PER_CHUNK", 2 * vocabulary)
    assert largest() == vocabulary * 16, "nothing is larger than the head's own weight"
    monkeypatch.setattr("textenvs.teacher_forcing.token_logprobs.LOGITS_PER_CHUNK", everything)
    assert largest() == everything, "the watch sees the logits when they are made at once"


@pytest.mark.parametrize("columns", [0, 256])
def test_short_rows_in_bfloat16_attend_without_the_fused_kernel(
    columns: int, make_policy: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either way gives the same within bfloat16, and leaves the model as it was."""
    monkeypatch.setattr("textenvs.teacher_forcing.trunk.SHORT_ROW", columns)
    used: list[str] = []
    policy = make_policy(bfloat16=True)
    policy.model.model.layers[0].register_forward_hook(
        lambda *_: used.append(policy.model.config._attn_implementation)
    )
    ids, mask = episodes([(5, [3, 6]), (9, [6])])
    found = policy.evaluate(ids, mask, PROMPT_COLUMNS)
    expected = make_policy().evaluate(ids, mask, PROMPT_COLUMNS)
    torch.testing.assert_close(found.logprobs, expected.logprobs, atol=0.05, rtol=0.05)
    assert used == ["eager" if columns else "sdpa"]
    assert policy.model.config._attn_implementation == "sdpa"
