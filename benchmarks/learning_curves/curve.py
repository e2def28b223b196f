"""The task of the learning curves, and one curve: held-out answers along a training."""

import time
from typing import Any

import gymnasium as gym

import agents

ENV_ID = "textenvs/ContextSelect-v0"
N_ITEMS = 8
TASK: dict[str, Any] = {
    "corpus": "films",
    "n_items": N_ITEMS,
    "max_prompt_tokens": 48 + 20 * N_ITEMS,
    "reward": "context-match-f1",
}
N_PROMPTS = 300
"""Held-out prompts of each evaluation, answered greedily."""


class Curve:
    """The points of one training; the clock stands still while they are measured.

    Attributes:
        points: `episodes` and `tokens` acted and processor `seconds` of training so far, and
            the metrics of `agents.evaluate`, each [mean, low, high].
    """

    def __init__(self, agent: Any) -> None:
        """Keep what is asked, and start the clock.

        Args:
            agent: Anything with `predict`.
        """
        self.agent = agent
        self.test = gym.make(ENV_ID, split="test", **TASK)
        self.points: list[dict[str, Any]] = []
        self._began, self._paused = time.process_time(), 0.0

    @property
    def seconds(self) -> float:
        """Processor seconds since the start that were not spent measuring.

        Several runs share a machine; what a process itself used does not depend on the others.
        """
        return time.process_time() - self._began - self._paused

    def measure(self, episodes: int, tokens: int) -> None:
        """Add a point."""
        stopped, seconds = time.process_time(), self.seconds
        metrics = agents.evaluate(self.agent, self.test, N_PROMPTS)
        said = {name: list(interval) for name, interval in metrics.items()}
        self.points.append({"episodes": episodes, "tokens": tokens, "seconds": seconds, **said})
        self._paused += time.process_time() - stopped

    def result(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return `settings`, the `curve`, and its last `episodes`, `tokens` and `seconds`."""
        last = self.points[-1]
        totals = {name: last[name] for name in ("episodes", "tokens", "seconds")}
        return {"settings": settings, "curve": self.points, **totals}
