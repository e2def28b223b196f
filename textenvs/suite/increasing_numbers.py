"""`textenvs/IncreasingNumbers-v0`: count up from the number in the prompt.

After the synthetic task of RL4LMs (Ramamurthy et al., arXiv:2210.01241), whose reward is the
length of the sorted beginning over the number of words, or over a least number of them. That
one never reads the prompt, so one fixed answer solves it; here each number must follow its
predecessor, the first that of the prompt, within `max_step`.
"""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from textenvs.errors import ConfigError
from textenvs.options import checked_integer
from textenvs.prompts import PromptList, checked_split, split_of
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.suite.options import first_prompts
from textenvs.task_env import TaskEnv
from textenvs.tokenization import TINY_LM
from textenvs.types import Episode, Prompt, Split

TEMPLATE = "Count up from {start}:\n"
FIRST_START = 10
"""Below it, the commonest constant answers would follow some prompts."""

NUMBER = re.compile(r"[0-9]{1,9}")


class IncreasingNumbers(BaseReward):
    """The counting beginning of an answer, over its words or `n_numbers`.

    Words are what white space separates. The beginning goes on while a word is a number of
    at most nine digits 0-9 that exceeds the one before, the first the prompt's, by at most
    `max_step`. With c numbers in it and w words in all, the score is c / max(w, n_numbers),
    in [0, 1]: what follows the beginning costs as much as what lacks.
    """

    name = "increasing_numbers"

    def __init__(self, n_numbers: int = 8, max_step: int | None = 10) -> None:
        """Keep the numbers asked for and the greatest step; None allows any step."""
        self.n_numbers, self.max_step = n_numbers, max_step

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        return RewardResult.from_scores(self.name, [self._score(e) for e in episodes])

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return 0 and 1."""
        return (0.0, 1.0)

    def counted(self, episode: Episode) -> int:
        """Return how many numbers the counting beginning has."""
        previous = int(episode.prompt.metadata["start"])
        counted = 0
        for word in episode.completion.split():
            if not NUMBER.fullmatch(word):
                break
            step = int(word) - previous
            if step < 1 or (self.max_step is not None and step > self.max_step):
                break
            previous += step
            counted += 1
        return counted

    def _score(self, episode: Episode) -> float:
        return self.counted(episode) / max(len(episode.completion.split()), self.n_numbers)

    def gold_metrics(self, episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
        """Return what a policy is judged by, float64 [B] each.

        - `counted`: numbers in the counting beginning.
        - `numbers`: share of the words that are numbers; 0 for an empty answer.
        - `solved`: 1 if at least `n_numbers` were counted and nothing else was said.
        - `published`: the score of the published task, which ignores prompt and step.
        """
        words = [e.completion.split() for e in episodes]
        counted = np.array([self.counted(e) for e in episodes], np.float64)
        lengths = np.array([len(w) for w in words], np.float64)
        numbers = np.array([sum(bool(NUMBER.fullmatch(x)) for x in w) for w in words], np.float64)
        return {
            "counted": counted,
            "numbers": numbers / np.maximum(lengths, 1),
            "solved": ((counted == lengths) & (counted >= self.n_numbers)).astype(np.float64),
            "published": np.array([published_score(w, self.n_numbers) for w in words], np.float64),
        }

    def answer(self, prompt: Prompt) -> str:
        """Return a right answer: the next `n_numbers` numbers."""
        start = int(prompt.metadata["start"])
        return " ".join(str(start + i) for i in range(1, self.n_numbers + 1))

    def probes(self, prompt: Prompt) -> dict[str, str]:
        """Return answers that look like counting."""
        start, n = int(prompt.metadata["start"]), self.n_numbers
        return {
            "learned_by_heart": " ".join(str(100 + i) for i in range(1, n + 1)),
            "next_repeated": " ".join([str(start + 1)] * n),
            "countdown": " ".join(str(start - i) for i in range(n)),
            "wide_steps": " ".join(str(1000 * i) for i in range(1, n + 1)),
        }


def published_score(words: Sequence[str], least: int) -> float:
    """Return the score of the published task: sorted beginning / max(words, least).

    Words that are no floating-point number are skipped in the beginning, yet count as words.
    """
    numbers = [number for number in map(_as_float, words) if number is not None]
    if not numbers:
        return 0.0
    rising = [later > earlier for earlier, later in zip(numbers, numbers[1:], strict=False)]
    counted = 1 + (rising.index(False) if False in rising else len(rising))
    return counted / max(len(words), least)


def _as_float(word: str) -> float | None:
    try:
        return float(word)
    except ValueError:
        return None


def increasing_numbers_task(
    *,
    n_numbers: int = 8,
    max_step: int | None = 10,
    max_start: int = 900,
    split: Split = "train",
    n_prompts: int | None = None,
    prompt_seed: int = 0,
) -> dict[str, Any]:
    """Return the arguments of `TextEnv` for this task.

    Args:
        n_numbers: Numbers asked for, at least 2; they must fit `max_new_tokens`.
        max_step: The greatest difference of two neighbours, at least 1; None allows any,
            as the published task does, and so a fixed answer of large numbers.
        max_start: The greatest number a prompt starts from; the least is 10.
        split: "train", "validation" or "test", by the start.
        n_prompts: Prompts of the split; None means all of them.
        prompt_seed: Chooses their order.

    Raises:
        ConfigError: if an option is out of range.
        PromptError: if the split has fewer prompts.
        UnknownNameError: if there is no such split.
    """
    checked_split(split)
    checked_integer("n_numbers", n_numbers, 2, 8)
    if max_step is not None:
        checked_integer("max_step", max_step, 1, 10)
    checked_integer("max_start", max_start, FIRST_START, 900)
    generator = np.random.default_rng(checked_integer("prompt_seed", prompt_seed, 0, 0))
    order = FIRST_START + generator.permutation(max_start + 1 - FIRST_START)
    starts = [start for start in order.tolist() if split_of(f"start {start}") == split]
    if not starts:
        raise ConfigError(f"no start up to {max_start} is in the {split} split; raise max_start")
    reward = IncreasingNumbers(n_numbers, max_step)
    prompts = PromptList(
        Prompt(
            id=f"start-{start}",
            text=TEMPLATE.format(start=start),
            group=f"start {start}",
            metadata={"start": start},
        )
        for start in first_prompts(starts, n_prompts, split)
    )
    return {
        "prompts": prompts,
        "reward": reward,
        "tokenizer": TINY_LM,
        "max_prompt_tokens": 24,
        "max_new_tokens": 32,
        "metrics": reward.gold_metrics,
        "oracle": reward.answer,
        "probes": reward.probes,
    }


class IncreasingNumbersEnv(TaskEnv):
    """Count up from the number in the prompt, in small steps.

    Observation and action: as in `TextEnv`. Reward: `IncreasingNumbers`, the share of the
    answer that counts, in [0, 1]. Ends at EOS or when the token budget is spent, always
    `terminated`. Gold metrics: `counted`, `numbers`, `solved`, `published`. Options: see
    `increasing_numbers_task`.

    Version history: v0, first version.
    """

    task = staticmethod(increasing_numbers_task)


make_vec = IncreasingNumbersEnv.make_vec
