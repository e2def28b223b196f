"""A policy that answers with a generator of its own."""

from collections.abc import Mapping

import numpy as np
import torch

from agents.policy import CausalLMPolicy
from textenvs.row_cache import DecodeState


class SeededPlayer:
    """A policy and the generator of its samples, begun by a seed of its own."""

    def __init__(self, policy: CausalLMPolicy, seed: int) -> None:
        """Seed the generator.

        Args:
            policy: As it is when it is asked; no copy.
            seed: Of sampling.
        """
        self.policy = policy
        self.generator = torch.Generator(policy.device).manual_seed(seed)

    def predict(
        self,
        observation: Mapping[str, np.ndarray],
        state: DecodeState | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, DecodeState]:
        """Choose actions; see `CausalLMPolicy.predict`."""
        return self.policy.predict(
            observation, state, episode_start, deterministic, generator=self.generator
        )
