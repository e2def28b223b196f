"""LoRA from stage to stage: what is kept, what is merged, and what the reference is."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel

from agents import PPO, CausalLMPolicy, PPOConfig
from agents.config import LoRAConfig
from agents.modeling.adapter_folders import stacked
from agents.modeling.adapters import without_peft_warnings
from agents.publishing import folder_kind
from textenvs.errors import ConfigError, ModelError, UnknownNameError
from textenvs.models import load_causal_lm
from textenvs.wrappers.reference_kl import VectorReferenceKL

PROMPT = torch.tensor([[40, 41, 42, 43, 44, 45]])
Folder = Callable[..., Path]
LORA = LoRAConfig(r=2, alpha=8.0)


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(PROMPT).logits


def moved(policy: CausalLMPolicy, seed: int) -> CausalLMPolicy:
    """Give the adapters weights as if they had been trained."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in policy.model.named_parameters():
            if "lora_" in name:
                parameter += 0.2 * torch.randn(parameter.shape, generator=generator)
    return policy


def load(folder: Path, **options: Any) -> CausalLMPolicy:
    return CausalLMPolicy.from_pretrained(folder, bfloat16=False, **options)


@pytest.fixture(params=["llama", "gpt2"])
def base(request: Any, model_folder: Folder) -> Path:
    return model_folder(request.param)


@pytest.fixture
def sft(base: Path) -> CausalLMPolicy:
    """A policy whose adapters have learned something."""
    return moved(load(base, lora=LORA), seed=1)


def reference_logprobs(policy: CausalLMPolicy) -> np.ndarray:
    reference = policy.reference()
    reference.bind(4, policy.vocab_size)
    ids = PROMPT.numpy()
    return reference.completion_logprobs(ids, np.ones_like(ids, np.int8))


@pytest.mark.parametrize("adapter", ["merge", "keep"])
@pytest.mark.parametrize("lora", [LORA, None])
def test_the_reference_after_sft_is_the_sft_policy_and_not_the_base(
    base: Path, sft: CausalLMPolicy, tmp_path: Path, adapter: Any, lora: LoRAConfig | None
) -> None:
    """Merged or kept, and then new adapters over it or all weights trained."""
    folder = sft.save_pretrained(tmp_path / "sft", adapter)
    policy = load(folder, lora=lora)
    expected = logits(sft.model)
    of_base = logits(load(base).model)
    assert not torch.allclose(expected, of_base, atol=1e-2)  # SFT has moved the model
    torch.testing.assert_close(logits(policy.model), expected, atol=1e-4, rtol=1e-4)

    before = reference_logprobs(policy)
    with torch.no_grad():
        for parameter in policy.trainable_parameters():
            parameter += 0.1
    assert not torch.allclose(logits(policy.model), expected, atol=1e-2)  # PPO has, too
    logprobs = expected.log_softmax(-1)[0, 3:-1].gather(1, PROMPT[0, 4:, None])[:, 0]
    np.testing.assert_allclose(before[0], logprobs.numpy(), atol=1e-4)
    if lora is not None:  # the same model with its new adapters off
        np.testing.assert_allclose(reference_logprobs(policy)[0], logprobs.numpy(), atol=1e-4)


def test_ppo_with_new_adapters_starts_without_kl_to_the_sft_policy(
    model_folder: Folder, tmp_path: Path, make_venv: Callable[..., Any]
) -> None:
    sft = moved(load(model_folder(), lora=LORA), seed=1)
    folder = sft.save_pretrained(tmp_path / "sft", "keep")
    policy = load(folder, lora=LORA)
    frozen = {n: p.clone() for n, p in policy.model.named_parameters() if not p.requires_grad}
    env = VectorReferenceKL(make_venv(4), policy.reference(), 0.1)
    agent = PPO(policy, env, PPOConfig(learning_rate=1e-2), seed=0)
    logged: list[Any] = []
    agent.learn(64, lambda metrics: logged.append(dict(metrics)) or True)
    assert logged[0]["kl"] == pytest.approx(0.0, abs=1e-4)
    assert all(dict(policy.model.named_parameters())[n].equal(p) for n, p in frozen.items())

    resumed = PPO.load(
        agent.save(tmp_path / "ppo"), VectorReferenceKL(make_venv(4), sft.reference(), 0.1)
    )
    torch.testing.assert_close(logits(resumed.policy.model), logits(policy.model))
    with resumed.policy.without_adapters():
        expected = logits(sft.model)
        torch.testing.assert_close(logits(resumed.policy.model), expected, atol=1e-4, rtol=1e-4)


