"""Drawing indices epoch by epoch: none twice before all were drawn."""

from collections.abc import Mapping
from typing import Any

import numpy as np


class EpochSampler:
    """Draws indices in a random order, a new one for each pass; passes may share a draw."""

    def __init__(self, count: int, *, seed: int = 0) -> None:
        """Begin the first pass.

        Args:
            count: Indices are 0 to `count` - 1; at least 1.
            seed: Orders them.
        """
        self.count = count
        self.generator = np.random.default_rng(seed)
        self._left: list[int] = []

    def draw(self, count: int) -> list[int]:
        """Return so many indices."""
        chosen: list[int] = []
        while len(chosen) < count:
            if not self._left:
                self._left = self.generator.permutation(self.count).tolist()
            chosen.append(self._left.pop())
        return chosen

    def state_dict(self) -> dict[str, Any]:
        """Return what is left of this pass and the random state; JSON-able."""
        return {"left": list(self._left), "generator": self.generator.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self._left = [int(i) for i in state["left"]]
        self.generator.bit_generator.state = state["generator"]
