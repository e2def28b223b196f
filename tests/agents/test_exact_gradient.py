"""Gradient estimates against the exact gradient, by listing every completion.

The objective of `textenvs.optimum` is differentiated exactly, and each learner's gradient is
averaged over many independent rollouts with all that biases it on purpose turned off: one
epoch, one batch, no whitening. Both are projected on the exact gradient and on random
directions, and the means must agree within their standard errors.

A learner that divides by the tokens of its batch has a ratio estimate: a batch of long answers
counts less. Its estimate is multiplied by the tokens an episode of that very batch, which gives
back the sum over tokens that the policy gradient theorem speaks of. Constants are multiplied
back alike: they lengthen a step and do not turn it.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import pytest
import torch
from torch import Tensor

from agents.config import PPOConfig
from agents.grpo import GRPO, GRPOConfig
from agents.on_policy import OnPolicyAgent
from agents.policy import CausalLMPolicy
from agents.ppo import PPO
from agents.reinforce import REINFORCE, REINFORCEConfig
from agents.rloo import RLOO, RLOOConfig
from agents.rollout import Rollout
from textenvs.enumeration import Completions
from textenvs.optimum import objective, reference_logprobs
from textenvs.reference import CausalLMReference
from textenvs.wrappers.reference_kl import VectorReferenceKL

TASK: dict[str, Any] = {"n_prompts": 2, "n_symbols": 2, "horizon": 2}
BETA = 0.3
EPISODES, ROLLOUTS, GROUP = 128, 28, 2
DIRECTIONS = 12
"""Random directions besides the exact gradient."""
AGREES, DIFFERS = 3.5, 5.0
"""Standard errors: the most for an unbiased estimate, the least for a biased one."""

UNBIASED: dict[str, Any] = {"n_epochs": 1, "batch_size": EPISODES, "max_grad_norm": None}
UNBIASED_PPO: dict[str, Any] = {
    **UNBIASED,
    "normalize_advantage": False,
    "gae_lambda": 1.0,
    "vf_coef": 0.0,
}
WHOLE_ANSWERS: dict[str, Any] = {
    **UNBIASED,
    "kl_in": "reward",
    "kl_estimator": "k1",
    "scale_rewards": "none",
    "loss_type": "dr_grpo",
}
Make = Callable[..., Any]


class Problem(NamedTuple):
    """A policy, a reference that is another model, and every completion."""

    policy: CausalLMPolicy
    reference: CausalLMReference
    completions: Completions

    def exact_gradient(self, beta: float) -> Tensor:
        """Return the gradient of J, float64 [P], through the sum over all completions."""
        c = self.completions
        ids, mask = map(torch.from_numpy, c.observations(slice(None)))
        said = self.policy.evaluate(ids, mask, c.prompt_ids.shape[1])
        logprobs = said.logprobs.double().sum(1)
        kl = logprobs - torch.from_numpy(reference_logprobs(c, self.reference))
        rewards = torch.from_numpy(c.rewards)
        value = (logprobs.exp() * (rewards - beta * kl)).sum() / len(c.prompts)
        weights = list(self.policy.model.parameters())
        return flat(torch.autograd.grad(value, weights), weights)

    def venv(self, beta: float, samples_per_prompt: int = 1) -> Any:
        """Return a vector environment that pays the reference's half of the KL."""
        venv = gym.make_vec(
            "textenvs/Enumerable-v0",
            num_envs=EPISODES,
            samples_per_prompt=samples_per_prompt,
            **TASK,
        )
        return VectorReferenceKL(venv, self.reference, beta)


@pytest.fixture
def problem(make_model: Make) -> Problem:
    env: Any = gym.make("textenvs/Enumerable-v0", **TASK).unwrapped
    size = env.tokenizer.vocab_size
    policy, other = (
        CausalLMPolicy(make_model("llama", seed=seed, vocab_size=size), bfloat16=False)
        for seed in (4, 2)
    )
    return Problem(policy, other.reference(), env.completions)


def flat(gradients: Any, weights: list[Any]) -> Tensor:
    """Return gradients as float64 [P]; None counts as 0."""
    filled = [
        torch.zeros_like(w) if g is None else g for g, w in zip(gradients, weights, strict=True)
    ]
    return torch.cat([g.detach().double().reshape(-1) for g in filled])


def estimates(agent: OnPolicyAgent, scale: Callable[[Rollout], float]) -> Tensor:
    """Return the agent's ascent directions of many rollouts of one policy, float64 [R, P].

    Args:
        agent: Its weights stay as they are.
        scale: Undoes what the agent divides by.
    """
    weights = list(agent.policy.model.parameters())
    before = flat(weights, weights)
    found: list[Tensor] = []
    scales: list[float] = []

    def note_instead_of_stepping() -> None:
        found.append(-flat([w.grad for w in weights], weights))
        agent.optimizer.zero_grad(set_to_none=True)

    agent.before_step = note_instead_of_stepping  # type: ignore[method-assign]
    agent.recorder = lambda rollout, _: scales.append(scale(rollout))
    for _ in range(ROLLOUTS):
        agent.step()
    assert len(found) == len(scales) == ROLLOUTS
    assert torch.equal(before, flat(weights, weights))
    return torch.stack(found) * torch.tensor(scales, dtype=torch.float64)[:, None]


def tokens_an_episode(rollout: Rollout) -> float:
    """Turn a mean over tokens into a mean over episodes of sums over tokens."""
    return float(rollout.lengths.mean())


def as_it_is(_: Rollout) -> float:
    """Leave an estimate that divides by episodes."""
    return 1.0


