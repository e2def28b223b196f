"""`textenvs/Enumerable-v0`: a sequence task so small that every answer can be listed."""

from itertools import product
from string import ascii_uppercase
from typing import Any

import numpy as np

from textenvs.options import checked_integer
from textenvs.prompts import PromptList, checked_split
from textenvs.suite.diagnostic import DiagnosticEnv, TableReward
from textenvs.symbols import SymbolTokenizer
from textenvs.types import Prompt, Split

OTHER_WEIGHT, PAIR_WEIGHT = 0.5, 0.25
"""The most that a symbol out of place adds, next to the 1 of the one in its place, and the
most that a pair of neighbours adds."""


def enumerable_task(
    *,
    n_prompts: int = 4,
    n_symbols: int = 4,
    horizon: int = 3,
    task_seed: int = 0,
    split: Split = "train",
) -> dict[str, Any]:
    """Return the arguments of `TextEnv` for this task.

    Args:
        n_prompts: Prompts, one symbol each, 1 to `n_symbols`.
        n_symbols: Symbols of the alphabet, 2 to 26: the letters A, B, ...
        horizon: The most symbols of an answer, 1 to 6; EOS comes on top of them.
        task_seed: Chooses the scores.
        split: Each prompt has a table of its own, so there is nothing to hold out: the
            three splits are equal on purpose.

    Raises:
        ConfigError: if an option is out of range.
        UnknownNameError: if there is no such split.
    """
    checked_split(split)
    symbols = ascii_uppercase[: checked_integer("n_symbols", n_symbols, 2, 4, 26)]
    checked_integer("n_prompts", n_prompts, 1, 4, n_symbols)
    checked_integer("horizon", horizon, 1, 3, 6)
    checked_integer("task_seed", task_seed, 0, 0)
    prompts = [Prompt(id=f"prompt-{s}", text=s, group=s) for s in symbols[:n_prompts]]
    reward = TableReward(
        "table",
        {
            prompt.id: score_table(symbols, horizon, np.random.default_rng((task_seed, i)))
            for i, prompt in enumerate(prompts)
        },
    )
    return {
        "prompts": PromptList(prompts),
        "reward": reward,
        "tokenizer": SymbolTokenizer(symbols),
        "max_prompt_tokens": 1,
        "max_new_tokens": horizon + 1,
        "metrics": reward.gold_metrics,
        "oracle": reward.best,
        "probes": lambda prompt: {
            "first_symbol": reward.best(prompt)[0] if horizon > 1 else "",
            "never_ending": reward.best(prompt) + symbols[0],
        },
    }


def score_table(symbols: str, horizon: int, generator: np.random.Generator) -> dict[str, float]:
    """Return the score in (0, 1] of every text of 1 to `horizon` symbols.

    One symbol a place adds 1, any other between 0 and `OTHER_WEIGHT`, and each pair of
    neighbours in its place between 0 and `PAIR_WEIGHT`; the sum, over that of the best text,
    is squared. So a longer text is better than its beginning, a step towards the best text
    pays as a rule and not always, and exactly one text scores 1.
    """
    n = len(symbols)
    single = generator.uniform(0, OTHER_WEIGHT, (horizon, n))
    single[np.arange(horizon), generator.integers(n, size=horizon)] = 1.0
    pair = generator.uniform(0, PAIR_WEIGHT, (horizon, n, n))
    raw = {}
    for length in range(1, horizon + 1):
        for ids in product(range(n), repeat=length):
            score = sum(single[t, i] for t, i in enumerate(ids))
            score += sum(pair[t, ids[t - 1], ids[t]] for t in range(1, length))
            raw["".join(symbols[i] for i in ids)] = float(score)
    best = max(raw.values())
    return {text: (score / best) ** 2 for text, score in raw.items()}


class EnumerableEnv(DiagnosticEnv):
    """Find the best of all short answers: a table of scores, small enough to enumerate.

    Observation: as in `TextEnv`; the prompt is one symbol. Action: as in `TextEnv`.
    Reward: the table's score of the text, in (0, 1], exactly one text a prompt scoring 1;
    an empty answer, padding in an answer, and one of more than `horizon` symbols pay 0,
    so the policy must end its answer itself. Ends at EOS or after `horizon` + 1 tokens,
    always `terminated`. Gold metrics: `best`, `regret`, `legal`. `optimum` and `objective`
    are exact. Options: see `enumerable_task`.

    Version history: v0, first version.
    """

    task = staticmethod(enumerable_task)


make_vec = EnumerableEnv.make_vec
