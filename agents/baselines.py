"""The floor and the ceiling of a comparison: chance, the right answer, the untrained model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agents.modeling.frozen_copy import frozen_copy
from agents.plans import PlanPlayer, Plans
from agents.policy import CausalLMPolicy
from agents.seeded_player import SeededPlayer


class Random:
    """Every token of the action space with the same probability: the floor."""

    def __init__(self, env: Any, seed: int = 0) -> None:
        """Bind an environment, single or vector.

        Args:
            env: Its tokens are drawn from.
            seed: Of the draws.
        """
        self.space = env.unwrapped.batch.action_space
        self.generator = np.random.default_rng(seed)

    def predict(
        self,
        observation: Mapping[str, np.ndarray],
        state: None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, None]:
        """Draw a token for each row; `deterministic` makes no difference."""
        shape = observation["input_ids"].shape[:-1]
        return np.asarray(self.generator.integers(self.space.n, size=shape)), None


class Oracle:
    """Says a right answer, and EOS: the ceiling, or near it."""

    def __init__(self, env: Any) -> None:
        """Bind the environment that is to be played, single or vector.

        Raises:
            ConfigError: if it knows no right answer.
        """
        self.batch = env.unwrapped.batch
        self.batch.oracle(self.batch.prompts[0])
        self.player = PlanPlayer(env, self.answers)

    def answers(self, prompts: Sequence[int]) -> list[list[int]]:
        """Return the right answer to each prompt as tokens, EOS behind it.

        Args:
            prompts: Indices into the environment's prompts.
        """
        return [self.batch.oracle_ids(self.batch.prompts[i]) for i in prompts]

    def predict(
        self,
        observation: Mapping[str, np.ndarray],
        state: Plans | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, Plans]:
        """Say the next token of each row's answer; see `PlanPlayer.predict`."""
        return self.player.predict(observation, state, episode_start)


class Reference(SeededPlayer):
    """A model as it is now, whatever becomes of it later: what training is compared with."""

    def __init__(self, model: CausalLMPolicy | str | Path, seed: int = 0) -> None:
        """Keep a model.

        Args:
            model: Its name or folder, or a policy, of which a copy is taken.
            seed: Of sampling.

        Raises:
            UnknownNameError: if a name leads nowhere.
        """
        if isinstance(model, CausalLMPolicy):
            policy = frozen_copy(model)
        else:
            policy = CausalLMPolicy.from_pretrained(model)
        super().__init__(policy, seed)
