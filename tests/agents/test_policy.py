"""`CausalLMPolicy`: cached against teacher-forced, critics, saving."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from agents.config import LoRAConfig
from agents.policy import CausalLMPolicy
from textenvs.errors import CheckpointError, ConfigError, ModelError, UnknownNameError
from textenvs.reference import CausalLMReference

KINDS = ["llama", "gpt2", "qwen2"]
PROMPT_COLUMNS, BUDGET = 8, 6
Maker = Callable[..., CausalLMPolicy]


def ragged(lengths: list[int], seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return observations with left-padded prompts of these lengths and no completion."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.zeros(len(lengths), PROMPT_COLUMNS + BUDGET, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, length in enumerate(lengths):
        first = PROMPT_COLUMNS - length
        ids[row, first:PROMPT_COLUMNS] = torch.randint(2, 258, (length,), generator=generator)
        mask[row, first:PROMPT_COLUMNS] = 1
    return ids, mask


def grow(ids: torch.Tensor, mask: torch.Tensor, tokens: torch.Tensor, rows: torch.Tensor) -> None:
    """Write each row's token at its own column."""
    columns = PROMPT_COLUMNS + mask[:, PROMPT_COLUMNS:].sum(1)
    ids[rows, columns[rows]] = tokens[rows]
    mask[rows, columns[rows]] = 1


