"""What the environments over a corpus of texts have in common."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from textenvs.errors import ConfigError, CorpusError, PromptError
from textenvs.prompts import PromptList, TokenTable, checked_split, normalise, split_of
from textenvs.rewards.learned.model import RewardModel
from textenvs.tokenization import TextTokenizer
from textenvs.types import Prompt, Split


class CorpusPrompts(PromptList):
    """Prompts held in memory that remember their tokens.

    The environments of a process share them, and encoding all takes seconds.
    """

    def __init__(self, prompts: Iterable[Prompt]) -> None:
        """Collect prompts."""
        super().__init__(prompts)
        self._tables: list[tuple[TextTokenizer, int, TokenTable | None]] = []

    def check_lengths(self, tokenizer: TextTokenizer, limit: int) -> TokenTable | None:
        """Encode every prompt once and refuse the first longer than `limit` tokens."""
        for known, fits, table in self._tables:
            if known is tokenizer and fits <= limit:
                return table
        table = super().check_lengths(tokenizer, limit)
        self._tables.append((tokenizer, limit, table))
        return table


def prompts_of_split(
    prompts: Iterable[Prompt], split: Split, n_prompts: int | None, prompt_seed: int
) -> CorpusPrompts:
    """Return the prompts of one split, each text once.

    Args:
        prompts: Of the whole corpus, in order; split by their group.
        split: "train", "validation" or "test".
        n_prompts: How many to draw at random; None takes all, in order.
        prompt_seed: Chooses which.

    Raises:
        UnknownNameError: if the split is unknown.
        PromptError: if `n_prompts` is below 1.
        ConfigError: if the split has fewer, or the seed is negative.
        CorpusError: if the split has none.
    """
    checked_split(split)
    if not isinstance(prompt_seed, int) or prompt_seed < 0:
        raise ConfigError(f"prompt_seed must be a non-negative integer, got {prompt_seed!r}")
    if n_prompts is not None and (not isinstance(n_prompts, int) or n_prompts < 1):
        raise PromptError(f"n_prompts must be at least 1, got {n_prompts!r}")
    # A text that two groups share would stand in two splits; the first one keeps it.
    distinct: dict[str, Prompt] = {}
    for prompt in prompts:
        distinct.setdefault(normalise(prompt.text), prompt)
    kept = [prompt for prompt in distinct.values() if split_of(prompt.group) == split]
    if not kept:
        raise CorpusError(
            f"no text of the corpus can be asked about in the {split} split; bring a larger "
            "corpus, or loosen the options that choose its texts"
        )
    if n_prompts is None:
        return CorpusPrompts(kept)
    if n_prompts > len(kept):
        raise ConfigError(
            f"n_prompts is {n_prompts}, but the {split} split of the corpus has {len(kept)} "
            "prompts; lower it, or leave it out to take them all"
        )
    chosen = np.random.default_rng(prompt_seed).permutation(len(kept))[:n_prompts]
    return CorpusPrompts(kept[i] for i in chosen)


def chosen_reward(
    reward: Any, reward_model: str | None, reward_model_label: str | None, default: str
) -> Any:
    """Return the reward of a task: a reward model where one is named, else `reward`.

    Raises:
        ConfigError: if both are given, or a label without a model.
    """
    if reward_model is None:
        if reward_model_label is not None:
            raise ConfigError(
                f"reward_model_label is {reward_model_label!r}, but no reward_model is given"
            )
        return reward
    if reward != default:
        raise ConfigError(
            f"both reward {reward!r:.60} and reward_model {reward_model!r} are given; add them up "
            "in one reward, 0.5 * RewardModel(path) + ..., or leave one out"
        )
    return RewardModel(reward_model, label=reward_model_label)


def first_words(text: str, n: int) -> str:
    """Return the first n words of a text, the white space between them as it is."""
    found = re.match(rf"\s*(\S+(?:\s+\S+){{0,{n - 1}}})", text)
    return found[1] if found else ""
