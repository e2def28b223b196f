"""Direct preference optimisation: the loss, the tokens, the reference, what is learned."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid

import agents
from agents import CausalLMPolicy
from agents.config import LoRAConfig
from agents.dpo import DPOConfig, dpo, preference_metrics
from agents.preference_pairs import (
    ALIKE,
    LONG_PAIRS,
    LONG_PROMPTS,
    OTHER_PROMPTS,
    encode_pairs,
    fixed_logprobs,
)
from agents.preferences import Ranking
from textenvs.errors import ConfigError, UnknownNameError

RANKINGS = [
    Ranking(f"say {i}:", ("yes", "nope", "maybe"), (0, 1, 1), group=f"g{i}") for i in range(4)
]
Maker = Callable[..., CausalLMPolicy]
FAST = DPOConfig(steps=12, batch_size=4, learning_rate=3e-3, warmup=0.0)


@pytest.fixture
def policy(make_policy: Maker, byte_tokenizer: Any) -> CausalLMPolicy:
    return make_policy(tokenizer=byte_tokenizer)


def naive_logprob(policy: CausalLMPolicy, prompt: list[int], answer: list[int]) -> torch.Tensor:
    """Return log pi of an answer, one row without padding through the whole model."""
    ids = torch.tensor([[*prompt, *answer]])
    logprobs = policy.model(ids).logits.float().log_softmax(-1)[0, len(prompt) - 1 : -1]
    return logprobs.gather(1, torch.tensor(answer)[:, None]).sum()


def test_log_probabilities_are_those_of_single_rows(policy: CausalLMPolicy) -> None:
    pairs = encode_pairs(policy, RANKINGS)
    assert len(pairs) == 8 and len(pairs.answers) == 12  # answers are held once, not per pair
    fixed = fixed_logprobs(policy, pairs, micro_batch_tokens=40)
    for example, row in zip(pairs.answers, fixed, strict=True):
        expected = naive_logprob(policy, list(example.prompt), list(example.answer))
        assert row.sum().item() == pytest.approx(expected.item(), abs=1e-3)


@pytest.mark.parametrize(
    ("loss_type", "smoothing"), [("sigmoid", 0.0), ("sigmoid", 0.2), ("ipo", 0)]
)
def test_a_step_follows_the_gradient_of_the_loss(
    make_policy: Maker, byte_tokenizer: Any, loss_type: Any, smoothing: float
) -> None:
    """Against the loss written out row by row, on a policy that has left its reference."""
    policy, reference = (make_policy(tokenizer=byte_tokenizer) for _ in range(2))
    config = dataclasses.replace(
        FAST, steps=2, batch_size=8, loss_type=loss_type, label_smoothing=smoothing
    )
    logged: list[Any] = []
    dpo(policy, RANKINGS, config, log=logged.append)
    moved = make_policy(tokenizer=byte_tokenizer)
    dpo(moved, RANKINGS, dataclasses.replace(config, steps=1), log=None)
    losses, margins = [], []
    for pair in [(r.prompt, r.answers[0], other) for r in RANKINGS for other in r.answers[1:]]:
        prompt = byte_tokenizer.encode(pair[0])
        answers = [[*byte_tokenizer.encode_completion(t), byte_tokenizer.eos_id] for t in pair[1:]]
        with torch.no_grad():
            gains = [
                naive_logprob(moved, prompt, a) - naive_logprob(reference, prompt, a)
                for a in answers
            ]
        h = gains[0] - gains[1]
        margins.append(config.beta * h)
        if loss_type == "ipo":
            losses.append((h - 0.5 / config.beta) ** 2)
        else:
            good, bad = logsigmoid(config.beta * h), logsigmoid(-config.beta * h)
            losses.append(-(1 - smoothing) * good - smoothing * bad)
    assert logged[1]["loss"] == pytest.approx(torch.stack(losses).mean().item(), rel=1e-3)
    assert logged[1]["margin"] == pytest.approx(torch.stack(margins).mean().item(), rel=1e-2)
    if loss_type == "sigmoid":
        assert logged[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert logged[0]["margin"] == pytest.approx(0.0, abs=1e-5)
    assert logged[0]["approx_kl"] == pytest.approx(0.0, abs=1e-6)


def test_the_better_answer_is_learned_and_the_log_tells_how(policy: CausalLMPolicy) -> None:
    pairs = encode_pairs(policy, RANKINGS)
    before = fixed_logprobs(policy, pairs, micro_batch_tokens=4096)
    logged: list[Any] = []
    dpo(policy, pairs, FAST, log=logged.append)
    after = fixed_logprobs(policy, pairs, micro_batch_tokens=4096)
    assert logged[-1]["accuracy"] == 1.0 and logged[-1]["margin"] > 0.5
    assert logged[-1]["loss"] < 0.6 < logged[0]["loss"] and logged[-1]["approx_kl"] > 0
    assert [values["step"] for values in logged] == list(range(1, 13))
    assert logged[1]["epoch"] == 1.0
    found = preference_metrics(pairs, before, after, beta=FAST.beta)
    assert found["preference_accuracy"].mean == 1.0 and found["preference_margin"].low > 0
    none = preference_metrics(pairs, before, before, beta=FAST.beta)
    assert none["preference_accuracy"].mean == 0.5  # nothing learned: all ties


def test_the_swapped_preference_is_learned_as_well(policy: CausalLMPolicy) -> None:
    swapped = [dataclasses.replace(r, ranks=(1, 0, 0)) for r in RANKINGS]
    right = encode_pairs(policy, RANKINGS)
    before = fixed_logprobs(policy, right, micro_batch_tokens=4096)
    dpo(policy, swapped, FAST)
    after = fixed_logprobs(policy, right, micro_batch_tokens=4096)
    assert preference_metrics(right, before, after, beta=0.1)["preference_accuracy"].mean == 0.0


def test_a_seed_gives_the_same_weights_and_another_others(
    make_policy: Maker, byte_tokenizer: Any
) -> None:
    def weights(seed: int) -> torch.Tensor:
        policy = make_policy(tokenizer=byte_tokenizer)
        config = dataclasses.replace(FAST, steps=3, batch_size=2)
        dpo(policy, RANKINGS, config, seed=seed)
        return torch.cat([p.detach().flatten() for p in policy.model.parameters()])

    assert weights(0).equal(weights(0)) and not weights(0).equal(weights(1))


def test_micro_batches_change_memory_not_the_gradient(
    make_policy: Maker, byte_tokenizer: Any
) -> None:
    def logged(tokens: int) -> list[Any]:
        found: list[Any] = []
        policy = make_policy(tokenizer=byte_tokenizer)
        config = dataclasses.replace(FAST, steps=3, batch_size=8, micro_batch_tokens=tokens)
        dpo(policy, RANKINGS, config, log=found.append)
        return found

    for one, many in zip(logged(10_000), logged(20), strict=True):
        for name in ("loss", "margin", "chosen_logprob", "rejected_logprob", "approx_kl"):
            assert one[name] == pytest.approx(many[name], rel=1e-3, abs=1e-5)


def test_with_adapters_only_they_are_trained(make_policy: Maker, byte_tokenizer: Any) -> None:
    policy = make_policy(tokenizer=byte_tokenizer, lora=LoRAConfig(r=2, alpha=4.0))
    base = {n: p.clone() for n, p in policy.model.named_parameters() if "lora" not in n}
    logged: list[Any] = []
    dpo(policy, RANKINGS, dataclasses.replace(FAST, learning_rate=1e-2), log=logged.append)
    named = dict(policy.model.named_parameters())
    assert all(named[name].equal(value) for name, value in base.items())
    assert logged[0]["margin"] == pytest.approx(0.0, abs=1e-5) and logged[-1]["margin"] > 0.1


def test_tokens_are_those_of_the_environment(
    policy: CausalLMPolicy, make_venv: Callable[..., Any]
) -> None:
    venv = make_venv(1)
    prompt = venv.prompts[2]
    known = Ranking(prompt.text, ("a", "abcdef"), (0, 1), "g", prompt_id=prompt.id)
    pairs = encode_pairs(policy, [known], venv)
    chosen, rejected = pairs.answers
    assert list(chosen.prompt) == venv.unwrapped.batch.encoded(2)[1].tolist()
    eos = venv.tokenizer.eos_id
    assert chosen.answer == (*venv.tokenizer.encode_completion("a"), eos)
    assert len(rejected.answer) == 4 and eos not in rejected.answer  # the budget, as when acted
    assert pairs.counts == {}


def test_what_does_not_fit_is_counted(
    policy: CausalLMPolicy, make_venv: Callable[..., Any]
) -> None:
    rankings = [
        Ranking("abc", ("a", "b"), (0, 1), "g0"),
        Ranking("much too long", ("a", "b"), (0, 1), "g1"),
        Ranking("abd", ("aaaab", "aaaac", "b"), (0, 1, 2), "g2"),
    ]
    pairs = encode_pairs(policy, rankings, make_venv(1))
    assert len(pairs) == 3
    assert pairs.counts == {OTHER_PROMPTS: 3, LONG_PROMPTS: 1, ALIKE: 1}
    huge = Ranking("x" * 300, ("a", "b"), (0, 1), "g")
    assert encode_pairs(policy, [*RANKINGS, huge]).counts == {LONG_PAIRS: 1}
    with pytest.raises(ConfigError, match="no pair to learn from.*pairs too long"):
        encode_pairs(policy, [huge])


def test_a_policy_without_a_tokenizer_needs_one(make_policy: Maker, byte_tokenizer: Any) -> None:
    with pytest.raises(ConfigError, match="has no tokenizer; pass env_or_tokenizer"):
        dpo(make_policy(), RANKINGS)
    assert len(encode_pairs(make_policy(), RANKINGS, byte_tokenizer)) == 8


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"beta": 0.0}, "beta must be above 0, got 0.0; the default is 0.1"),
        ({"label_smoothing": 0.5}, "label_smoothing must be at least 0 and below 0.5"),
        ({"loss_type": "ipo", "label_smoothing": 0.1}, 'goes with loss_type="sigmoid"'),
        ({"steps": 0}, "steps must be a whole number of at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        DPOConfig(**wrong)


def test_an_unknown_loss_is_refused() -> None:
    with pytest.raises(UnknownNameError, match="loss_type"):
        DPOConfig(loss_type="sigmod")  # type: ignore[arg-type]


def test_the_settings_are_a_public_name() -> None:
    assert agents.DPOConfig is DPOConfig