@torch.no_grad()
def plain_logprobs(model: Any, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Return log pi of one row's completion by an unpadded pass of the bare model."""
    sequence = ids[mask.bool()]
    n = int(mask[PROMPT_COLUMNS:].sum())
    logits = model(sequence[None]).logits[0, -n - 1 : -1].log_softmax(-1)
    return logits.gather(-1, sequence[-n:, None])[:, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_cached_decoding_equals_teacher_forcing(kind: str, make_policy: Maker) -> None:
    policy = make_policy(kind)
    ids, mask = ragged([8, 1, 5, 3])
    generator = torch.Generator().manual_seed(0)
    state, acted = None, []
    everyone = torch.arange(4)
    for _ in range(BUDGET):
        tokens, logprobs, state = policy.act(ids, mask, state, generator=generator)
        grow(ids, mask, tokens, everyone)
        acted.append(logprobs)
    sampled = torch.stack(acted, 1)
    evaluated = policy.evaluate(ids, mask, PROMPT_COLUMNS)
    torch.testing.assert_close(sampled, evaluated.logprobs.detach(), atol=1e-4, rtol=0)
    for row in range(4):
        plain = plain_logprobs(policy.model, ids[row], mask[row])
        torch.testing.assert_close(sampled[row], plain, atol=1e-4, rtol=0)
    assert sampled.std() > 0.5, "a flat model would hide a wrong column"


@pytest.mark.parametrize("kind", KINDS)
def test_rows_reset_in_the_middle_and_select(kind: str, make_policy: Maker) -> None:
    """Every logprob equals a pass without a cache, through resets, longer prompts and select."""
    policy = make_policy(kind)
    ids, mask = ragged([2, 4, 3, 1])
    generator = torch.Generator().manual_seed(1)
    state = None
    fresh = torch.ones(4, dtype=torch.bool)
    for step in range(12):
        tokens, logprobs, state = policy.act(ids, mask, state, fresh, generator=generator)
        grow(ids, mask, tokens, torch.arange(len(ids)))
        for row in range(len(ids)):
            plain = plain_logprobs(policy.model, ids[row], mask[row])[-1]
            assert logprobs[row].item() == pytest.approx(plain.item(), abs=1e-4)
        fresh = mask[:, PROMPT_COLUMNS:].all(1)
        fresh[step % len(ids)] |= step % 3 == 1
        if fresh.any():
            new_ids, new_mask = ragged([8 if step > 6 else 3] * len(ids), seed=step)
            ids, mask = ids.clone(), mask.clone()
            ids[fresh], mask[fresh] = new_ids[fresh], new_mask[fresh]
        if step == 8:
            kept = torch.tensor([3, 1, 0])
            state, ids, mask, fresh = state.select(kept), ids[kept], mask[kept], fresh[kept]


def test_forgetting_fresh_is_seen(make_policy: Maker) -> None:
    """Negative control: a reset row that is not announced reads a stale cache."""
    policy = make_policy()
    ids, mask = ragged([6, 6])
    _, _, state = policy.act(ids, mask, deterministic=True)
    new_ids, new_mask = ragged([5, 6], seed=9)
    new_ids[1], new_mask[1] = ids[1], mask[1]
    _, stale, _ = policy.act(new_ids, new_mask, state, deterministic=True)
    fresh = torch.tensor([True, False])
    _, right, _ = policy.act(new_ids, new_mask, state, fresh, deterministic=True)
    assert abs((stale - right)[0].item()) > 1e-3
    assert abs((stale - right)[1].item()) < 1e-4


def test_evaluate_by_hand(make_policy: Maker) -> None:
    """Entropy and zeros behind the end, for rows of different lengths."""
    policy = make_policy(temperature=2.0)
    ids, mask = ragged([4, 7])
    for length, row in ((3, 0), (1, 1)):
        ids[row, PROMPT_COLUMNS : PROMPT_COLUMNS + length] = 77
        mask[row, PROMPT_COLUMNS : PROMPT_COLUMNS + length] = 1
    found = policy.evaluate(ids, mask, PROMPT_COLUMNS)
    assert found.logprobs.shape == found.entropy.shape == (2, BUDGET)
    assert found.values.shape == (2, BUDGET + 1)
    with torch.no_grad():
        prompt = ids[1, :PROMPT_COLUMNS][mask[1, :PROMPT_COLUMNS].bool()]
        law = (policy.model(prompt[None]).logits[0, -1] / 2.0).log_softmax(-1)
    assert found.logprobs[1, 0].item() == pytest.approx(law[77].item(), abs=1e-4)
    assert found.entropy[1, 0].item() == pytest.approx(-(law.exp() * law).sum().item(), abs=1e-4)
    for tensor in (found.logprobs, found.entropy):
        assert not tensor[0, 3:].any() and not tensor[1, 1:].any() and tensor[0, :3].all()


def test_temperature_must_be_positive(make_policy: Maker) -> None:
    with pytest.raises(ConfigError, match="temperature must be above 0, got 0"):
        make_policy(temperature=0)
    with pytest.raises(UnknownNameError, match="unknown critic 'shard'. Did you mean 'shared'"):
        make_policy(critic="shard")


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_value_head_begins_at_zero_and_learns(critic: str, make_policy: Maker) -> None:
    policy = make_policy(critic=critic)
    ids, mask = ragged([4, 7])
    mask[:, PROMPT_COLUMNS:] = 1
    values = policy.evaluate(ids, mask, PROMPT_COLUMNS).values
    assert values.abs().max() == 0
    torch.nn.init.constant_(policy.value_head.weight, 0.1)
    values = policy.evaluate(ids, mask, PROMPT_COLUMNS).values
    assert values.std() > 1e-3
    values.sum().backward()
    policy_touched = any(p.grad is not None and p.grad.any() for p in policy.model.parameters())
    assert policy_touched is (critic == "shared")
    critic_only = {id(p) for p in policy.trainable_parameters(critic_only=True)}
    assert not critic_only & {id(p) for p in policy.model.parameters()}


def test_predict_of_one_and_of_many(make_policy: Maker) -> None:
    policy = make_policy()
    ids, mask = ragged([4, 7])
    many = {"input_ids": ids.numpy(), "attention_mask": mask.numpy().astype(np.int8)}
    actions, state = policy.predict(many, deterministic=True)
    single, _ = policy.predict({key: value[1] for key, value in many.items()}, deterministic=True)
    assert actions.shape == (2,) and np.shape(single) == ()
    assert actions[1] == single == policy.act(ids, mask, deterministic=True).tokens[1]
    again, _ = policy.predict(
        many, state=state, episode_start=np.array([True, True]), deterministic=True
    )
    assert again.tolist() == actions.tolist()
    with pytest.raises(ConfigError, match="no token to read"):
        policy.predict({key: np.zeros_like(value) for key, value in many.items()})


def test_sampling_follows_the_distribution(make_policy: Maker) -> None:
    policy = make_policy()
    ids, mask = ragged([4])
    rows, generator = 4000, torch.Generator().manual_seed(0)
    tokens, logprobs, _ = policy.act(
        ids.expand(rows, -1), mask.expand(rows, -1), generator=generator
    )
    likeliest = policy.act(ids, mask, deterministic=True)
    expected = likeliest.logprobs.exp().item()
    found = (tokens == likeliest.tokens).float().mean().item()
    assert 0.05 < expected < 0.95
    assert abs(found - expected) < 4 * (expected * (1 - expected) / rows) ** 0.5


def test_training_mode_keeps_dropout_off(make_policy: Maker) -> None:
    policy = make_policy("gpt2")
    assert policy.model.config.resid_pdrop > 0
    ids, mask = ragged([4])
    mask[:, PROMPT_COLUMNS:] = 1
    policy.train()
    one, two = (policy.evaluate(ids, mask, PROMPT_COLUMNS).logprobs for _ in range(2))
    assert torch.equal(one, two)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("lora", [None, LoRAConfig(r=2)])
def test_saved_folder_loads_with_transformers_alone(
    kind: str, lora: LoRAConfig | None, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    policy = CausalLMPolicy.from_pretrained(model_folder(kind), lora=lora, bfloat16=False)
    base = AutoModelForCausalLM.from_pretrained(model_folder(kind))
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter.add_(0.05)
    saved = policy.save_pretrained(tmp_path / "saved")
    plain = AutoModelForCausalLM.from_pretrained(saved)
    ids = torch.arange(20, 30)[None]
    with torch.no_grad():
        expected, found = policy.model(ids).logits, plain(ids).logits
        assert (base(ids).logits - expected).abs().max() > 1e-2
    torch.testing.assert_close(found, expected, atol=1e-4 if lora else 0, rtol=0)
    assert AutoTokenizer.from_pretrained(saved)("ab")["input_ids"] == policy.tokenizer.encode("ab")  # type: ignore[union-attr]


@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_critic_reloads(critic: str, model_folder: Callable[..., Path], tmp_path: Path) -> None:
    policy = CausalLMPolicy.from_pretrained(model_folder(), critic=critic, bfloat16=False)  # type: ignore[arg-type]
    with torch.no_grad():
        for parameter in policy.trainable_parameters(critic_only=True):
            parameter.add_(0.05)
    saved = policy.save_pretrained(tmp_path / "saved")
    other = CausalLMPolicy.from_pretrained(saved, critic=critic, bfloat16=False)  # type: ignore[arg-type]
    ids, mask = ragged([4, 7])
    mask[:, PROMPT_COLUMNS:] = 1
    expected = policy.evaluate(ids, mask, PROMPT_COLUMNS).values
    assert expected.abs().min() > 0
    assert torch.equal(other.evaluate(ids, mask, PROMPT_COLUMNS).values, expected)
    if critic == "shared":
        with pytest.raises(CheckpointError, match="does not fit the critic 'separate'"):
            CausalLMPolicy.from_pretrained(saved, critic="separate")


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_adapter_off_reference_is_the_base_model(
    kind: str, make_policy: Maker, make_model: Callable[..., Any]
) -> None:
    policy = make_policy(kind, lora=LoRAConfig(r=2))
    base = CausalLMReference(make_model(kind), bfloat16=False)
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter.add_(0.05)
    ids, mask = ragged([4, 7])
    ids[:, PROMPT_COLUMNS : PROMPT_COLUMNS + 4], mask[:, PROMPT_COLUMNS : PROMPT_COLUMNS + 4] = 9, 1
    own = policy.reference()
    assert own.model is policy.model
    for reference in (own, base):
        reference.bind(PROMPT_COLUMNS, 258)
    arrays = ids.numpy(), mask.numpy()
    expected = base.completion_logprobs(*arrays)
    np.testing.assert_allclose(own.completion_logprobs(*arrays), expected, atol=1e-5)
    fresh = np.ones(2, bool)
    np.testing.assert_allclose(
        own.next_logprobs(*arrays, fresh), base.next_logprobs(*arrays, fresh), atol=1e-5
    )
    policy_says = policy.evaluate(ids, mask, PROMPT_COLUMNS).logprobs.detach().numpy()
    assert np.abs(policy_says - expected).max() > 1e-2, "outside the reference the adapter is on"


def test_reference_without_lora_is_a_frozen_copy(make_policy: Maker) -> None:
    policy = make_policy()
    reference = policy.reference()
    assert reference.model is not policy.model
    assert not any(p.requires_grad for p in reference.model.parameters())
    with torch.no_grad():
        next(policy.model.parameters()).add_(1.0)
    assert not torch.equal(next(reference.model.parameters()), next(policy.model.parameters()))


def test_bad_models(tmp_path: Path, make_policy: Maker) -> None:
    with pytest.raises(UnknownNameError, match="unknown model 'tiny-ml'. Did you mean 'tiny-lm'"):
        CausalLMPolicy.from_pretrained("tiny-ml")
    with pytest.raises(ModelError, match="holds no config.json"):
        CausalLMPolicy.from_pretrained(tmp_path)
    with pytest.raises(ModelError, match="knows 258 tokens.*tokenizer has 300"):
        make_policy().check_vocabulary(300)


def test_shipped_model_loads_and_acts() -> None:
    policy = CausalLMPolicy.from_pretrained("tiny-lm", bfloat16=False)
    assert policy.tokenizer is not None
    ids = np.array([policy.tokenizer.encode("one two")])
    tokens, _ = policy.predict({"input_ids": ids, "attention_mask": np.ones_like(ids)})
    assert 0 <= tokens[0] < policy.tokenizer.vocab_size
