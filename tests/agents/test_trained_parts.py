"""Which parts train, recompute and begin from elsewhere: top layers, checkpoints, critics."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.utils.checkpoint import checkpoint

from agents.config import LoRAConfig
from agents.modeling.trunks import blocks_of
from agents.policy import VALUE_HEAD, CausalLMPolicy
from agents.ppo import PPO
from textenvs.errors import ConfigError, ModelError
from textenvs.teacher_forcing.trunk import trunk_of

START, WIDTH = 6, 10
Maker = Callable[..., Any]


@pytest.fixture
def batch() -> tuple[torch.Tensor, torch.Tensor, int]:
    """Four episodes of two prompts."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(2, 258, (4, WIDTH), generator=generator)
    ids[1, :START] = ids[0, :START]
    return ids, torch.ones_like(ids), START


def loss_of(policy: CausalLMPolicy, batch: Any) -> torch.Tensor:
    found = policy.evaluate(*batch)
    return found.logprobs.sum() + found.entropy.sum() + (found.values - 1).pow(2).sum()


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("critic", ["shared", "separate"])
def test_only_the_top_layers_train(kind: str, critic: str, make_policy: Maker, batch: Any) -> None:
    policy = make_policy(kind, critic=critic, trainable_layers=1)
    trained = {name for name, p in policy.named_parameters() if p.requires_grad}
    blocks = {int(n) for name in trained for n in re.findall(r"\.(?:layers|h)\.(\d+)\.", name)}
    assert blocks == {1}
    assert any("norm" in name or "ln_f" in name for name in trained)
    assert not any("embed" in name or "wte" in name or "wpe" in name for name in trained)
    tied = policy.model.get_output_embeddings().weight is policy.model.get_input_embeddings().weight
    assert ("model.lm_head.weight" in trained) is not tied
    loss_of(policy, batch).backward()
    assert {n for n, p in policy.named_parameters() if p.grad is not None} <= trained


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_reference_shares_what_is_frozen_and_stays(
    kind: str, make_policy: Maker, batch: Any
) -> None:
    policy = make_policy(kind, trainable_layers=1)
    reference = policy.reference()
    reference.bind(START, 258)
    arrays = batch[0].numpy(), batch[1].numpy()
    before = reference.completion_logprobs(*arrays)
    ours = policy.evaluate(*batch).logprobs.detach().numpy()
    np.testing.assert_allclose(before, ours, atol=1e-5)
    pairs = dict(reference.model.named_parameters())
    for name, parameter in policy.model.named_parameters():
        shared = pairs[name].data_ptr() == parameter.data_ptr()
        assert shared is not parameter.requires_grad, name
        assert not pairs[name].requires_grad
    optimizer = torch.optim.Adam(policy.trainable_parameters(), 0.05)
    for _ in range(3):
        optimizer.zero_grad()
        loss_of(policy, batch).backward()
        optimizer.step()
    moved = policy.evaluate(*batch).logprobs.detach().numpy()
    assert np.abs(moved - ours).max() > 0.1
    assert np.array_equal(reference.completion_logprobs(*arrays), before)


def test_bad_trainable_layers(make_policy: Maker) -> None:
    with pytest.raises(ConfigError, match="between 1 and the model's 2, got 3"):
        make_policy(trainable_layers=3)
    with pytest.raises(ConfigError, match="trainable_layers=1 and LoRA exclude each other"):
        make_policy(trainable_layers=1, lora=LoRAConfig(r=2))


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
@pytest.mark.parametrize("options", [{}, {"critic": "separate"}, {"lora": LoRAConfig(r=2)}])
def test_checkpointing_gives_equal_gradients(
    kind: str,
    options: dict[str, Any],
    make_policy: Maker,
    batch: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = []

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls.append(1)
        return checkpoint(*args, **kwargs)

    monkeypatch.setattr("agents.modeling.trunks.checkpoint", counted)
    found = []
    for recompute in (False, True):
        policy = make_policy(kind, gradient_checkpointing=recompute, **options)
        policy.train()
        torch.nn.init.constant_(policy.value_head.weight, 0.1)
        assert not calls
        loss_of(policy, batch).backward()
        named = policy.named_parameters()
        found.append({name: p.grad for name, p in named if p.grad is not None})
    assert len(calls) == (4 if "critic" in options else 2)
    assert found[0].keys() == found[1].keys() and found[0]
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-5)
    policy.act(batch[0], batch[1])
    assert len(blocks_of(trunk_of(policy.reference().model))) == 2


def test_tokens_that_are_not_allowed_are_never_chosen(make_policy: Maker, batch: Any) -> None:
    policy = make_policy(temperature=0.9)
    ids, mask, start = batch
    allowed = np.zeros((4, WIDTH - start, 258), bool)
    allowed[..., 40:90] = True
    few = torch.from_numpy(allowed[:, 0])
    mask = mask.clone()
    mask[:, start:] = 0
    logprobs, state = [], None
    generator = torch.Generator().manual_seed(0)
    for step in range(WIDTH - start):
        acted = policy.act(ids, mask, state, generator=generator, allowed=few)
        state = acted.state
        assert ((acted.tokens >= 40) & (acted.tokens < 90)).all()
        ids[:, start + step], mask[:, start + step] = acted.tokens, 1
        logprobs.append(acted.logprobs)
    bits = torch.from_numpy(np.packbits(allowed, axis=-1))
    found = policy.evaluate(ids, mask, start, allowed=bits)
    torch.testing.assert_close(found.logprobs, torch.stack(logprobs, 1), atol=1e-4, rtol=0)
    assert (found.entropy < np.log(50) + 1e-5).all()
    free = policy.evaluate(ids, mask, start)
    assert (free.logprobs < found.logprobs).all(), "the mass of the others is given to these"
    sum(part.sum() for part in found).backward()
    assert all(p.grad.isfinite().all() for p in policy.parameters() if p.grad is not None)


