"""`Guarded`: a reward that cannot take the run down with it.

A training run meets, sooner or later, the answer its reward cannot stand. A guard computes
the reward in a process of its own, which it kills when an answer takes too long; finds the
answer that did it, counts it, keeps it for people to look at, and goes on.
"""

import math
import os
import threading
import time
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from textenvs.errors import ConfigError, RewardError
from textenvs.rewards.base import BaseReward, Reward, label
from textenvs.rewards.guarding.quarantine import Quarantine
from textenvs.rewards.guarding.scored_batch import (
    Failure,
    Piece,
    ScoredBatch,
    failures_of,
    join_pieces,
)
from textenvs.rewards.guarding.scoring_messages import load_state, state_of
from textenvs.rewards.guarding.scoring_process import (
    ScoringProcess,
    check_memory_limit,
    check_platform,
)
from textenvs.rewards.results import RewardResult, Term
from textenvs.types import Episode, Prompt

OnError = Literal["raise", "skip"] | float
MOST_RESCUES = 10
"""Processes that the answers of one batch may kill, and calls' worth of time that scoring
them one by one may take, before the rest of the batch is given up."""
NO_FAULT = ("start", "given_up")
"""Kinds of failure for which the episode is not to blame."""


class Guarded(BaseReward):
    """A reward in a process of its own, which is killed when it hangs.

    Scores are those of the reward, bit for bit, and terms keep their names. When a batch
    fails, its episodes are scored again one by one, so that only those that fail alone are
    lost. A failed episode raises, is skipped (unscored, and left out by learners that look
    at `info["scored"]`), or gets a stated value, in a term "NAME.failed".

    The process is started by the first call, and again by the next call after it was
    killed. What scoring changes in a reward (its `state_dict`) is handed on to the next.

    Counts are of this object alone: where environments run in processes of their own, each
    has its guard. `info["reward_failure"]` tells the learner.
    """

    def __init__(
        self,
        reward: Any,
        timeout_s: float = 10.0,
        on_error: OnError = "raise",
        *,
        memory_bytes: int | None = None,
        quarantine: str | Path | None = None,
        max_chars: int | None = 20_000,
        load_s: float = 0.0,
        allow_unscored: bool = True,
    ) -> None:
        """Check the options; start nothing.

        Args:
            reward: A reward, a function, a name, or `"module:object"`. Names are looked up in
                the scoring process; an object is sent there once.
            timeout_s: Seconds one call of the reward may take, a whole batch or one episode.
            on_error: "raise", "skip", or the score of an episode on which the reward fails.
            memory_bytes: What the process may take over what it holds when the reward has been
                sent there, a model it loads later included; more raises MemoryError in it. None
                leaves it without bounds. Linux only.
            quarantine: A file to which failed episodes are appended, as JSON lines.
            max_chars: An answer is cut to so many characters before it is scored; None does
                not cut.
            load_s: Seconds the first call in a new process may take on top, for a reward that
                loads a model then.
            allow_unscored: Whether NaN means "not scored", or is a failure.

        Raises:
            ConfigError: if an option is out of range, or the system has no such processes.
            UnknownNameError: if the reward is an unknown name.
        """
        from textenvs.rewards import resolve_reward  # which imports this module

        check_platform()
        self.reward: Reward = resolve_reward(reward)
        self.name = self.reward.name
        self.timeout_s = _checked_seconds("timeout_s", timeout_s)
        self.load_s = _checked_seconds("load_s", load_s, zero=True)
        self.on_error = _checked_on_error(on_error)
        if memory_bytes is not None:
            check_memory_limit()
        self.memory_bytes = _checked_limit("memory_bytes", memory_bytes)
        self.max_chars = _checked_limit("max_chars", max_chars)
        self.quarantine = None if quarantine is None else str(quarantine)
        self._quarantine = None if quarantine is None else Quarantine(quarantine)
        self.allow_unscored = allow_unscored
        self._failures: Counter[str] = Counter()
        self._cut = 0
        by_name = isinstance(reward, str) and not reward.startswith("__main__:")
        self._spec = reward if by_name else self.reward
        self._weights: dict[str, float] = {}
        own = label(self.reward) if isinstance(self.reward, BaseReward) else self.name
        self._value_term = f"{own}.failed"
        self._started = False
        self._process: ScoringProcess | None = None
        self._lock = threading.RLock()

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch.

        Raises:
            RewardError: with `on_error="raise"`, if the reward fails on an episode.
            ConfigError: if the reward does not start, or cannot be sent.
        """
        episodes = [self._capped(episode) for episode in episodes]
        with self._lock:
            outcome = self._attempt(episodes)
            pieces: list[Piece] = [(range(len(episodes)), outcome)]
            if isinstance(outcome, Failure) and len(episodes) > 1:
                pieces = self._one_by_one(episodes, outcome)
            failures = failures_of(pieces)
            for row, failure in failures.items():
                self._note(episodes[row], failure)
        if isinstance(outcome, ScoredBatch):
            result = outcome.result
            self._weights = {name: term.weight for name, term in result.terms.items()}
        if failures or not isinstance(outcome, ScoredBatch):
            value = None if isinstance(self.on_error, str) else self.on_error
            weights = self._weights or self._known_weights()
            result = join_pieces(episodes, pieces, weights=weights, value=value)
        return result if isinstance(self.on_error, str) else self._with_value(result)

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return the bounds of the reward, wide enough for the value of a failed episode."""
        low, high = super().bounds(prompt)
        if isinstance(self.reward, BaseReward):
            low, high = self.reward.bounds(prompt)
        if isinstance(self.on_error, str):
            return (low, high)
        return (min(low, self.on_error), max(high, self.on_error))

    @property
    def inner(self) -> tuple[BaseReward, ...]:
        """The reward that is guarded, where it is a `BaseReward`."""
        return (self.reward,) if isinstance(self.reward, BaseReward) else ()

    def term_weights(self) -> dict[str, float]:
        """Return the weights of the reward, and 1 for the value of a failed episode."""
        own = {} if isinstance(self.on_error, str) else {self._value_term: 1.0}
        return {**self._known_weights(), **own}

    def _known_weights(self) -> dict[str, float]:
        if isinstance(self.reward, BaseReward):
            return self.reward.term_weights()
        return {self.name: 1.0}

    def _with_value(self, result: RewardResult) -> RewardResult:
        """Return the result with a term that holds the value where an episode failed."""
        paid = np.zeros(len(result.scores))
        failed = list(result.failures)
        paid[failed] = result.scores[failed]
        return replace(result, terms={**result.terms, self._value_term: Term.of(paid)})

    @property
    def failures(self) -> Counter[str]:
        """How many episodes failed, by kind, and "batch": batches that failed as a whole."""
        return self._failures

    @property
    def cut(self) -> int:
        """How many answers were longer than `max_chars`."""
        return self._cut

    def close(self) -> None:
        """Kill the scoring process; the next call starts another."""
        with self._lock:
            if self._process is not None:
                self._process.stop()
                self._process = None

    def __enter__(self) -> "Guarded":
        """Return the guard."""
        return self

    def __exit__(self, *error: object) -> None:
        """Kill the scoring process."""
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """Return the counts, and what scoring has changed in the reward; JSON-able."""
        return {**super().state_dict(), "failures": dict(self._failures), "cut": self._cut}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, in a new process."""
        super().load_state_dict(state)
        self.close()
        self._failures = Counter(state.get("failures", {}))
        self._cut = int(state.get("cut", 0))

    def __getstate__(self) -> dict[str, Any]:
        """Return what a copy has: everything but the process."""
        kept = {name: value for name, value in vars(self).items() if name != "_lock"}
        return {**kept, "_process": None}

    def __setstate__(self, state: Mapping[str, Any]) -> None:
        """Become the copy."""
        vars(self).update(state)
        self._lock = threading.RLock()

    def _capped(self, episode: Episode) -> Episode:
        if self.max_chars is None or len(episode.completion) <= self.max_chars:
            return episode
        self._cut += 1
        return replace(episode, completion=episode.completion[: self.max_chars])

    def _attempt(self, episodes: Sequence[Episode]) -> ScoredBatch | Failure:
        """Score a batch in one call."""
        process = self._ready()
        return process if isinstance(process, Failure) else self._ask(process, episodes)

    def _ready(self) -> ScoringProcess | Failure:
        """Return the scoring process, started if there is none.

        Raises:
            ConfigError: if the very first does not start, or the reward cannot be sent.
        """
        if self._process is not None and self._process.owner != os.getpid():
            self._process = None  # this is a forked copy, and the process is not its child
        if self._process is None:
            try:
                self._process = ScoringProcess(
                    self._spec,
                    state=state_of(self.reward),
                    allow_unscored=self.allow_unscored,
                    memory_bytes=self.memory_bytes,
                )
            except (RewardError, OSError) as error:
                if self._started:  # what went well once may again
                    return Failure("start", str(error))
                raise ConfigError(f"the reward {self.name!r} cannot be guarded: {error}") from error
            self._started = True
        return self._process

    def _ask(self, process: ScoringProcess, episodes: Sequence[Episode]) -> ScoredBatch | Failure:
        """Score a batch; end the process if it cannot be relied on afterwards."""
        timeout_s = self.timeout_s + (0.0 if process.asked else self.load_s)
        try:
            outcome, state = process.ask(episodes, timeout_s)
        except TimeoutError:
            first = process.asked == 1
            hint = "; it was the first of its process: load_s gives a model time to load"
            self.close()
            return Failure("timeout", f"a call took over {timeout_s:g} s{hint if first else ''}")
        except OSError:
            self._process = None
            return Failure("crash", process.stop())
        except BaseException:  # an interrupt, say: the answer to come would be taken for the next
            self.close()
            raise
        if state is not None:
            load_state(self.reward, state)
        if isinstance(outcome, Failure) and outcome.kind in ("memory", "start"):
            self.close()
        return outcome

    def _one_by_one(self, episodes: Sequence[Episode], whole: Failure) -> list[Piece]:
        """Score the episodes of a batch that failed as a whole, within bounds of time."""
        pieces: list[Piece] = []
        killed, spent = 0, 0.0
        for row, episode in enumerate(episodes):
            if killed >= MOST_RESCUES or spent >= MOST_RESCUES * (self.timeout_s + self.load_s):
                text = f"the batch failed ({whole.text}), and others of it took too long"
                pieces.append(([row], Failure("given_up", text)))
                continue
            process = self._ready()
            began = time.monotonic()
            outcome = process if isinstance(process, Failure) else self._ask(process, [episode])
            spent += time.monotonic() - began
            killed += self._process is None
            pieces.append(([row], outcome))
            if self.on_error == "raise" and failures_of([pieces[-1]]):
                break
        if not failures_of(pieces):
            self._note_batch(len(episodes), whole)
        return pieces

    def _note_batch(self, size: int, whole: Failure) -> None:
        """Count a batch that fails though none of its episodes does; warn of the first."""
        self._failures["batch"] += 1
        if self._failures["batch"] == 1:
            warnings.warn(
                f"the reward {self.name!r} failed on a batch of {size} ({whole.text}), though it "
                "scores each episode alone; if it is slow, raise timeout_s",
                RuntimeWarning,
                stacklevel=4,
            )

    def _note(self, episode: Episode, failure: Failure) -> None:
        """Count a failure and write it down; raise if that is the policy."""
        self._failures[failure.kind] += 1
        if failure.kind not in NO_FAULT and self._quarantine is not None:
            self._quarantine.add(self.name, episode, failure)
        if self.on_error == "raise":
            raise RewardError(
                f"the reward {self.name!r} failed ({failure.kind}) on the completion "
                f"{episode.completion!r:.80} of the prompt {episode.prompt.id!r}: {failure.text}; "
                'mend the reward, or pass on_error="skip", or on_error=VALUE, to go on without it'
            )


def _checked_seconds(name: str, value: Any, *, zero: bool = False) -> float:
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        if value > 0 or (zero and value == 0):
            return float(value)
    rule = "at least 0" if zero else "above 0"
    raise ConfigError(f"{name} must be a number {rule}, got {value!r}")


def _checked_limit(name: str, value: Any) -> int | None:
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1):
        return value
    raise ConfigError(f"{name} must be a whole number of at least 1, or None, got {value!r}")


def _checked_on_error(value: Any) -> OnError:
    if value in ("raise", "skip"):
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    raise ConfigError(f'on_error must be "raise", "skip" or a finite number, got {value!r}')
