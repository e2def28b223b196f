"""`textenvs/DelayedCredit-v0`: the first token decides, the reward comes tokens later."""

from collections.abc import Sequence
from string import ascii_uppercase
from typing import Any

import numpy as np

from textenvs.options import checked_integer
from textenvs.prompts import PromptList, checked_split
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.suite.diagnostic import DiagnosticEnv
from textenvs.symbols import SymbolTokenizer
from textenvs.types import Episode, Prompt, Split

FILLER = "-"
WRONG_KEY_SHARE = 0.2
"""What filling as asked pays without the right key: enough to learn to wait, no more."""


class DelayedKey(BaseReward):
    """The prompt's key first, then `delay` fillers, then the end.

    An answer of another length than 1 + `delay` pays 0. Any other pays the share of its
    last `delay` symbols that are fillers, times 1 if its first symbol is the prompt's key
    and times 0.2 if not. Range [0, 1].
    """

    name = "delayed_key"

    def __init__(self, delay: int) -> None:
        """Keep the number of fillers, at least 1."""
        self.delay = delay

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        right, filled = self.key_is_right(episodes), self.filled(episodes)
        return RewardResult.from_scores(self.name, filled * np.where(right, 1.0, WRONG_KEY_SHARE))

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return 0 and 1."""
        return (0.0, 1.0)

    def key_is_right(self, episodes: Sequence[Episode]) -> np.ndarray:
        """Return bool [B], whether the first symbol is the prompt's key."""
        return np.array([e.completion[:1] == e.prompt.metadata["key"] for e in episodes], bool)

    def filled(self, episodes: Sequence[Episode]) -> np.ndarray:
        """Return float64 [B], the share of fillers after the key; 0 for a wrong length."""
        lengths = np.array([len(e.completion) for e in episodes])
        fillers = np.array([e.completion[1:].count(FILLER) for e in episodes])
        return np.where(lengths == 1 + self.delay, fillers / self.delay, 0.0)

    def answer(self, prompt: Prompt) -> str:
        """Return the right answer."""
        return prompt.metadata["key"] + FILLER * self.delay

    def probes(self, prompt: Prompt) -> dict[str, str]:
        """Return answers that get a part of it right."""
        key = prompt.metadata["key"]
        return {
            "key_alone": key,
            "key_all_along": key * (1 + self.delay),
            "fillers_alone": FILLER * (1 + self.delay),
            "one_filler_short": key + FILLER * (self.delay - 1),
        }

    def gold_metrics(self, episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
        """Return what a policy is judged by, float64 [B] each.

        - `key`: 1 if the first symbol is the prompt's key.
        - `waited`: 1 if the answer has the asked length and only fillers after the first.
        - `solved`: 1 if both.
        """
        key, waited = self.key_is_right(episodes), self.filled(episodes) == 1
        return {
            "key": key.astype(np.float64),
            "waited": waited.astype(np.float64),
            "solved": (key & waited).astype(np.float64),
        }


def delayed_credit_task(
    *, n_keys: int = 4, delay: int = 3, split: Split = "train"
) -> dict[str, Any]:
    """Return the arguments of `TextEnv` for this task.

    Args:
        n_keys: Keys, one prompt each, 2 to 26: the letters A, B, ...
        delay: Fillers between the key and the end, at least 1.
        split: Every key must be seen to be learned, so the three splits are equal on purpose.

    Raises:
        ConfigError: if an option is out of range.
        UnknownNameError: if there is no such split.
    """
    checked_split(split)
    keys = ascii_uppercase[: checked_integer("n_keys", n_keys, 2, 4, 26)]
    reward = DelayedKey(checked_integer("delay", delay, 1, 3))
    prompts = [Prompt(id=f"key-{k}", text=k, group=k, metadata={"key": k}) for k in keys]
    return {
        "prompts": PromptList(prompts),
        "reward": reward,
        "tokenizer": SymbolTokenizer(keys + FILLER),
        "max_prompt_tokens": 1,
        "max_new_tokens": delay + 2,
        "metrics": reward.gold_metrics,
        "oracle": reward.answer,
        "probes": reward.probes,
    }


class DelayedCreditEnv(DiagnosticEnv):
    """Say the prompt's key first, then wait: credit for a token that is paid much later.

    Observation: as in `TextEnv`; the prompt is one letter, the key. Action: as in
    `TextEnv`. Reward: `DelayedKey`, at the end, in [0, 1]: an answer that ends early or
    late pays 0, filling as asked pays 0.2, and 1 if the first token was the key. Ends at
    EOS or after `delay` + 2 tokens, always `terminated`. Gold metrics: `key`, `waited`,
    `solved`. `optimum` and `objective` are exact. Options: see `delayed_credit_task`.

    Version history: v0, first version.
    """

    task = staticmethod(delayed_credit_task)


make_vec = DelayedCreditEnv.make_vec