def z_scores(found: Tensor, exact: Tensor) -> Tensor:
    """Return how many standard errors the mean is off, along each of the directions."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randn(DIRECTIONS, len(exact), generator=generator, dtype=torch.float64)
    directions = torch.cat([exact[None], chosen])
    along = found @ directions.T
    return (along.mean(0) - directions @ exact) / standard_errors(along)


def standard_errors(values: Tensor) -> Tensor:
    """Return those of the means over the first axis."""
    return values.std(0) / len(values) ** 0.5


def assert_exact(found: Tensor, exact: Tensor) -> None:
    """Fail unless the mean agrees, and is so sure that half of the gradient would not."""
    assert z_scores(found, exact).abs().max() < AGREES
    assert exact @ exact > 2 * DIFFERS * standard_errors(found @ exact)


def assert_biased(found: Tensor, exact: Tensor) -> None:
    """Fail if the mean might be the exact gradient."""
    assert z_scores(found, exact).abs().max() > DIFFERS


def test_the_objective_that_is_differentiated_is_the_environments(problem: Problem) -> None:
    """A short step along the exact gradient raises J of `textenvs.optimum` as it predicts."""
    c = problem.completions

    def value() -> float:
        current = problem.policy.reference()
        current.bind(c.prompt_ids.shape[1], c.vocab_size)
        return objective(c, current.completion_logprobs, BETA, problem.reference)

    exact = problem.exact_gradient(BETA)
    weights = list(problem.policy.model.parameters())
    step, before = 1e-3 / float(exact.norm()), value()
    with torch.no_grad():
        for weight, part in zip(weights, exact.split([w.numel() for w in weights]), strict=True):
            weight += (step * part.reshape(weight.shape)).float()
    assert value() - before == pytest.approx(step * float(exact @ exact), rel=0.05)


@pytest.mark.parametrize("critic", [0.0, 0.3])
def test_ppo_on_policy_is_exact(critic: float, problem: Problem) -> None:
    """A critic that is wrong everywhere costs variance and, with lambda 1, no bias."""
    found = ppo_estimates(problem, critic=critic)
    assert_exact(found, problem.exact_gradient(BETA))
    assert_biased(found, problem.exact_gradient(0.0))


@pytest.mark.parametrize("settings", [{"gamma": 0.5}, {"gae_lambda": 0.5, "critic": 0.3}])
def test_a_biased_ppo_is_told_apart(settings: dict[str, float], problem: Problem) -> None:
    """Negative control: discounting, and trusting a critic that is wrong."""
    assert_biased(ppo_estimates(problem, **settings), problem.exact_gradient(BETA))


def ppo_estimates(problem: Problem, *, critic: float = 0.0, **changes: Any) -> Tensor:
    """Return PPO's ascent directions; the critic's weights are drawn with scale `critic`."""
    head = problem.policy.value_head.weight
    noise = torch.randn(head.shape, generator=torch.Generator().manual_seed(3))
    with torch.no_grad():
        head.copy_(critic * noise)
    config = PPOConfig(**{**UNBIASED_PPO, **changes})
    return estimates(PPO(problem.policy, problem.venv(BETA), config, seed=4), tokens_an_episode)


def test_rloo_is_exact(problem: Problem) -> None:
    """As it is, without a factor; a gradient of the reward alone would be told apart."""
    agent = RLOO(problem.policy, problem.venv(BETA, GROUP), RLOOConfig(**UNBIASED), seed=4)
    found = estimates(agent, as_it_is)
    assert_exact(found, problem.exact_gradient(BETA))
    assert_biased(found, problem.exact_gradient(0.0))


def test_reinforce_is_exact(problem: Problem) -> None:
    """The other episodes' mean is a baseline that does not depend on the episode."""
    agent = REINFORCE(problem.policy, problem.venv(BETA), REINFORCEConfig(**UNBIASED), seed=4)
    assert_exact(estimates(agent, as_it_is), problem.exact_gradient(BETA))


def test_grpo_is_exact_up_to_its_own_groups_share(problem: Problem) -> None:
    """A mean that includes the answer itself shrinks the gradient by (G - 1) / G.

    Negative control: without that factor it is told apart, as RLOO would be if its baseline
    included the answer.
    """
    found = grpo_estimates(problem, scale_rewards="none")
    exact = problem.exact_gradient(BETA)
    assert_exact(found * GROUP / (GROUP - 1), exact)
    assert_biased(found, exact)


def test_dividing_by_the_deviation_turns_the_gradient(problem: Problem) -> None:
    """With one deviation for all, only the length is another; with each group's, no length fits.

    A group of little spread then counts as much as any other.
    """
    exact = problem.exact_gradient(BETA)

    def right_length(found: Tensor) -> Tensor:
        return found * (exact @ exact) / (found.mean(0) @ exact)

    assert_exact(right_length(grpo_estimates(problem, scale_rewards="batch")), exact)
    assert_biased(right_length(grpo_estimates(problem, scale_rewards="group")), exact)


def grpo_estimates(problem: Problem, **changes: Any) -> Tensor:
    """Return GRPO's ascent directions, times the tokens it divides by."""
    venv = problem.venv(BETA, GROUP)
    agent = GRPO(problem.policy, venv, GRPOConfig(**{**WHOLE_ANSWERS, **changes}), seed=4)
    return max_new_tokens(venv) * estimates(agent, as_it_is)


def max_new_tokens(venv: Any) -> int:
    """Return the token budget of an answer."""
    return int(venv.unwrapped.batch.max_new_tokens)