def test_a_kept_adapter_is_a_plain_peft_folder(
    base: Path, sft: CausalLMPolicy, tmp_path: Path
) -> None:
    sft.value_head.weight.data += 0.5
    folder = sft.save_pretrained(tmp_path / "sft", "keep")
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base.resolve())
    assert not (folder / "model.safetensors").exists() and folder_kind(folder) == "causal-lm"
    expected = logits(sft.model)
    torch.testing.assert_close(logits(load_causal_lm(folder)), expected, atol=1e-4, rtol=1e-4)
    by_transformers = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(logits(by_transformers), expected, atol=1e-4, rtol=1e-4)
    plain = transformers.AutoModelForCausalLM.from_pretrained(base).eval()
    with without_peft_warnings():
        by_peft = PeftModel.from_pretrained(plain, str(folder))
    torch.testing.assert_close(logits(by_peft), expected, atol=1e-4, rtol=1e-4)
    assert load(folder).value_head.weight.equal(sft.value_head.weight)


@pytest.mark.parametrize("second", [LORA, LoRAConfig(r=3, alpha=3.0, target_modules=".*[qv]_proj")])
def test_adapters_over_adapters_are_kept_as_one_over_the_base(
    base: Path, sft: CausalLMPolicy, tmp_path: Path, second: LoRAConfig
) -> None:
    if "gpt2" in base.name:
        second = dataclasses.replace(second, target_modules="all-linear")
    first = sft.save_pretrained(tmp_path / "sft", "keep")
    policy = moved(load(first, lora=second), seed=2)
    both = policy.save_pretrained(tmp_path / "both", "keep")
    config = json.loads((both / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == str(base.resolve())
    assert config["r"] == LORA.r + second.r
    expected = logits(policy.model)
    assert not torch.allclose(expected, logits(sft.model), atol=1e-2)
    torch.testing.assert_close(logits(load(both).model), expected, atol=1e-4, rtol=1e-4)
    merged = policy.save_pretrained(tmp_path / "merged")
    torch.testing.assert_close(logits(load(merged).model), expected, atol=1e-4, rtol=1e-4)


def test_stacked_adapters_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    shapes = {"x.lora_A.weight": (2, 5), "x.lora_B.weight": (3, 2)}
    one, two = (
        {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
        for _ in range(2)
    )
    alone = {"y.lora_A.weight": torch.ones(2, 4), "y.lora_B.weight": torch.ones(3, 2)}
    tensors, rank = stacked([(one, 0.5), ({**two, **alone}, 2.0)])
    expected = 0.5 * one["x.lora_B.weight"] @ one["x.lora_A.weight"]
    expected += 2.0 * two["x.lora_B.weight"] @ two["x.lora_A.weight"]
    assert rank == 4
    torch.testing.assert_close(tensors["x.lora_B.weight"] @ tensors["x.lora_A.weight"], expected)
    found = tensors["y.lora_B.weight"] @ tensors["y.lora_A.weight"]
    torch.testing.assert_close(found, torch.full((3, 4), 4.0))


def test_a_base_that_moved_is_named(tmp_path: Path, model_folder: Folder) -> None:
    base = model_folder()
    folder = moved(load(base, lora=LORA), 1).save_pretrained(tmp_path / "sft", "keep")
    base.rename(tmp_path / "elsewhere")
    with pytest.raises(ModelError, match=r"is an adapter for .* which cannot be loaded"):
        load(folder)


def test_a_base_with_an_alias_is_found_wherever_it_is_installed(tmp_path: Path) -> None:
    policy = CausalLMPolicy.from_pretrained("tiny-lm", lora=LORA, bfloat16=False)
    folder = moved(policy, 1).save_pretrained(tmp_path / "sft", "keep")
    config = json.loads((folder / "adapter_config.json").read_text())
    config["base_model_name_or_path"] = "/of/another/machine"
    (folder / "adapter_config.json").write_text(json.dumps(config))
    torch.testing.assert_close(
        logits(load(folder).model), logits(policy.model), atol=1e-3, rtol=1e-3
    )


def test_what_cannot_be_kept_is_said(
    tmp_path: Path, model_folder: Folder, make_policy: Callable[..., CausalLMPolicy]
) -> None:
    base = model_folder()
    with pytest.raises(ConfigError, match="needs adapters; train with lora"):
        load(base).save_pretrained(tmp_path / "a", "keep")
    with pytest.raises(ConfigError, match="made in memory"):
        make_policy(lora=LORA).save_pretrained(tmp_path / "b", "keep")
    with pytest.raises(UnknownNameError, match="way to save adapters"):
        load(base, lora=LORA).save_pretrained(tmp_path / "b", "kept")
    folder = load(base, lora=LORA).save_pretrained(tmp_path / "sft", "keep")
    with pytest.raises(ConfigError, match="holds adapter_config.json"):
        load(base).save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "use_rslora": True}))
    with pytest.raises(ConfigError, match="no plain LoRA"):
        load(folder, lora=LORA).save_pretrained(tmp_path / "c", "keep")
    (folder / "adapter_config.json").write_text(json.dumps({**config, "task_type": "SEQ_CLS"}))
    with pytest.raises(ModelError, match="adapter for SEQ_CLS"):
        load(folder)
