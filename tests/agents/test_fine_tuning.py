"""Supervised fine-tuning: what a step reads, and that it learns the answers."""

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from agents.config import LoRAConfig, SFTConfig
from agents.evaluation import answer_prompts
from agents.fine_tuning import OracleExamples, oracle_example, sft
from agents.policy import CausalLMPolicy
from agents.supervision.descent import learning_rate_share
from agents.supervision.examples import Example, ExampleSet
from textenvs.env import TextEnv
from textenvs.errors import ConfigError, ModelError, UnknownNameError
from textenvs.tokenization import HuggingFaceTokenizer
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


def test_examples_by_hand(env: TextEnv) -> None:
    encode, eos = env.tokenizer.encode_completion, env.tokenizer.eos_id
    found = [oracle_example(env.batch, index) for index in (0, 1)]
    assert found[0] == Example(tuple(encode("ab")), (*encode("x"), eos))
    assert found[1] == Example(tuple(encode("abab")), (*encode("yes"), eos))
    assert [len(example) for example in found] == [4, 8]


def test_an_answer_beyond_the_budget_has_no_eos_and_is_counted(
    byte_tokenizer: Any, make_policy: Make
) -> None:
    env = TextEnv(
        PROMPTS[1:], lambda p, c: 0.0, byte_tokenizer, max_prompt_tokens=4, max_new_tokens=3
    )
    answer = oracle_example(env.batch, 0).answer
    assert list(answer) == byte_tokenizer.encode_completion("yes")
    source = OracleExamples(make_policy(), env)
    source.draw(5)
    account = dataclasses.asdict(source.accounting)
    assert (account["rows"], account["kept"], account["cut_answers"]) == (5, 5, 5)
    assert (account["prompt_tokens"], account["answer_tokens"]) == (20, 15)


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
    policy_before = make_policy()
    rows: list[Any] = []
    for budget in (8192, 1):  # one forward pass, and one an example
        config = SFTConfig(steps=1, batch_size=4, micro_batch_tokens=budget)
        sft(make_policy(), env, config, seed=5, log=rows.append)
    indices = np.random.default_rng(5).integers(2, size=4)
    total, count = 0.0, 0
    for index in indices:
        prompt = env.tokenizer.encode(PROMPTS[index].text)
        answer = [*env.tokenizer.encode_completion(PROMPTS[index].reference), env.tokenizer.eos_id]
        with torch.no_grad():
            law = policy_before.model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        total -= sum(law[len(prompt) - 1 + t, token].item() for t, token in enumerate(answer))
        count += len(answer)
    for row in rows:
        assert row["loss"] == pytest.approx(total / count, rel=1e-4)
        assert row["step"] == 1 and row["answer_tokens"] == count
    assert rows[0]["padding"] > 0 == rows[1]["padding"]


def test_padding_that_is_eos_does_not_hide_the_end(
    env: TextEnv, byte_tokenizer: Any, make_policy: Make
) -> None:
    """With one id for both, EOS is still learned and padding still is not."""
    backend = _fast_tokenizer(byte_tokenizer)
    backend.pad_token = backend.eos_token
    same = HuggingFaceTokenizer(backend)
    assert same.pad_id == same.eos_id
    other = TextEnv(
        PROMPTS, lambda p, c: float(c == p.reference), same, max_prompt_tokens=6, max_new_tokens=4
    )
    config = SFTConfig(steps=60, batch_size=8, learning_rate=3e-2)
    losses: list[list[float]] = [[], []]
    policies = [make_policy(), make_policy()]
    for policy, task, told in zip(policies, (env, other), losses, strict=True):
        rows: list[Any] = []
        sft(policy, task, config, log=rows.append)
        told += [row["loss"] for row in rows]
    assert losses[0] == losses[1]
    answers = answer_prompts(policies[1], other, 2)
    assert [answer.completion for answer in answers] == ["x", "yes"]
    assert all(answer.values["eos"] for answer in answers)


def _fast_tokenizer(tokenizer: Any) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tokenizer.name)


def test_seed_decides(env: TextEnv, make_policy: Make) -> None:
    config = SFTConfig(steps=3, batch_size=1, learning_rate=1e-2)
    one, two, other = (sft(make_policy(), env, config, seed=s).state_dict() for s in (0, 0, 3))
    assert all(torch.equal(one[key], two[key]) for key in one)
    assert any(not torch.equal(one[key], other[key]) for key in one)


def test_examples_are_drawn_pass_by_pass(make_policy: Make) -> None:
    """Of four examples in steps of two, each is learned once in two steps."""
    examples = [Example((5,), (i, 1)) for i in range(10, 14)]
    seen: list[float] = []
    config = SFTConfig(steps=2, batch_size=2, learning_rate=1e-9)
    sft(make_policy(), examples, config, log=lambda row: seen.append(row["loss"]))
    whole: list[float] = []
    config = SFTConfig(steps=1, batch_size=4, learning_rate=1e-9)
    sft(make_policy(), examples, config, log=lambda row: whole.append(row["loss"]))
    assert sum(seen) / 2 == pytest.approx(whole[0], rel=1e-5)


def test_learning_rate_by_hand() -> None:
    config = SFTConfig(steps=10, warmup=0.2)
    found = [learning_rate_share(step, config) for step in range(11)]
    assert found == pytest.approx([1 / 3, 2 / 3, *[left / 8 for left in range(8, -1, -1)]])
    config = SFTConfig(steps=4, warmup=0.0, schedule="cosine")
    found = [learning_rate_share(step, config) for step in range(5)]
    half = 0.5**0.5
    assert found == pytest.approx([1.0, (1 + half) / 2, 0.5, (1 - half) / 2, 0.0])


def test_what_cannot_be_learned_is_refused(
    env: TextEnv, byte_tokenizer: Any, make_policy: Make, make_model: Make
) -> None:
    unanswered = TextEnv(["ab"], lambda p, c: 0.0, byte_tokenizer, max_prompt_tokens=4)
    with pytest.raises(ConfigError, match="no right answer is known for the prompt '0'"):
        sft(make_policy(), unanswered, SFTConfig(steps=1))
    for name, value in (("steps", 0), ("learning_rate", -1.0), ("warmup", 2.0)):
        with pytest.raises(ConfigError, match=f"{name} must be"):
            SFTConfig(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="Did you mean 'cosine'"):
        SFTConfig(schedule="cosin")  # type: ignore[arg-type]
    nothing: Any
    for nothing in ([], ExampleSet()):
        with pytest.raises(ConfigError, match="there is no example to learn from"):
            sft(make_policy(), nothing, SFTConfig(steps=1))
    with pytest.raises(ConfigError, match="tokens, but the model's context is 3; shorten"):
        sft(make_policy(), _long_task(env, make_policy, 3), SFTConfig(steps=1))
    small = CausalLMPolicy(make_model(vocab_size=100), bfloat16=False)
    with pytest.raises(ModelError, match="knows 100 tokens, but the environment's tokenizer"):
        sft(small, env, SFTConfig(steps=1))


def _long_task(env: TextEnv, make_policy: Make, context: int) -> OracleExamples:
    policy = make_policy()
    policy.model.config.max_position_embeddings = context
    return OracleExamples(policy, env)
