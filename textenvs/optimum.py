"""The exact optimum of the KL-regularised objective, by listing every completion.

For a prompt x drawn uniformly and completions y, the objective of a policy pi is

    J(pi) = E_x E_{y ~ pi(.|x)} [ r(x, y) - beta * log(pi(y|x) / pi_ref(y|x)) ].

Its maximum is attained by pi*(y|x) proportional to pi_ref(y|x) exp(r(x, y) / beta), and is

    J* = E_x [ beta * log sum_y pi_ref(y|x) exp(r(x, y) / beta) ]

(Ziebart, 2010; Korbak et al., arXiv:2205.11275; Rafailov et al., arXiv:2305.18290, appendix
A.1); at beta = 0 it is E_x max_y r(x, y). The sums run over every completion the environment
can produce (`textenvs.enumeration`), which makes J* a yardstick no agent can exceed.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from textenvs.enumeration import Completions, PolicyLogprobs, enumerate_completions
from textenvs.env import TextEnv
from textenvs.errors import ConfigError, MissingDependencyError
from textenvs.types import Prompt


class Optimum(float):
    """The optimum J* as a number, with the policy that attains it.

    Attributes:
        beta: The coefficient of the KL term.
        reward: The expected reward of the optimal policy.
        kl: Its KL divergence from the reference, in nats, per episode; J* is
            `reward` - `beta` * `kl`.
        values: float64 [X], J* of each prompt; their mean is J*.
        probabilities: float64 [M], of each completion given its prompt.
        completions: What they belong to.
    """

    beta: float
    reward: float
    kl: float
    values: np.ndarray
    probabilities: np.ndarray
    completions: Completions

    def __new__(cls, value: float, **attributes: Any) -> "Optimum":
        """Return the number with its attributes."""
        made = super().__new__(cls, value)
        made.__dict__.update(attributes)
        return made

    def __getnewargs_ex__(self) -> tuple[tuple[float], dict[str, Any]]:
        """Return what a copy is made of."""
        return (float(self),), dict(self.__dict__)

    @property
    def value(self) -> float:
        """J* as a plain float."""
        return float(self)

    def policy(self, prompt: Prompt | str) -> list[tuple[tuple[int, ...], float]]:
        """Return the completions of a prompt (or of its id) with their probabilities.

        A completion is its tokens, EOS included, as in `info["completion_ids"]`. At `beta` 0
        every policy over the best completions is optimal; this is the limit from above, the
        reference among them.
        """
        rows = self.completions.rows_of(prompt)
        tokens, lengths = self.completions.tokens[rows], self.completions.mask[rows].sum(1)
        ids = (tuple(row[:n].tolist()) for row, n in zip(tokens, lengths, strict=True))
        return list(zip(ids, self.probabilities[rows].tolist(), strict=True))

    def token_policy(self, prompt: Prompt | str, prefix: Sequence[int] = ()) -> np.ndarray:
        """Return float64 [V], the optimal probabilities of the next token.

        Args:
            prompt: A prompt, or its id.
            prefix: The tokens so far.

        Raises:
            ConfigError: if no completion goes on from the prefix, or only such as the optimal
                policy never begins.
        """
        rows = self.completions.rows_of(prompt)
        tokens, mask = self.completions.tokens[rows], self.completions.mask[rows]
        n = len(prefix)
        weights = np.zeros(len(tokens))
        if n < tokens.shape[1]:
            follows = (tokens[:, :n] == np.array(prefix, np.int64)).all(1) & (mask[:, n] == 1)
            weights = np.where(follows, self.probabilities[rows], 0.0)
        if not weights.sum() > 0:
            raise ConfigError(
                f"the optimal policy never goes on from the tokens {list(prefix)}; give the "
                "beginning of a completion of positive probability"
            )
        return np.bincount(tokens[:, n], weights, self.completions.vocab_size) / weights.sum()


def optimum(env: TextEnv | Completions, beta: float = 0.0, reference: Any = None) -> Optimum:
    """Return the exact optimum of the KL-regularised objective of an environment.

    Args:
        env: With at most `MAX_COMPLETIONS` completions, or these, listed before. Its prompts
            count alike, whatever its curriculum.
        beta: Coefficient of the KL term, at least 0; infinity gives the reference's reward.
        reference: A `textenvs.reference.Reference`, or a model or name of which
            `as_reference` makes one; None is the uniform policy over the V tokens.

    Raises:
        ConfigError: if the environment is too large, or `beta` below 0.
    """
    beta = _checked_beta(beta)
    completions = env if isinstance(env, Completions) else enumerate_completions(env)
    log_reference = reference_logprobs(completions, reference)
    values = np.zeros(len(completions.prompts))
    logprobs = np.full(len(completions), -np.inf)
    for x, rows in enumerate(completions.rows()):
        values[x], logprobs[rows] = regularised_optimum(
            completions.rewards[rows], log_reference[rows], beta
        )
    probabilities = np.exp(logprobs)
    share = len(completions.prompts)
    kl = _divergence(logprobs, log_reference) / share
    return Optimum(
        float(values.mean()),
        beta=beta,
        reward=float(probabilities @ completions.rewards) / share,
        kl=max(0.0, kl),  # rounding may leave it a hair below
        values=values,
        probabilities=probabilities,
        completions=completions,
    )


def objective(
    env: TextEnv | Completions,
    policy_logprobs: PolicyLogprobs,
    beta: float = 0.0,
    reference: Any = None,
) -> float:
    """Return the exact value of the same objective for a given policy: no sampling.

    Args:
        env: As in `optimum`.
        policy_logprobs: The policy; `Completions.stepwise(f)` makes one of a function that
            tells the next token's log-probabilities.
        beta: As in `optimum`.
        reference: As in `optimum`.

    Returns:
        J; minus infinity where the policy says what the reference never would.

    Raises:
        ConfigError: if the policy's probabilities do not add up to 1.
    """
    beta = _checked_beta(beta)
    completions = env if isinstance(env, Completions) else enumerate_completions(env)
    logprobs = completions.sequence_logprobs(policy_logprobs)
    value = float(np.exp(logprobs) @ completions.rewards)
    if beta > 0:
        kl = _divergence(logprobs, reference_logprobs(completions, reference))
        value -= beta * kl if kl else 0.0  # infinity times 0: the reference itself is free
    return value / len(completions.prompts)


def regularised_optimum(
    rewards: np.ndarray, reference_logprobs: np.ndarray, beta: float
) -> tuple[float, np.ndarray]:
    """Return J* and log pi* of one prompt, over N completions.

    Args:
        rewards: float64 [N].
        reference_logprobs: float64 [N]; their exponentials add up to 1.
        beta: At least 0.

    Returns:
        beta * log sum_y pi_ref(y) exp(r(y) / beta), and float64 [N].
    """
    if beta == 0:
        best = np.where(rewards == rewards.max(), reference_logprobs, -np.inf)
        if np.isneginf(best).all():  # the reference knows none of them
            best = np.where(rewards == rewards.max(), 0.0, -np.inf)
        return float(rewards.max()), best - np.logaddexp.reduce(best)
    known = np.isfinite(reference_logprobs)
    r, log_ref = rewards[known], reference_logprobs[known]
    with np.errstate(over="ignore"):
        if (r.max() - r.min()) / beta > 1:
            centre = float(r.max())
            scaled = (r - centre) / beta
            log_mass = float(np.logaddexp.reduce(log_ref + scaled))
        else:  # r / beta is nearly constant: the logarithm of a sum would lose its digits
            centre = float(np.exp(log_ref) @ r)
            scaled = (r - centre) / beta
            log_mass = math.log1p(float(np.exp(log_ref) @ np.expm1(scaled)))
    logprobs = np.full(len(rewards), -np.inf)
    logprobs[known] = log_ref + scaled - log_mass
    return centre + (0.0 if math.isinf(beta) else beta * log_mass), logprobs


def reference_logprobs(completions: Completions, reference: Any = None) -> np.ndarray:
    """Return float64 [M], log pi_ref of each completion; the uniform policy for None.

    A reference is bound to this environment.

    Raises:
        ConfigError: if its probabilities do not add up to 1.
        MissingDependencyError: if torch is absent.
    """
    if reference is None:
        return -completions.mask.sum(1) * math.log(completions.vocab_size)
    try:
        from textenvs.reference import as_reference
    except ImportError as error:
        raise MissingDependencyError(
            "torch", "a reference policy", 'pip install "textenvs[agents]"'
        ) from error
    bound = as_reference(reference)
    bound.bind(completions.prompt_ids.shape[1], completions.vocab_size)
    return completions.sequence_logprobs(bound.completion_logprobs, "the reference")


def _divergence(logprobs: np.ndarray, reference_logprobs: np.ndarray) -> float:
    """Return the sum of p * (log p - log p_ref), where p = 0 counts nothing."""
    said = logprobs > -np.inf
    return float(np.exp(logprobs[said]) @ (logprobs[said] - reference_logprobs[said]))


def _checked_beta(beta: Any) -> float:
    if isinstance(beta, bool) or not isinstance(beta, (int, float, np.number)) or not beta >= 0:
        raise ConfigError(f"beta must be a number of at least 0, got {beta!r}; 0 is no KL term")
    return float(beta)
