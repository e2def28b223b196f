"""The exact optimum against numbers worked by hand, limits, random policies and sampling."""

import copy
import itertools
import math
import pickle
from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from textenvs.enumeration import MAX_COMPLETIONS, enumerate_completions
from textenvs.env import TextEnv
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.optimum import objective, optimum, reference_logprobs, regularised_optimum
from textenvs.suite.enumerable import EnumerableEnv
from textenvs.symbols import SymbolTokenizer

PAID = {("a", "A"): 1.0, ("a", "B"): 0.5, ("a", ""): -1.0, ("b", "BA"): 2.0, ("b", "A_"): 1.0}


def tiny_env(**options: Any) -> TextEnv:
    """Two prompts, six tokens (pad, EOS, A, B, a, b), at most two of them: 31 completions each."""
    arguments: dict[str, Any] = {
        "prompts": ["a", "b"],
        "reward": lambda prompt, completion: PAID.get((prompt.text, completion), 0.0),
        "tokenizer": SymbolTokenizer("ABab"),
        "max_prompt_tokens": 1,
        "max_new_tokens": 2,
    }
    return TextEnv(**{**arguments, **options})


def random_policy(env: TextEnv, seed: int, sharpness: float = 1.0) -> Any:
    """Return a policy with a distribution of its own in every state."""
    columns = env.batch.num_prompt_columns + env.batch.max_new_tokens
    weights = np.random.default_rng(seed).normal(size=(columns, 50, env.tokenizer.vocab_size))

    def next_logprobs(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        shown = np.where(attention_mask == 1, input_ids + 1, 0)
        logits = sharpness * weights[np.arange(columns), shown].sum(1)
        return logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)

    return next_logprobs


def test_every_completion_is_listed_once() -> None:
    env = tiny_env()
    completions = enumerate_completions(env)
    eos, vocab_size = env.tokenizer.eos_id, env.tokenizer.vocab_size
    others = [token for token in range(vocab_size) if token != eos]
    expected = {(eos,), *itertools.product(others, range(vocab_size))}
    for prompt in env.prompts:
        told = [ids for ids, _ in optimum(completions).policy(prompt)]
        assert len(told) == len(expected) and set(told) == expected
    assert len(completions) == 2 * len(expected)


def test_rewards_are_those_of_stepping() -> None:
    env = tiny_env(stop="B")
    completions = enumerate_completions(env)
    best = optimum(completions)
    for x, prompt in enumerate(env.prompts):
        rows = list(completions.rows())[x]
        for (ids, _), reward in zip(best.policy(prompt), completions.rewards[rows], strict=True):
            env.reset(options={"prompt_id": prompt.id})
            *_, last = [env.step(token) for token in ids]
            assert last[2] and last[1] == reward
            assert last[4]["completion_ids"] == list(ids)
    assert (2, 3) in [ids for ids, _ in best.policy("0")]
    assert not any(ids[0] == 3 and len(ids) > 1 for ids, _ in best.policy("0")), (
        "B is a stop string"
    )


def test_hand_worked_optimum() -> None:
    """Prompt a: 1 for A, .5 for B, -1 for nothing, else 0; V = 6 tokens."""
    env = tiny_env()
    beta = 0.5
    # A and B end at EOS (2 tokens); nothing is EOS alone (1 token); the 28 others have 2 tokens
    # (pad, A, B, a, b) x 6 less the two that pay.
    mass_a = (math.exp(1 / beta) + math.exp(0.5 / beta) + 28) / 36 + math.exp(-1 / beta) / 6
    # Prompt b: "BA" is ended by the budget, and so is "A_": two tokens each; the empty answer 0.
    mass_b = (math.exp(2 / beta) + math.exp(1 / beta) + 28) / 36 + 1 / 6
    by_hand = [beta * math.log(mass_a), beta * math.log(mass_b)]
    found = optimum(env, beta)
    assert found.values == pytest.approx(by_hand, rel=1e-12)
    assert found == pytest.approx(sum(by_hand) / 2, rel=1e-12)
    probability = dict(found.policy("0"))
    assert probability[(2, 1)] == pytest.approx(math.exp(2) / 36 / mass_a, rel=1e-12)
    assert probability[(1,)] == pytest.approx(math.exp(-2) / 6 / mass_a, rel=1e-12)
    assert found.reward - beta * found.kl == pytest.approx(found, rel=1e-12)


def test_without_kl_it_is_the_mean_of_the_best_scores() -> None:
    found = optimum(tiny_env())
    assert found == 1.5 and found.values.tolist() == [1.0, 2.0]
    assert found.reward == 1.5 and found.beta == 0
    assert dict(found.policy("0"))[(2, 1)] == 1.0
    assert found.kl == pytest.approx(math.log(36))


