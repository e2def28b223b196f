"""Episodes played for a check, in a form that `==` can compare."""

import random
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from textenvs.checker.report import Fault
from textenvs.checker.subject import HasTokenizer

EOS_SHARE = 0.2
"""Of random tokens: episodes then end after five on average, and some by the budget."""
MAX_EPISODE = 4096
"""An episode of so many tokens that has not ended is taken not to end."""


@dataclass(frozen=True, slots=True)
class Event:
    """What one call of `reset` or `step` returned, copied.

    Attributes:
        call: "reset" or "step".
        observation: Key -> value, arrays copied.
        reward: 0 for a reset.
        terminated: False for a reset.
        truncated: False for a reset.
        info: As plain data.
    """

    call: str
    observation: Mapping[str, Any]
    reward: float
    terminated: bool
    truncated: bool
    info: Mapping[str, Any]

    @property
    def over(self) -> bool:
        """Whether the episode ended."""
        return self.terminated or self.truncated

    def parts(self) -> dict[str, Any]:
        """Return everything as plain data, by name."""
        return {
            "call": self.call,
            "observation": plain(self.observation),
            "reward": self.reward,
            "terminated": self.terminated,
            "truncated": self.truncated,
            "info": dict(self.info),
        }


def plain(value: Any) -> Any:
    """Return a value as plain Python data: arrays and tuples as lists, keys in order."""
    if isinstance(value, Mapping):
        return {key: plain(value[key]) for key in sorted(value, key=str)}
    if isinstance(value, np.ndarray):
        return value.tolist() if value.dtype != object else plain(value.tolist())
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value.item() if isinstance(value, np.generic) else value


def reset(env: Any, **arguments: Any) -> Event:
    """Call `env.reset` and copy what it returns."""
    return reset_event(*env.reset(**arguments))


def reset_event(observation: Any, info: Any) -> Event:
    """Return what `reset` returned, copied."""
    return Event("reset", copied(observation), 0.0, False, False, plain(info))


def step(env: Any, action: int) -> Event:
    """Call `env.step` and copy what it returns."""
    return step_event(*env.step(action))


def step_event(observation: Any, reward: Any, terminated: Any, truncated: Any, info: Any) -> Event:
    """Return what `step` returned, copied."""
    return Event(
        "step", copied(observation), float(reward), bool(terminated), bool(truncated), plain(info)
    )


def copied(observation: Any) -> dict[str, Any]:
    """Return a copy of an observation that later calls cannot change.

    Raises:
        Fault: if it is no mapping.
    """
    if not isinstance(observation, Mapping):
        raise Fault(f"the observation is {type(observation).__name__}, not a dict of arrays")
    return {key: np.array(v) if isinstance(v, np.ndarray) else v for key, v in observation.items()}


def play(env: Any, actions: Iterable[int], **arguments: Any) -> list[Event]:
    """Reset with arguments and take actions, beginning a new episode after each end."""
    events = [reset(env, **arguments)]
    for action in actions:
        if events[-1].over:
            events.append(reset(env))
        events.append(step(env, int(action)))
    return events


def play_episode(env: Any, actions: Iterable[int], **arguments: Any) -> list[Event]:
    """Reset with arguments and take actions until the episode ends or they run out."""
    events = [reset(env, **arguments)]
    for action in actions:
        events.append(step(env, int(action)))
        if events[-1].over:
            break
    return events


def random_actions(env: Any, generator: np.random.Generator, shape: Any) -> np.ndarray:
    """Return random tokens, int64 of a shape; one in five is EOS where the tokenizer is known."""
    space = env.action_space
    if not isinstance(space, gym.spaces.Discrete):
        raise Fault(f"the action space is {space}; an action must be a token of a Discrete space")
    tokens = generator.integers(space.n, size=shape, dtype=np.int64) + space.start
    if isinstance(env, HasTokenizer):
        tokens[generator.random(shape) < EOS_SHARE] = env.tokenizer.eos_id
    return tokens


def tokens_to_the_end(env: Any, generator: np.random.Generator) -> np.ndarray:
    """Return random tokens without EOS, as many as any episode may take."""
    space = env.action_space
    tokens = generator.integers(space.n, size=MAX_EPISODE, dtype=np.int64) + space.start
    if isinstance(env, HasTokenizer):
        tokens[tokens == env.tokenizer.eos_id] = (env.tokenizer.eos_id + 1) % space.n
    return tokens


def first_difference(one: Sequence[Event], two: Sequence[Event]) -> str | None:
    """Return in words where two plays part, or None if they are the same."""
    for i, (mine, other) in enumerate(zip(one, two, strict=False)):
        where = differing(mine.parts(), other.parts())
        if where is not None:
            return f"call {i} ({mine.call}): {where}"
    if len(one) != len(two):
        return f"{len(one)} calls against {len(two)}"
    return None


def differing(one: Any, two: Any, path: str = "") -> str | None:
    """Return in words where two plain values differ, or None; NaN equals NaN."""
    if one == two:
        return None
    if isinstance(one, dict) and isinstance(two, dict):
        for key in sorted({*one, *two}, key=str):
            inside = f"{path}[{key!r}]" if path else str(key)
            if key not in one or key not in two:
                return f"{inside} is there only the {'second' if key not in one else 'first'} time"
            found = differing(one[key], two[key], inside)
            if found is not None:
                return found
        return None
    if isinstance(one, list) and isinstance(two, list) and len(one) == len(two):
        for i, (mine, other) in enumerate(zip(one, two, strict=True)):
            found = differing(mine, other, f"{path}[{i}]")
            if found is not None:
                return found
        return None
    both_nan = isinstance(one, float) and isinstance(two, float) and one != one and two != two
    return None if both_nan else f"{path} is {one!r:.60} and then {two!r:.60}"


@contextmanager
def global_randomness(seed: int) -> Iterator[None]:
    """Seed the generators of the process for a while, and put them back after.

    An environment whose randomness is its own does not notice.
    """
    torch = sys.modules.get("torch")  # an environment that uses it has imported it
    kept = random.getstate(), np.random.get_state()
    kept_torch = torch.get_rng_state() if torch is not None else None
    random.seed(seed)
    np.random.seed(seed % 2**32)
    if torch is not None:
        torch.default_generator.manual_seed(seed)  # of the CPU alone
    try:
        yield
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        if torch is not None:
            torch.set_rng_state(kept_torch)
