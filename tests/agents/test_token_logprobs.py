"""Chunked log-probabilities: equal to the plain ones, gradients too, for every kind of head."""

from typing import Any

import numpy as np
import pytest
import torch
import transformers

from agents.policy import CausalLMPolicy
from textenvs.teacher_forcing.logit_head import find_logit_head
from textenvs.teacher_forcing.token_logprobs import (
    LogitRule,
    logits_logprobs,
    token_logprobs,
    unpack_bits,
)

VOCABULARY, TOKENS, WIDTH = 37, 23, 8
RULES = [
    LogitRule(),
    LogitRule(temperature=0.6),
    LogitRule(scale=0.25, temperature=1.5),
    LogitRule(cap=3.0, scale=2.0, temperature=0.8),
]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven tokens a chunk, the last chunk shorter."""
    monkeypatch.setattr("textenvs.teacher_forcing.token_logprobs.LOGITS_PER_CHUNK", 7 * VOCABULARY)


def material(*, bias: bool = True) -> tuple[list[torch.Tensor], torch.Tensor, torch.Tensor]:
    """Return the differentiable inputs, the tokens, and bits that allow every token drawn."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    tokens = torch.randint(0, VOCABULARY, (TOKENS,), generator=generator)
    allowed = torch.rand(TOKENS, VOCABULARY, generator=generator) < 0.5
    allowed[torch.arange(TOKENS), tokens] = True
    bits = torch.from_numpy(np.packbits(allowed.numpy(), axis=-1))
    parts = [draw(TOKENS, WIDTH), draw(VOCABULARY, WIDTH)] + ([draw(VOCABULARY)] if bias else [])
    return parts, tokens, bits


def plainly(
    hidden: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    tokens: torch.Tensor,
    rule: LogitRule,
    allowed: torch.Tensor | None,
) -> tuple[torch.Tensor, torch.Tensor]:
    logits = torch.nn.functional.linear(hidden, weight, bias) * rule.scale
    if rule.cap is not None:
        logits = rule.cap * torch.tanh(logits / rule.cap)
    logits = logits / rule.temperature
    if allowed is not None:
        logits = logits.masked_fill(~allowed, -1e9)
    law = torch.distributions.Categorical(logits=logits)
    return law.log_prob(tokens), law.entropy()


def mixture(outputs: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(2, TOKENS, generator=generator)
    return (weights[0] * outputs[0]).sum() + (weights[1] * outputs[1]).sum()


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bias", [False, True])
def test_values_and_gradients(rule: LogitRule, masked: bool, bias: bool) -> None:
    parts, tokens, bits = material(bias=bias)
    allowed = unpack_bits(bits, VOCABULARY) if masked else None
    single = [part.detach().float().requires_grad_() for part in parts]
    hidden, weight, offset = (*single, None)[:3]
    found = token_logprobs(hidden, weight, offset, tokens, rule=rule, bits=bits if masked else None)
    expected = plainly(*(*parts, None)[:3], tokens, rule, allowed)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.double(), other, atol=1e-5, rtol=1e-5)
    mine = torch.autograd.grad(mixture(found), single)
    right = torch.autograd.grad(mixture(expected), parts)
    for one, other in zip(mine, right, strict=True):
        assert (one - other).norm() / other.norm() < 1e-5


@pytest.mark.parametrize("masked", [False, True])
def test_held_logits_say_the_same(masked: bool) -> None:
    parts, tokens, bits = material(bias=False)
    logits = torch.nn.functional.linear(*parts).float()
    given = bits if masked else None
    found = logits_logprobs(logits, tokens, bits=given)
    expected = token_logprobs(parts[0].float(), parts[1].float(), None, tokens, bits=given)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-5)
    mine, right = (
        torch.autograd.grad(mixture(out), parts, retain_graph=True) for out in (found, expected)
    )
    for one, other in zip(mine, right, strict=True):
        assert (one - other).norm() / other.norm() < 1e-5


def test_a_token_that_is_not_allowed_is_impossible() -> None:
    parts, tokens, _ = material()
    everything = np.ones((TOKENS, VOCABULARY), bool)
    everything[3, tokens[3]] = False
    bits = torch.from_numpy(np.packbits(everything, axis=-1))
    logprobs, entropy = token_logprobs(*[p.float() for p in parts], tokens, bits=bits)
    assert logprobs[3] == -torch.inf and logprobs.isfinite().sum() == TOKENS - 1
    assert entropy.isfinite().all()


def test_entropy_without_gradient() -> None:
    parts, tokens, _ = material()
    leaves = [p.detach().float().requires_grad_() for p in parts]
    logprobs, entropy = token_logprobs(*leaves, tokens, with_entropy=False)
    assert logprobs.requires_grad and not entropy.requires_grad
    with_it = token_logprobs(*leaves, tokens)
    assert with_it[1].requires_grad and torch.equal(with_it[1], entropy)
    one = torch.autograd.grad(logprobs.sum(), leaves)
    other = torch.autograd.grad(with_it[0].sum(), leaves)
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


