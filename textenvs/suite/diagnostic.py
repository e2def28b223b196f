"""What the diagnostics share: an exact optimum, and rewards looked up in a table."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np

from textenvs.enumeration import Completions, PolicyLogprobs, enumerate_completions
from textenvs.errors import RewardError
from textenvs.optimum import Optimum, objective, optimum
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.task_env import TaskEnv
from textenvs.types import Episode, Prompt


class DiagnosticEnv(TaskEnv):
    """An environment so small that its optimum is computed by enumeration."""

    @cached_property
    def completions(self) -> Completions:
        """Every completion of every prompt with its reward, enumerated once."""
        return enumerate_completions(self)

    def optimum(self, beta: float = 0.0, reference: Any = None) -> Optimum:
        """Return the exact optimum of the KL-regularised objective.

        Args:
            beta: Coefficient of the KL term, at least 0.
            reference: As in `textenvs.optimum.optimum`; None is the uniform policy.
        """
        return optimum(self.completions, beta, reference)

    def objective(
        self, policy_logprobs: PolicyLogprobs, beta: float = 0.0, reference: Any = None
    ) -> float:
        """Return the exact value of the same objective for a given policy.

        Args:
            policy_logprobs: As in `textenvs.optimum.objective`.
            beta: Coefficient of the KL term, at least 0.
            reference: As in `optimum`.
        """
        return objective(self.completions, policy_logprobs, beta, reference)


class TableReward(BaseReward):
    """Scores by looking the answer up, letter for letter; what the table lacks gets 0."""

    def __init__(self, name: str, table: Mapping[str, Mapping[str, float]]) -> None:
        """Keep the table.

        Args:
            name: Of the reward's term.
            table: Prompt id -> answer -> score, all scores at least 0.
        """
        self.name = name
        self.table = {prompt_id: dict(row) for prompt_id, row in table.items()}

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        scores = [self.row(e.prompt).get(e.completion, 0.0) for e in episodes]
        return RewardResult.from_scores(self.name, scores)

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return 0 and the score of the best answer."""
        return (0.0, max(self.row(prompt).values()))

    def best(self, prompt: Prompt) -> str:
        """Return the best answer."""
        row = self.row(prompt)
        return max(row, key=row.__getitem__)

    def row(self, prompt: Prompt) -> dict[str, float]:
        """Return the scores of a prompt's answers.

        Raises:
            RewardError: if the table has no such prompt.
        """
        if prompt.id not in self.table:
            raise RewardError(
                f"the reward {self.name!r} has no scores for the prompt {prompt.id!r}; it knows "
                f"{', '.join(self.table)}"
            )
        return self.table[prompt.id]

    def gold_metrics(self, episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
        """Return what a policy is judged by, float64 [B] each.

        - `best`: 1 if the answer is the best one.
        - `regret`: the best answer's score less this one's.
        - `legal`: 1 if the answer is in the table.
        """
        bounds = np.array([self.bounds(e.prompt)[1] for e in episodes], np.float64)
        return {
            "best": np.array([e.completion == self.best(e.prompt) for e in episodes], np.float64),
            "regret": bounds - self(episodes).scores,
            "legal": np.array([e.completion in self.row(e.prompt) for e in episodes], np.float64),
        }
