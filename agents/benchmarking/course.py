"""The course of a cell: updates, with a checkpoint judged every so many."""

import time
from collections.abc import Mapping
from typing import Any

from agents.benchmarking.held_out import HeldOut, HeldOutAnswer
from agents.benchmarking.records import CellRecords
from agents.benchmarking.timed_reward import TimedReward
from agents.command_line.catalogue import takes_callback
from agents.on_policy import OnPolicyAgent

PARTS = ("rollout", "reward", "reference", "update")


class Course:
    """Trains an agent and records what it is worth on the way.

    Attributes:
        updates: Done so far.
        answers: Of the newest checkpoint.
    """

    def __init__(
        self,
        agent: Any,
        held_out: HeldOut,
        records: CellRecords,
        reward: TimedReward,
        *,
        total: int,
        every: int,
        tokens_per_update: int,
    ) -> None:
        """Put the parts together.

        Args:
            agent: One of ours, or one that brings its own model.
            held_out: Judges.
            records: Writes.
            reward: What the agent and the held-out prompts are scored with.
            total: Updates to do.
            every: Updates between checkpoints.
            tokens_per_update: The most that an update may act; the budget of an agent that
                brings its own model and counts in tokens.
        """
        self.agent, self.held_out, self.records, self.reward = agent, held_out, records, reward
        self.total, self.every, self.tokens_per_update = total, every, tokens_per_update
        self.updates = self.checkpoints = 0
        self.timesteps = self.episodes = 0.0
        self.seconds = dict.fromkeys(PARTS, 0.0)
        self.answers: list[HeldOutAnswer] = []
        self._mark = (0.0, 0.0)  # when the clock and the scoring clock were last read

    def run(self) -> None:
        """Train, from the first checkpoint to the last; write the rollouts of the last."""
        self._judge()
        if isinstance(self.agent, OnPolicyAgent):
            self._train()
        else:
            self._train_own()
        self.records.rollouts(self.answers)

    def _train(self) -> None:
        """Make the updates of one of our agents.

        Where its settings say so, the learning rate falls over the updates, not over a
        number of tokens as `learn` has it: how long answers grow is up to the design, and
        must not decide how fast it learns.
        """
        groups = self.agent.optimizer.param_groups
        rates = [group["lr"] for group in groups]
        for update in range(self.total):
            if self.agent.config.anneal:
                for group, rate in zip(groups, rates, strict=True):
                    group["lr"] = rate * (1.0 - update / self.total)
            scoring = self.reward.seconds
            metrics = self.agent.step()
            scoring = self.reward.seconds - scoring
            self.seconds["rollout"] += metrics["seconds_rollout"] - scoring
            self.seconds["reward"] += scoring
            self.seconds["reference"] += metrics["seconds_reference"]
            self.seconds["update"] += metrics["seconds_update"]
            self._count(metrics)

    def _train_own(self) -> None:
        """Let an agent that brings its own model learn.

        One that tells of no update is judged at the end alone. What is not scoring is booked
        as "update": only the agent knows where it samples.
        """
        tokens = self.total * self.tokens_per_update
        self._mark = (time.perf_counter(), self.reward.seconds)
        if takes_callback(type(self.agent)):
            self.agent.learn(tokens, self._told)
        else:
            self.agent.learn(tokens)
        if self.updates < self.total:
            self._book()
            self.updates = self.total
            self.timesteps = self.timesteps or float(tokens)
            self._judge()

    def _told(self, metrics: Mapping[str, float]) -> bool:
        """Take note of an update of an agent that brings its own model."""
        if self.updates < self.total:  # some go on after they were told to stop
            self._book()
            self._count(metrics)
            self._mark = (time.perf_counter(), self.reward.seconds)
        return self.updates < self.total

    def _book(self) -> None:
        """Book the time since the mark."""
        began, scored = self._mark
        scoring = self.reward.seconds - scored
        self.seconds["reward"] += scoring
        self.seconds["update"] += time.perf_counter() - began - scoring

    def _count(self, metrics: Mapping[str, float]) -> None:
        """Take note of an update, and judge where it is time to."""
        self.updates += 1
        self.timesteps = float(metrics.get("timesteps", self.timesteps))
        self.episodes += float(metrics.get("episodes", 0.0))
        self.records.update(metrics)
        if self.updates % self.every == 0 or self.updates == self.total:
            self._judge()

    def _judge(self) -> None:
        """Judge the agent as it is and write it down; the clocks begin anew."""
        with self.reward.unchanged():
            self.answers = self.held_out.judge(self.agent)
        row = {
            "checkpoint": self.checkpoints,
            "update": self.updates,
            "timesteps": self.timesteps,
            "episodes": self.episodes,
            "metrics": self.held_out.metrics(self.answers),
            "seconds": self.seconds,
        }
        self.records.checkpoint(row, self.answers)
        self.checkpoints += 1
        self.seconds = dict.fromkeys(PARTS, 0.0)
