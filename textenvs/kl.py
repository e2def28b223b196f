"""Kullback-Leibler estimates between a policy and its reference, and the coefficient.

KL-shaped reward: r_t - beta * (log pi(a_t|s_t) - log pi_ref(a_t|s_t)) (Ziegler et al.,
arXiv:1909.08593, eq. 2). It splits: beta * log pi_ref needs nothing of the policy, so an
environment can pay it; -beta * log pi belongs to whoever knows the policy.
"""

from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np

from textenvs.errors import ConfigError, UnknownNameError

Estimator = Literal["k1", "k2", "k3", "full"]
ESTIMATORS: tuple[str, ...] = get_args(Estimator)


def kl_estimate(
    logprob: np.ndarray, reference_logprob: np.ndarray, estimator: Estimator = "k1"
) -> np.ndarray:
    """Per-token estimates of KL(pi || pi_ref) from samples of pi.

    With d = log pi - log pi_ref (J. Schulman, "Approximating KL divergence", 2020):
    k1 = d, unbiased, can be negative; k2 = d^2 / 2, biased, never negative;
    k3 = exp(-d) - 1 + d, unbiased, never negative.

    Args:
        logprob: float [...], log pi of the sampled tokens; for "full", float [..., V].
        reference_logprob: The same under the reference.
        estimator: "k1", "k2", "k3", or "full" for the exact sum over the vocabulary.

    Returns:
        float64 [...].

    Raises:
        UnknownNameError: if the estimator is unknown.
    """
    log_pi = np.asarray(logprob, np.float64)
    log_reference = np.asarray(reference_logprob, np.float64)
    if estimator == "full":
        probability = np.exp(log_pi)
        # A token the policy never takes contributes 0, also where both are -inf.
        difference = np.zeros(np.broadcast_shapes(log_pi.shape, log_reference.shape))
        np.subtract(log_pi, log_reference, out=difference, where=probability > 0)
        return (probability * difference).sum(-1)
    difference = log_pi - log_reference
    if estimator == "k1":
        return difference
    if estimator == "k2":
        return 0.5 * difference**2
    if estimator == "k3":
        return np.exp(-difference) - 1.0 + difference
    raise UnknownNameError("KL estimator", estimator, ESTIMATORS)


class KLCoefficient:
    """The coefficient beta, fixed or adaptive.

    Adaptive (Ziegler et al., section 2.2): beta grows while the KL, summed over a
    sequence, is above the target and shrinks while it is below:
    beta <- beta * (1 + clip(KL / target - 1, -0.2, 0.2) * episodes / horizon).
    """

    def __init__(
        self, value: float, *, target: float | None = None, horizon: float = 10_000
    ) -> None:
        """Choose the coefficient.

        Args:
            value: Beta to begin with, at least 0.
            target: KL in nats a sequence to steer to; None keeps beta fixed.
            horizon: Episodes over which a full correction takes effect.

        Raises:
            ConfigError: if a number is out of range.
        """
        if not value >= 0 or not np.isfinite(value):
            raise ConfigError(f"the KL coefficient must be at least 0, got {value}")
        if target is not None and not target > 0:
            raise ConfigError(f"the KL target must be above 0 nats a sequence, got {target}")
        if target is not None and value == 0:
            raise ConfigError("an adaptive KL coefficient must begin above 0: 0 never grows")
        if not horizon > 0:
            raise ConfigError(f"the KL horizon must be above 0 episodes, got {horizon}")
        self.value, self.target, self.horizon = float(value), target, float(horizon)

    def update(self, sequence_kl: float, episodes: int) -> None:
        """Adapt to the mean KL of a batch of episodes, in nats a sequence."""
        if self.target is None:
            return
        error = float(np.clip(sequence_kl / self.target - 1.0, -0.2, 0.2))
        self.value *= 1.0 + error * episodes / self.horizon

    def state_dict(self) -> dict[str, Any]:
        """Return the state; JSON-able."""
        return {"value": self.value}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take up a saved state."""
        self.value = float(state["value"])
