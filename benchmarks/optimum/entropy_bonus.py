"""Where the KL leads that is half paid by the environment and half an entropy bonus."""

from collections import defaultdict
from typing import Any

import numpy as np

from textenvs.enumeration import Completions

Prefix = tuple[int, ...]


def bonus_limit(completions: Completions, reference: Any, beta: float) -> float:
    """Return J of the policy at which Stable-Baselines3's gradient with `ent_coef=beta` is 0.

    The bonus is the gradient of the entropy at each state alone, and the returns hold
    beta * log pi_ref but no entropy. So at every state pi(a|s) is proportional to
    exp(Q(s, a) / beta), as in the optimum, where Q, unlike the optimum's, leaves out the entropy
    of all later states. Found backwards from the ends, for a policy with a free choice at every
    state.

    Args:
        completions: Of the environment.
        reference: Bound to it.
        beta: Above 0.
    """
    ids, mask = completions.observations(slice(None))
    told = np.asarray(reference.completion_logprobs(ids, mask), np.float64)
    worth = []
    for rows in completions.rows():
        # Prefix -> (value without entropies, J from here on); prefixes of the same length in turn.
        known: dict[Prefix, tuple[float, float]] = {}
        log_reference: dict[Prefix, float] = {}
        for tokens, length, reward, logprobs in zip(
            completions.tokens[rows].tolist(),
            completions.mask[rows].sum(1).tolist(),
            completions.rewards[rows].tolist(),
            told[rows],
            strict=True,
        ):
            known[tuple(tokens[:length])] = (reward, reward)
            for t in range(length):
                log_reference[tuple(tokens[: t + 1])] = float(logprobs[t])
        for length in range(completions.tokens.shape[1], 0, -1):
            children: dict[Prefix, list[Prefix]] = defaultdict(list)
            for prefix in log_reference:
                if len(prefix) == length:
                    children[prefix[:-1]].append(prefix)
            for parent, choices in children.items():
                paid = beta * np.array([log_reference[choice] for choice in choices])
                value, j = np.array([known[choice] for choice in choices]).T
                logits = (paid + value) / beta
                logprobs = logits - np.logaddexp.reduce(logits)
                p = np.exp(logprobs)
                known[parent] = (float(p @ (paid + value)), float(p @ (paid - beta * logprobs + j)))
        worth.append(known[()][1])
    return float(np.mean(worth))
