"""Pretraining: what is predicted, that it is learned, and how perplexity is measured."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import agents
from agents.config import LoRAConfig
from agents.modeling.architecture import Architecture, build_causal_lm
from agents.perplexity import document_losses, perplexity
from agents.policy import CausalLMPolicy
from agents.pretraining import PretrainingConfig, pretrain
from agents.pretraining_mix import PretrainingMix
from agents.text_blocks import token_blocks
from textenvs.errors import ConfigError, CorpusError, ModelError

Make = Callable[..., Any]
TEXTS = ["the cat sat on the mat", "the dog sat on the cat", "a mat is a mat"] * 4
HELD_OUT = ["the dog sat on the mat", "a cat is a cat"]
QUICK = PretrainingConfig(steps=60, batch_size=4, learning_rate=1e-2, block_tokens=16)


def test_blocks_by_hand(byte_tokenizer: Any) -> None:
    encode, eos = byte_tokenizer.encode_completion, byte_tokenizer.eos_id
    blocks = token_blocks(["abc", "de"], byte_tokenizer, block_tokens=3)
    assert blocks.tolist() == [encode("abc"), [eos, *encode("de")]]  # the last EOS is dropped
    mix = PretrainingMix(["abc", "de"], byte_tokenizer, block_tokens=3)
    assert mix.blocks.tolist() == blocks.tolist()
    with pytest.raises(ConfigError, match="have 7 tokens, fewer than one block of 8; give more"):
        token_blocks(["abc", "de"], byte_tokenizer, block_tokens=8)


def test_the_first_loss_is_the_next_tokens(byte_tokenizer: Any, make_model: Make) -> None:
    """By hand, from the logits; every token but the first of a block."""
    model = make_model()
    rows: list[Any] = []
    config = PretrainingConfig(steps=1, batch_size=1, block_tokens=10)
    ids = token_blocks(["abcdefghi"], byte_tokenizer, block_tokens=10)
    with torch.no_grad():
        law = model(torch.from_numpy(ids)).logits[0].log_softmax(-1)
    expected = -sum(law[t, ids[0, t + 1]].item() for t in range(9)) / 9
    policy = CausalLMPolicy(model, tokenizer=byte_tokenizer, bfloat16=False)
    pretrain(policy, byte_tokenizer, ["abcdefghi"], config, log=rows.append)
    assert rows[0]["loss"] == pytest.approx(expected, rel=1e-5)
    assert (rows[0]["epoch"], rows[0]["answer_tokens"], rows[0]["padding"]) == (1.0, 9, 0.0)


def test_text_is_learned_and_so_is_its_like(byte_tokenizer: Any) -> None:
    architecture = Architecture(width=32, layers=2, heads=2, context=32)
    model = build_causal_lm(architecture, byte_tokenizer, seed=0)
    before = perplexity(model, byte_tokenizer, HELD_OUT, block_tokens=16)
    policy = agents.pretrain(model, byte_tokenizer, TEXTS, QUICK)
    after = perplexity(policy, byte_tokenizer, HELD_OUT, block_tokens=16)
    assert before.low > 100 and after.high < 0.3 * before.low
    random = perplexity(policy, byte_tokenizer, ["qxzj#wvk", "%%&&/()=?"], block_tokens=16)
    assert random.low > 2 * after.high  # it has learned this text, not to flatter


def test_the_seed_decides(byte_tokenizer: Any) -> None:
    def trained(seed: int, order: int) -> torch.Tensor:
        model = build_causal_lm(
            Architecture(width=16, layers=1, heads=2), byte_tokenizer, seed=seed
        )
        config = PretrainingConfig(steps=3, batch_size=2, block_tokens=16)
        policy = pretrain(model, byte_tokenizer, TEXTS, config, seed=order)
        return torch.cat([p.detach().flatten() for p in policy.model.parameters()])

    state = torch.get_rng_state()
    build_causal_lm(Architecture(width=16, layers=1, heads=2), byte_tokenizer, seed=0)
    assert torch.equal(torch.get_rng_state(), state)  # nothing drew from the global generator
    first = trained(0, 0)
    assert torch.equal(first, trained(0, 0))
    assert not torch.equal(first, trained(1, 0)) and not torch.equal(first, trained(0, 1))


def test_adapters_continue_a_model(byte_tokenizer: Any, make_model: Make) -> None:
    policy = CausalLMPolicy(make_model(), tokenizer=byte_tokenizer, lora=LoRAConfig(r=4))
    base = {k: v.clone() for k, v in policy.model.state_dict().items() if "lora_" not in k}
    rows: list[Any] = []
    pretrain(policy, byte_tokenizer, TEXTS, QUICK, log=rows.append)
    assert rows[-1]["loss"] < 0.8 * rows[0]["loss"]
    after = policy.model.state_dict()
    assert all(torch.equal(after[name], value) for name, value in base.items())


def test_perplexity_by_hand(byte_tokenizer: Any, make_model: Make) -> None:
    """Each token of a document once, EOS at its end; blocks overlap by one token."""
    policy = CausalLMPolicy(make_model(), tokenizer=byte_tokenizer, bfloat16=False, temperature=2.0)
    texts = ["abcdefg", "xy"]
    losses = document_losses(policy, byte_tokenizer, texts, block_tokens=5)
    eos, total, count = byte_tokenizer.eos_id, 0.0, 0
    for number, text in enumerate(texts):
        ids = [eos, *byte_tokenizer.encode_completion(text), eos]
        nats = 0.0
        for begin in range(0, len(ids) - 1, 4):
            block = torch.tensor([ids[begin : begin + 5]])
            with torch.no_grad():
                law = policy.model(block).logits[0].log_softmax(-1)
            nats -= sum(law[t, block[0, t + 1]].item() for t in range(block.shape[1] - 1))
        assert losses.nats[number] == pytest.approx(nats, rel=1e-5)
        assert losses.tokens[number] == len(text) + 1
        total, count = total + nats, count + len(text) + 1
    found = perplexity(policy, byte_tokenizer, texts, block_tokens=5)
    assert found.mean == pytest.approx(math.exp(total / count), rel=1e-5)
    assert found.low < found.mean < found.high
    assert found == perplexity(policy, byte_tokenizer, texts, block_tokens=5)
    one = perplexity(policy, byte_tokenizer, texts[:1], block_tokens=5)
    assert one.low == one.mean == one.high


def test_a_uniform_model_has_the_perplexity_of_its_vocabulary(
    byte_tokenizer: Any, make_model: Make
) -> None:
    model = make_model()
    with torch.no_grad():
        model.get_output_embeddings().weight.zero_()
    found = perplexity(model, byte_tokenizer, HELD_OUT)
    assert found.mean == pytest.approx(258, rel=1e-4) and found.low == pytest.approx(258, rel=1e-4)


def test_what_does_not_fit_is_refused(byte_tokenizer: Any, make_model: Make) -> None:
    with pytest.raises(ModelError, match="knows 100 tokens, but the tokenizer has 258"):
        pretrain(make_model(vocab_size=100), byte_tokenizer, TEXTS, QUICK)
    with pytest.raises(ConfigError, match="the model's context of 256 tokens, got 300"):
        config = PretrainingConfig(block_tokens=300)
        pretrain(make_model(), byte_tokenizer, TEXTS, config)
    with pytest.raises(ConfigError, match="fewer than one block of 128"):
        pretrain(make_model(), byte_tokenizer, ["abc"])
    with pytest.raises(CorpusError, match="no text to measure the perplexity of"):
        perplexity(make_model(), byte_tokenizer, [])
    with pytest.raises(ConfigError, match="width must be an even multiple of heads"):
        Architecture(width=30, heads=4)
    with pytest.raises(ConfigError, match="layers must be a whole number of at least 1"):
        Architecture(layers=0)