def test_limits_of_beta() -> None:
    completions = enumerate_completions(tiny_env())
    uniform = objective(
        completions, completions.stepwise(lambda ids, mask: np.full((len(ids), 6), -math.log(6)))
    )
    greedy = optimum(completions, 0.0)
    assert optimum(completions, 1e-300) == greedy
    assert optimum(completions, 1e-9) == pytest.approx(greedy, abs=1e-7)
    assert optimum(completions, math.inf) == pytest.approx(uniform, rel=1e-12)
    assert optimum(completions, 1e12) == pytest.approx(uniform, rel=1e-9)
    assert optimum(completions, math.inf).kl == 0
    values = [float(optimum(completions, beta)) for beta in (0, 1e-3, 0.03, 0.3, 3, 30, math.inf)]
    assert values == sorted(values, reverse=True) and len(set(values)) == len(values)


def test_ties_share_by_the_reference() -> None:
    """Two best completions; the limit of a vanishing beta weighs them by the reference."""
    reference = np.log([0.6, 0.1, 0.3])
    value, logprobs = regularised_optimum(np.array([1.0, 2.0, 2.0]), reference, 0.0)
    assert value == 2
    assert np.exp(logprobs) == pytest.approx([0, 0.25, 0.75])
    near = regularised_optimum(np.array([1.0, 2.0, 2.0]), reference, 1e-3)[1]
    assert np.exp(near) == pytest.approx([0, 0.25, 0.75], abs=1e-12)
    with np.errstate(divide="ignore"):
        blind = np.log([1.0, 0.0, 0.0])
    assert np.exp(regularised_optimum(np.array([1.0, 2, 2]), blind, 0.0)[1]) == pytest.approx(
        [0, 0.5, 0.5]
    )
    value, logprobs = regularised_optimum(np.array([1.0, 2, 2]), blind, 1e-300)
    assert value == 1 and np.exp(logprobs).tolist() == [1, 0, 0]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    beta=st.sampled_from([0.0, 0.01, 0.3, 5.0]),
    sharpness=st.floats(0, 30),
    own_reference=st.booleans(),
)
def test_no_policy_exceeds_the_optimum(
    seed: int, beta: float, sharpness: float, own_reference: bool
) -> None:
    env = tiny_env()
    completions = enumerate_completions(env)
    policy = completions.stepwise(random_policy(env, seed, sharpness))
    reference = None
    if own_reference:
        reference = FixedReference(completions.stepwise(random_policy(env, seed + 1)))
    best = optimum(completions, beta, reference)
    assert objective(completions, policy, beta, reference) <= best + 1e-9
    own = completions.stepwise(token_by_token(env, best))
    assert objective(completions, own, beta, reference) == pytest.approx(best, abs=1e-9)
    assert best.reward - beta * best.kl == pytest.approx(best, abs=1e-9)


