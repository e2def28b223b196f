"""Supervised fine-tuning: what a step reads, and that it learns the answers."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from agents.config import LoRAConfig, SFTConfig
from agents.evaluation import answer_prompts
from agents.fine_tuning import _ramp, answer_rows, sft
from textenvs.env import TextEnv
from textenvs.errors import ConfigError
from textenvs.types import Prompt

PROMPTS = [
    Prompt(f"p{i}", f"{'ab' * (i + 1)}", reference=answer) for i, answer in enumerate(("x", "yes"))
]
Make = Callable[..., Any]


@pytest.fixture
def env(byte_tokenizer: Any) -> TextEnv:
    """Two prompts, each with its own answer."""
    return TextEnv(
        PROMPTS,
        lambda prompt, completion: float(completion == prompt.reference),
        byte_tokenizer,
        max_prompt_tokens=6,
        max_new_tokens=4,
    )


def test_rows_by_hand(env: TextEnv) -> None:
    encode, eos, pad = env.tokenizer.encode_completion, env.tokenizer.eos_id, env.tokenizer.pad_id
    ids, mask, start = answer_rows(env.batch, np.array([0, 1]))
    assert start == 6
    assert ids.tolist() == [
        [*[pad] * 4, *encode("ab"), *encode("x"), eos, pad, pad],
        [*[pad] * 2, *encode("abab"), *encode("yes"), eos],
    ]
    assert mask.tolist() == [[0] * 4 + [1] * 4 + [0] * 2, [0] * 2 + [1] * 8]


def test_an_answer_beyond_the_budget_has_no_eos(byte_tokenizer: Any) -> None:
    env = TextEnv(
        PROMPTS[1:], lambda p, c: 0.0, byte_tokenizer, max_prompt_tokens=4, max_new_tokens=3
    )
    ids, mask, start = answer_rows(env.batch, np.array([0]))
    assert ids[0, start:].tolist() == byte_tokenizer.encode_completion("yes") and mask[0].all()


def test_learns_the_answers(env: TextEnv, make_policy: Make) -> None:
    policy = make_policy()
    before = [answer.completion for answer in answer_prompts(policy, env, 2)]
    losses: list[float] = []
    config = SFTConfig(steps=80, batch_size=8, learning_rate=3e-2)
    assert sft(policy, env, config, log=lambda row: losses.append(row["loss"])) is policy
    assert losses[0] > 2 and losses[-1] < 0.1
    assert before != [p.reference for p in PROMPTS]
    assert [answer.completion for answer in answer_prompts(policy, env, 2)] == ["x", "yes"]


def test_adapters_learn_and_the_base_does_not(env: TextEnv, make_policy: Make) -> None:
    policy = make_policy(lora=LoRAConfig(r=4))
    before = {k: v.clone() for k, v in policy.model.state_dict().items()}
    losses: list[float] = []
    config = SFTConfig(steps=40, batch_size=8, learning_rate=3e-2)
    sft(policy, env, config, log=lambda row: losses.append(row["loss"]))
    assert losses[-1] < 0.5 * losses[0]
    changed = {k for k, v in policy.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed and all("lora_" in name for name in changed)


def test_the_first_loss_is_the_answers_alone(env: TextEnv, make_policy: Make) -> None:
    """By hand: the mean over answer tokens, EOS included, prompt tokens left out."""
    policy = make_policy()
    rows: list[Any] = []
    policy_before = make_policy()
    sft(policy, env, SFTConfig(steps=1, batch_size=4), seed=5, log=rows.append)
    indices = np.random.default_rng(5).integers(2, size=4)
    total, count = 0.0, 0
    for index in indices:
        prompt = env.tokenizer.encode(PROMPTS[index].text)
        answer = [*env.tokenizer.encode_completion(PROMPTS[index].reference), env.tokenizer.eos_id]  # type: ignore[arg-type]
        with torch.no_grad():
            law = policy_before.model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        total -= sum(law[len(prompt) - 1 + t, token].item() for t, token in enumerate(answer))
        count += len(answer)
    assert rows[0]["loss"] == pytest.approx(total / count, rel=1e-4)
    assert rows[0]["step"] == 1


def test_seed_decides(env: TextEnv, make_policy: Make) -> None:
    config = SFTConfig(steps=3, batch_size=1, learning_rate=1e-2)
    one, two, other = (sft(make_policy(), env, config, seed=s).state_dict() for s in (0, 0, 3))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_learning_rate_ramp_by_hand() -> None:
    config = SFTConfig(steps=10, warmup=0.2)
    found = [_ramp(step, config) for step in range(11)]
    assert found == pytest.approx([1 / 3, 2 / 3, *[left / 8 for left in range(8, -1, -1)]])


def test_a_task_without_answers_is_refused(byte_tokenizer: Any, make_policy: Make) -> None:
    env = TextEnv(["ab"], lambda p, c: 0.0, byte_tokenizer, max_prompt_tokens=4)
    with pytest.raises(ConfigError, match="no right answer is known for the prompt '0'"):
        sft(make_policy(), env, SFTConfig(steps=1))
    for name, value in (("steps", 0), ("learning_rate", -1.0), ("warmup", 2.0)):
        with pytest.raises(ConfigError, match=f"{name} must be"):
            SFTConfig(**{name: value})  # type: ignore[arg-type]