@pytest.fixture
def reward_folder(make_model: Maker, byte_folder: Path, tmp_path: Path) -> Maker:
    """Return a writer of reward models."""

    def write(kind: str = "llama", *, labels: int = 1, **options: Any) -> Path:
        config = make_model(kind, **options).config
        config.num_labels = labels
        config.pad_token_id = 0
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(5)
            model = transformers.AutoModelForSequenceClassification.from_config(config)
        folder = tmp_path / f"reward-{kind}-{labels}"
        model.save_pretrained(folder)
        for name in ("tokenizer.json", "tokenizer_config.json"):
            (folder / name).write_bytes((byte_folder / name).read_bytes())
        return folder

    return write


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_critic_begins_as_the_reward_model(
    kind: str, reward_folder: Maker, make_policy: Maker, batch: Any
) -> None:
    folder = reward_folder(kind)
    policy = make_policy(kind, critic="separate", critic_from=folder)
    model = transformers.AutoModelForSequenceClassification.from_pretrained(folder)
    ids, mask, start = batch
    scores = model(ids).logits[:, 0]
    torch.testing.assert_close(policy.evaluate(ids, mask, start).values[:, -1], scores)
    assert scores.std() > 1e-3


def test_bad_reward_models(
    reward_folder: Maker, make_policy: Maker, model_folder: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match='pass critic="separate"'):
        make_policy(critic_from=reward_folder())
    cases = [
        (tmp_path / "nowhere", "holds no model"),
        (model_folder("llama"), "holds a LlamaForCausalLM .* which is no reward model"),
        (reward_folder("llama", labels=2), "with 2 labels"),
        (reward_folder("gpt2"), "of the kind 'gpt2', but the policy is 'llama'"),
        (reward_folder("llama", vocab_size=300), "has the shape \\(300, 16\\), where \\(258, 16"),
    ]
    for folder, message in cases:
        with pytest.raises(ModelError, match=message):
            make_policy(critic="separate", critic_from=folder)


def test_a_reward_model_of_another_tokenizer(
    reward_folder: Maker, model_folder: Callable[..., Path]
) -> None:
    folder = reward_folder()
    tokens = folder / "tokenizer.json"
    text = tokens.read_text().replace('"a":', '"@@":').replace('"b":', '"a":')
    tokens.write_text(text.replace('"@@":', '"b":'))
    with pytest.raises(ModelError, match="has another tokenizer than the policy"):
        CausalLMPolicy.from_pretrained(
            model_folder(), critic="separate", critic_from=folder, bfloat16=False
        )


def test_a_separate_critic_holds_no_language_model_head_and_reads_old_files(
    make_policy: Maker, tmp_path: Path, batch: Any
) -> None:
    policy = make_policy("llama", critic="separate")
    assert not any("lm_head" in name for name in policy.critic_trunk.state_dict())
    torch.nn.init.constant_(policy.value_head.weight, 0.1)
    with torch.no_grad():
        for parameter in policy.critic_trunk.parameters():
            parameter.add_(0.05)
    policy.save_critic(tmp_path / VALUE_HEAD)
    old = {
        name.replace("critic_trunk.", "critic_trunk.model."): tensor
        for name, tensor in load_file(tmp_path / VALUE_HEAD).items()
    }
    old["critic_trunk.lm_head.weight"] = torch.zeros(258, 16)
    save_file(old, tmp_path / "old.safetensors")
    expected = policy.evaluate(*batch).values
    for name in (VALUE_HEAD, "old.safetensors"):
        other = make_policy("llama", critic="separate")
        assert not torch.equal(other.evaluate(*batch).values, expected)
        other.load_critic(tmp_path / name)
        assert torch.equal(other.evaluate(*batch).values, expected)


def test_compiled_passes_say_the_same(make_policy: Maker) -> None:
    """The tracing of torch.compile, without the compiler: any number and length of rows."""
    plain = make_policy(critic="separate")
    traced = make_policy(critic="separate", compile="eager")
    for rows, samples in ((2, 1), (6, 3)):
        generator = torch.Generator().manual_seed(rows)
        prompts = torch.randint(2, 200, (rows // samples, START), generator=generator)
        ids = torch.cat(
            [
                prompts.repeat_interleave(samples, 0),
                torch.randint(2, 200, (rows, WIDTH - START), generator=generator),
            ],
            1,
        )
        results = []
        for policy in (plain, traced):
            policy.zero_grad()
            said = policy.evaluate(ids, torch.ones_like(ids), START)
            (said.logprobs.sum() + said.values.square().sum()).backward()
            grads = [p.grad for p in policy.model.parameters() if p.grad is not None]
            results.append((said.logprobs, said.entropy, grads))
        torch.testing.assert_close(results[0], results[1], atol=1e-5, rtol=1e-4)


def test_a_resumed_agent_trains_the_same_layers(
    model_folder: Maker, make_venv: Maker, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"trainable_layers": 1, "gradient_checkpointing": True}
    policy = CausalLMPolicy.from_pretrained(model_folder(), bfloat16=False, **options)
    agent = PPO(policy, make_venv(4))
    agent.step()
    resumed = PPO.load(agent.save(tmp_path / "saved"), make_venv(4))
    assert resumed.policy.trainable_layers == 1 and resumed.policy.gradient_checkpointing
    assert len(resumed.parameters) == len(agent.parameters) < len(list(policy.parameters()))