def test_frozen_weights_get_no_gradient() -> None:
    parts, tokens, _ = material()
    hidden, weight, bias = (p.detach().float() for p in parts)
    hidden.requires_grad_()
    logprobs, _ = token_logprobs(hidden, weight, bias, tokens)
    logprobs.sum().backward()
    assert hidden.grad is not None and weight.grad is None and bias.grad is None


def test_autocast_computes_in_bfloat16_and_sums_in_float32() -> None:
    parts, tokens, _ = material()
    leaves = [p.detach().float().requires_grad_() for p in parts]
    exact, _ = token_logprobs(*leaves, tokens)
    with torch.autocast("cpu", torch.bfloat16):
        rounded, _ = token_logprobs(*leaves, tokens)
    assert rounded.dtype == torch.float32
    assert 1e-4 < (rounded - exact).abs().max() < 0.2
    one, other = (torch.autograd.grad(out.sum(), leaves) for out in (rounded, exact))
    for a, b in zip(one, other, strict=True):
        assert a.dtype == torch.float32 and (a - b).norm() / b.norm() < 0.05


@pytest.mark.parametrize("count", [1, 7, 8, 9, 258])
def test_bits_are_those_of_numpy(count: int) -> None:
    allowed = np.random.default_rng(0).random((3, 2, count)) < 0.5
    bits = torch.from_numpy(np.packbits(allowed, axis=-1))
    assert unpack_bits(bits, count).numpy().tolist() == allowed.tolist()


def tiny(config_class: Any, **options: Any) -> Any:
    shape = {
        "vocab_size": 64,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": 1,
        "initializer_range": 0.4,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = config_class(**{**shape, **options})
        return transformers.AutoModelForCausalLM.from_config(config).eval()


KINDS = {
    "llama": (transformers.LlamaConfig, {}, LogitRule()),
    "gemma2": (
        transformers.Gemma2Config,
        {"head_dim": 8, "final_logit_softcapping": 2.0},
        LogitRule(cap=2.0),
    ),
    "cohere": (transformers.CohereConfig, {"logit_scale": 0.25}, LogitRule(scale=0.25)),
    "granite": (transformers.GraniteConfig, {"logits_scaling": 4.0}, LogitRule(scale=0.25)),
    "phi with a bias": (transformers.PhiConfig, {"partial_rotary_factor": 0.5}, LogitRule()),
    "opt, which is unlike the others": (
        transformers.OPTConfig,
        {"ffn_dim": 32, "word_embed_proj_dim": 16, "init_std": 0.4},
        None,
    ),
}


@pytest.mark.parametrize("name", KINDS)
def test_models_that_change_their_logits(name: str) -> None:
    config_class, options, rule = KINDS[name]
    model = tiny(config_class, **options)
    head = find_logit_head(model)
    assert (None if head is None else head.rule) == rule
    policy = CausalLMPolicy(model, bfloat16=False, temperature=0.7)
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 64, (4, 9), generator=generator)
    ids[1, :5] = ids[0, :5]
    mask = torch.ones_like(ids)
    mask[2, :3] = 0
    found = policy.evaluate(ids, mask, 5)
    for row in range(4):
        sequence = ids[row][mask[row].bool()][None]
        law = torch.distributions.Categorical(logits=model(sequence).logits[0, -5:-1] / 0.7)
        expected = law.log_prob(sequence[0, -4:])
        torch.testing.assert_close(found.logprobs[row], expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(found.entropy[row], law.entropy(), atol=1e-5, rtol=1e-5)


def test_a_layer_that_is_hooked_is_called_as_it_is() -> None:
    policy = CausalLMPolicy(tiny(transformers.LlamaConfig), bfloat16=False)
    ids = torch.tensor([[5, 6, 7, 8]])
    before = policy.evaluate(ids, torch.ones_like(ids), 2).logprobs
    policy.model.get_output_embeddings().register_forward_hook(lambda layer, given, out: out * 2)
    found = policy.evaluate(ids, torch.ones_like(ids), 2).logprobs
    law = policy.model(ids).logits[0, 1:3].log_softmax(-1)
    torch.testing.assert_close(found[0], law.gather(-1, ids[0, 2:, None])[:, 0])
    assert (found - before).abs().max() > 1e-2


def test_a_change_that_no_setting_explains_is_left_to_the_model() -> None:
    model = tiny(transformers.GraniteConfig, logits_scaling=4.0)
    model.config.to_dict = lambda: {}  # as if the setting had a name of its own
    assert find_logit_head(model) is None
