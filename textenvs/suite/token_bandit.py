"""`textenvs/TokenBandit-v0`: a contextual bandit, one token an episode."""

from string import ascii_lowercase, ascii_uppercase
from typing import Any

import numpy as np

from textenvs.options import checked_integer
from textenvs.prompts import PromptList, checked_split
from textenvs.suite.diagnostic import DiagnosticEnv, TableReward
from textenvs.symbols import SymbolTokenizer
from textenvs.types import Prompt, Split

BEST_MEANS, OTHER_MEANS = (0.8, 1.0), (0.0, 0.6)
"""Ranges of the mean of a context's best arm and of its others: no tie, a clear margin."""


def token_bandit_task(
    *, n_contexts: int = 5, n_arms: int = 5, task_seed: int = 0, split: Split = "train"
) -> dict[str, Any]:
    """Return the arguments of `TextEnv` for this task.

    Args:
        n_contexts: Contexts, one prompt each, 1 to 26: the letters a, b, ...
        n_arms: Arms, 2 to 26: the letters A, B, ...
        task_seed: Chooses the means.
        split: A bandit has no held-out arms: the three splits are equal on purpose.

    Raises:
        ConfigError: if an option is out of range.
        UnknownNameError: if there is no such split.
    """
    checked_split(split)
    contexts = ascii_lowercase[: checked_integer("n_contexts", n_contexts, 1, 5, 26)]
    arms = ascii_uppercase[: checked_integer("n_arms", n_arms, 2, 5, 26)]
    means = arm_means(n_contexts, n_arms, checked_integer("task_seed", task_seed, 0, 0))
    prompts = [Prompt(id=f"context-{c}", text=c, group=c) for c in contexts]
    reward = TableReward(
        "arm",
        {
            prompt.id: dict(zip(arms, row.tolist(), strict=True))
            for prompt, row in zip(prompts, means, strict=True)
        },
    )
    return {
        "prompts": PromptList(prompts),
        "reward": reward,
        "tokenizer": SymbolTokenizer(contexts + arms),
        "max_prompt_tokens": 1,
        "max_new_tokens": 1,
        "metrics": reward.gold_metrics,
        "oracle": reward.best,
        "probes": lambda prompt: {"every_arm": arms, "two_arms": reward.best(prompt) * 2},
    }


def arm_means(n_contexts: int, n_arms: int, seed: int) -> np.ndarray:
    """Return float64 [n_contexts, n_arms], the mean of each arm in each context.

    The best arms of the first `n_arms` contexts are all different, so that no arm is good
    without reading the prompt.
    """
    generator = np.random.default_rng(seed)
    means = generator.uniform(*OTHER_MEANS, (n_contexts, n_arms))
    best = np.resize(generator.permutation(n_arms), n_contexts)
    means[np.arange(n_contexts), best] = generator.uniform(*BEST_MEANS, n_contexts)
    return means


class TokenBanditEnv(DiagnosticEnv):
    """Pull the best arm of each context: a contextual bandit, one token an episode.

    Observation: as in `TextEnv`; the prompt is one letter, the context. Action: as in
    `TextEnv`; the arms are capital letters. Reward: the mean of the arm in this context,
    in [0, 1] and without noise; EOS, padding and letters of contexts pay 0. Ends after one
    token, always `terminated`. Gold metrics: `best`, `regret`, `legal`. `optimum` and
    `objective` are exact. Options: see `token_bandit_task`.

    Version history: v0, first version.
    """

    task = staticmethod(token_bandit_task)


make_vec = TokenBanditEnv.make_vec
