"""Rewards that do to their process what the completion says."""

import ctypes
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from textenvs.rewards import BaseReward, RewardResult
from textenvs.types import Episode, Prompt


def sleep() -> None:
    time.sleep(600)


def hang_in_c() -> None:
    """Hold the interpreter's lock, so that no thread runs."""
    _say_begun()
    re.match(r"(a+)+$", "a" * 60 + "b")


def hang_with_children() -> None:
    subprocess.Popen(["sleep", "600"])
    _say_begun()
    time.sleep(600)


def segfault() -> None:
    ctypes.string_at(0)


def allocate() -> None:
    held = []
    while True:
        held.append(bytearray(1 << 24))


def fail() -> None:
    raise KeyError("no such thing")


def leave() -> None:
    os._exit(3)


def quit_politely() -> None:
    sys.exit(4)


DEEDS: dict[str, Callable[[], None]] = {
    f.__name__: f
    for f in (
        sleep,
        hang_in_c,
        hang_with_children,
        segfault,
        allocate,
        fail,
        leave,
        quit_politely,
    )
}
VALUES: dict[str, Any] = {"nan": float("nan"), "inf": float("inf"), "text": "many", "none": None}


def hostile(prompt: Prompt, completion: str) -> Any:
    """Count the letters, after doing what they say."""
    if completion in DEEDS:
        DEEDS[completion]()
    return VALUES.get(completion, float(len(completion)))


def hostile_to_p0(prompt: Prompt, completion: str) -> float:
    """Do what the environment variable HOSTILE_DEED says at the prompt "p0"."""
    if prompt.id == "p0":
        DEEDS[os.environ["HOSTILE_DEED"]]()
    return float(len(completion))


def only_alone(episodes: Sequence[Episode]) -> list[float]:
    """Count the letters of one episode; fail on more."""
    (episode,) = episodes
    return [float(len(episode.completion))]


class Bounded(BaseReward):
    """Count the letters, and claim that there are at most three."""

    name = "bounded"

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        return RewardResult.from_scores(self.name, [len(e.completion) for e in episodes])

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        return (0.0, 3.0)


class SlowToLoad(BaseReward):
    """Take longer than a second for the first call in a process."""

    name = "slow_to_load"
    loaded = False

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        if not self.loaded:
            time.sleep(1.5)
            self.loaded = True
        return RewardResult.from_scores(self.name, [1.0] * len(episodes))


def _say_begun() -> None:
    if "HOSTILE_BEGUN" in os.environ:
        Path(os.environ["HOSTILE_BEGUN"]).touch()
