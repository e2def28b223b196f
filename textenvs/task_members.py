"""What every text environment, single or batched, tells of its task."""

from collections.abc import Sequence

import numpy as np

from textenvs.episode_batch import EpisodeBatch
from textenvs.prompts import PromptSource
from textenvs.rewards.base import Reward
from textenvs.tokenization import TextTokenizer
from textenvs.types import Episode, Prompt


class TaskMembers:
    """The task behind an environment; `TextEnv` and `TextVectorEnv` inherit it.

    Attributes:
        batch: The state machine, which knows the task.
    """

    batch: EpisodeBatch

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer."""
        return self.batch.tokenizer

    @property
    def prompts(self) -> PromptSource:
        """The prompts of this environment's split."""
        return self.batch.prompts

    @property
    def reward(self) -> Reward:
        """The reward of a completion."""
        return self.batch.reward

    def oracle(self, prompt: Prompt) -> str:
        """Return a right answer to a prompt."""
        return self.batch.oracle(prompt)

    def probes(self, prompt: Prompt) -> dict[str, str]:
        """Return answers that exploit this task without solving it, by name."""
        return self.batch.probes(prompt)

    def metrics(self, episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
        """Return the gold metrics of episodes, float64 [B] each."""
        return self.batch.metrics(episodes)