class FixedReference:
    """A `Reference` whose log-probabilities come from a function."""

    def __init__(self, policy_logprobs: Any) -> None:
        self.policy_logprobs = policy_logprobs
        self.bound: tuple[int, int] | None = None

    def bind(self, num_prompt_columns: int, vocab_size: int) -> None:
        self.bound = (num_prompt_columns, vocab_size)

    def completion_logprobs(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        assert self.bound == (1, 6)
        return self.policy_logprobs(input_ids, attention_mask).astype(np.float32)

    def next_logprobs(self, *_: Any) -> np.ndarray:
        raise NotImplementedError

    def completion_distributions(self, *_: Any) -> np.ndarray:
        raise NotImplementedError


def token_by_token(env: TextEnv, best: Any) -> Any:
    """Return the optimal policy as it acts: by the prompt and the tokens so far."""
    by_text = {env.tokenizer.encode(prompt.text)[0]: prompt for prompt in env.prompts}

    def next_logprobs(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        rows = []
        for ids, mask in zip(input_ids, attention_mask, strict=True):
            prefix = ids[1:][mask[1:] == 1].tolist()
            try:
                rows.append(best.token_policy(by_text[int(ids[0])], prefix))
            except ConfigError:  # never reached by this policy: anything will do
                rows.append(np.full(env.tokenizer.vocab_size, 1 / env.tokenizer.vocab_size))
        with np.errstate(divide="ignore"):
            return np.log(np.stack(rows))

    return next_logprobs


@pytest.mark.parametrize("beta", [0.0, 0.2])
def test_the_objective_agrees_with_sampling(beta: float) -> None:
    """20,000 episodes played by a random policy, within four standard errors."""
    venv = EnumerableEnv.make_vec(200)
    env = EnumerableEnv()
    policy = random_policy(env, 3, 0.5)
    generator = np.random.default_rng(0)
    observation, _ = venv.reset(seed=0)
    logprobs = np.zeros(200)
    returns: list[float] = []
    running = np.ones(200, bool)
    while len(returns) < 20_000:
        table = policy(observation["input_ids"], observation["attention_mask"])
        actions = (np.exp(table) / np.exp(table).sum(1, keepdims=True)).cumsum(1)
        actions = (generator.random((200, 1)) < actions).argmax(1)
        # The uniform reference: each token costs log pi - log(1 / V).
        logprobs += running * (table[np.arange(200), actions] + math.log(6))
        observation, rewards, ended, _, _ = venv.step(actions)
        returns += (rewards - beta * logprobs)[ended].tolist()
        logprobs[ended] = 0.0
        running = ~ended  # the step after an end only resets
    sample = np.array(returns)
    exact = objective(env, enumerate_completions(env).stepwise(policy), beta)
    assert abs(sample.mean() - exact) < 4 * sample.std() / math.sqrt(len(sample))
    assert abs(sample.mean() - (exact + 0.02)) > 4 * sample.std() / math.sqrt(len(sample))


def test_a_reference_that_forbids() -> None:
    """What the reference never says costs infinitely much, and is no part of the optimum."""
    completions = enumerate_completions(tiny_env())

    def only_eos(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        row = np.full((len(input_ids), 6), -np.inf)
        row[:, 1] = 0
        return row

    reference = FixedReference(completions.stepwise(only_eos))
    found = optimum(completions, 0.5, reference)
    assert found.values.tolist() == [-1.0, 0.0] and found.kl == 0
    uniform = completions.stepwise(lambda ids, mask: np.full((len(ids), 6), -math.log(6)))
    assert objective(completions, uniform, 0.5, reference) == -math.inf
    assert objective(completions, reference.policy_logprobs, math.inf, reference) == -0.5


def test_a_language_model_as_reference(make_model: Any) -> None:
    """The optimum of the KL to a transformer; scored one by one as a check."""
    pytest.importorskip("torch")
    env = tiny_env()
    model = make_model(vocab_size=6)
    completions = enumerate_completions(env)
    logprobs = reference_logprobs(completions, model)
    for rows in completions.rows():
        assert np.exp(logprobs[rows]).sum() == pytest.approx(1, abs=1e-12)
    found = optimum(completions, 0.5, model)
    worked = 0.5 * np.log(
        [np.sum(np.exp(logprobs[r] + completions.rewards[r] / 0.5)) for r in completions.rows()]
    )
    assert found == pytest.approx(worked.mean(), rel=1e-9)
    assert found != pytest.approx(optimum(completions, 0.5), rel=1e-3)


def test_it_is_a_number_that_copies() -> None:
    found = optimum(tiny_env(), 0.5)
    assert isinstance(found, float) and found.value == float(found) and type(found.value) is float
    for other in (copy.copy(found), copy.deepcopy(found), pickle.loads(pickle.dumps(found))):
        assert other == found and (other.kl, other.reward) == (found.kl, found.reward)


def test_token_policy_is_the_conditional() -> None:
    found = optimum(tiny_env(), 0.3)
    table = dict(found.policy("1"))
    first = found.token_policy("1")
    assert first.sum() == pytest.approx(1)
    assert first[3] == pytest.approx(sum(p for ids, p in table.items() if ids[0] == 3))
    assert found.token_policy("1", (3,))[2] * first[3] == pytest.approx(table[(3, 2)])
    for prefix in ((1,), (3, 2), (3, 2, 1)):
        with pytest.raises(ConfigError, match="never goes on from the tokens"):
            found.token_policy("1", prefix)


def constant(value: float, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
    return np.full((len(input_ids), 2), value)


def test_refusals() -> None:
    env = tiny_env()
    completions = enumerate_completions(env)
    for beta in (-0.1, math.nan, "1", True):
        with pytest.raises(ConfigError, match="beta must be a number of at least 0"):
            optimum(completions, beta)  # type: ignore[arg-type]
    with pytest.raises(UnknownNameError, match="prompt id"):
        optimum(completions).policy("7")
    with pytest.raises(ConfigError, match=r"returned log-probabilities of shape \(62, 6\)"):
        objective(completions, lambda ids, mask: np.zeros((len(ids), 6)))
    with pytest.raises(ConfigError, match="returned NaN"):
        objective(completions, partial(constant, math.nan))
    for wrong in (0.0, -50.0, -math.inf):
        with pytest.raises(ConfigError, match="it must be 1"):
            objective(completions, partial(constant, wrong))
    with pytest.raises(ConfigError, match=r"have about 10\^17 completions of up to 24 of 6 tokens"):
        optimum(tiny_env(max_new_tokens=24))
    with pytest.raises(ConfigError, match=f"at most {MAX_COMPLETIONS:,} are enumerated"):
        optimum(tiny_env(max_new_tokens=9))
    with pytest.raises(ConfigError, match="are enumerated"):
        optimum(TextEnv(["a"], lambda prompt, text: 0.0, max_new_tokens=4000))
