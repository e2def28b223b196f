"""Gymnasium's contract: can it be played, do the known checkers pass, does it render."""

import importlib.util
import re
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.utils import env_checker

from textenvs.checker.play import (
    MAX_EPISODE,
    Event,
    play_episode,
    random_actions,
    reset,
    step,
    tokens_to_the_end,
)
from textenvs.checker.report import Fault, Rows, Skipped
from textenvs.checker.study import Study, note, ok, skipped, verdict

EPISODES = 5
OBSERVATION_KEYS = ("input_ids", "attention_mask")
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
TEXT_LIKE = (spaces.Text, spaces.Sequence, spaces.Graph, spaces.OneOf)
"""Of no fixed size: learners cannot batch them, and shared memory corrupts `Text`."""


def check_playable(study: Study) -> Rows:
    """The environment can be made, reset and played to the end."""
    env = study.subject.fresh()
    if study.subject.wrappers:
        yield note(
            "playable/wrappers",
            f"{', '.join(study.subject.wrappers)} taken off; the environment inside is checked",
        )
    generator = study.generator("playable")
    random_actions(env, generator, 1)  # refuses an action space that is not of tokens
    longest = 0
    for _ in range(2):
        events = play_episode(
            env, tokens_to_the_end(env, generator), seed=int(generator.integers(2**31))
        )
        if not events[-1].over:
            raise Fault(f"an episode of {MAX_EPISODE} tokens did not end; it needs a token budget")
        longest = max(longest, len(events) - 1)
    yield ok("playable", f"episodes of random tokens end, at the latest after {longest}")


def check_contract(study: Study) -> Rows:
    """Gymnasium's and Stable-Baselines3's own checkers, warnings counted as faults."""
    env = study.subject.fresh()
    env.action_space.seed(study.seed)
    without_spec = env.spec is None  # rendering and closing are tried on one made from the spec
    wrong = _complaint(
        lambda: env_checker.check_env(
            env, skip_render_check=without_spec, skip_close_check=without_spec
        )
    )
    yield verdict("contract/gymnasium", wrong, "gymnasium's check_env is silent")
    if importlib.util.find_spec("stable_baselines3") is None:
        yield skipped("contract/stable-baselines3", "stable-baselines3 is not installed")
        return
    from stable_baselines3.common.env_checker import check_env

    env = study.subject.fresh()
    env.action_space.seed(study.seed)
    wrong = _complaint(lambda: check_env(env))
    yield verdict("contract/stable-baselines3", wrong, "stable-baselines3's check_env is silent")


def _complaint(run: Callable[[], None]) -> str | None:
    """Return the first warning or error of a checker in words, or None."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            run()
        except Exception as error:  # noqa: BLE001  whatever a checker or the environment raises
            words = " ".join(ESCAPES.sub("", str(error)).split())
            return f"{type(error).__name__}: {words}"
    return None


def check_spaces(study: Study) -> Rows:
    """Observations are two arrays of tokens of a fixed size, and lie in their space."""
    env = study.subject.fresh()
    yield verdict("spaces/kinds", _unfit_space(env.observation_space), "arrays of a fixed size")
    yield verdict("spaces/shape", _misshapen(env), "input_ids and attention_mask, one size")
    generator = study.generator("spaces")
    outside: str | None = None
    for _ in range(EPISODES):
        actions = random_actions(env, generator, MAX_EPISODE)
        events = play_episode(env, actions, seed=int(generator.integers(2**31)))
        outside = outside or next((w for e in events if (w := _outside(env, e))), None)
    yield verdict("spaces/observations", outside, "every observation lies in the space")


def _unfit_space(space: Any, path: str = "the observation") -> str | None:
    if isinstance(space, TEXT_LIKE):
        return (
            f"{path} is a {type(space).__name__} space; text belongs in `info`, and observations "
            "are arrays of a fixed size"
        )
    if isinstance(space, spaces.Dict):
        inner = [(f"{path}[{key!r}]", item) for key, item in space.items()]
    elif isinstance(space, spaces.Tuple):
        inner = [(f"{path}[{i}]", item) for i, item in enumerate(space)]
    else:
        inner = []
    if not inner and getattr(space, "dtype", None) == np.dtype(object):
        return f"{path} has the dtype object"
    return next((w for p, item in inner if (w := _unfit_space(item, p))), None)


def _misshapen(env: Any) -> str | None:
    space = env.observation_space
    if not isinstance(space, spaces.Dict):
        return f"the observation space is {space}; it must be a Dict of {OBSERVATION_KEYS}"
    for key in OBSERVATION_KEYS:
        if key not in space.spaces:
            return f"the observation space has no {key!r}; its keys are {list(space.spaces)}"
    ids, mask = (space[key] for key in OBSERVATION_KEYS)
    if not isinstance(ids, spaces.Box) or not np.issubdtype(ids.dtype or np.float32, np.integer):
        return f"input_ids is {ids}; it must be a Box of integers"
    if not isinstance(mask, (spaces.Box, spaces.MultiBinary)):
        return f"attention_mask is {mask}; it must be a Box of 0 and 1, or MultiBinary"
    if len(ids.shape) != 1 or ids.shape != mask.shape:
        return f"input_ids has the shape {ids.shape}, attention_mask {mask.shape}; one size each"
    tokens = env.action_space
    span = (int(ids.low.min()), int(ids.high.max()))
    if isinstance(tokens, spaces.Discrete):
        lowest, highest = int(tokens.start), int(tokens.start + tokens.n - 1)
        if not span[0] <= lowest <= highest <= span[1]:
            return f"input_ids holds {span[0]}..{span[1]}, but actions are {lowest}..{highest}"
    if isinstance(mask, spaces.Box) and (int(mask.low.min()), int(mask.high.max())) != (0, 1):
        return f"attention_mask holds {int(mask.low.min())}..{int(mask.high.max())}, not 0..1"
    return None


def _outside(env: Any, event: Event) -> str | None:
    space = env.observation_space
    if not isinstance(space, gym.Space) or space.contains(dict(event.observation)):
        return None
    if isinstance(space, spaces.Dict):
        for key, inner in space.items():
            if key not in event.observation:
                return f"the observation of a {event.call} lacks {key!r}"
            if not inner.contains(event.observation[key]):
                value = event.observation[key]
                kind = (
                    f"{value.dtype} of shape {value.shape}"
                    if isinstance(value, np.ndarray)
                    else value
                )
                return f"{key!r} of a {event.call} is {kind!s:.80}, outside {inner}"
    return f"the observation of a {event.call} is outside the space"


RENDER_MODES = ("ansi", "html")


def check_render(study: Study) -> Rows:
    """The modes that give text give text, at the start and after a step."""
    env = study.subject.fresh()
    modes = [mode for mode in RENDER_MODES if mode in env.metadata.get("render_modes", ())]
    if not modes:
        raise Skipped("metadata['render_modes'] names neither 'ansi' nor 'html'")
    for mode in modes:
        if study.subject.env_id is not None:
            env = study.subject.remade(render_mode=mode)
        else:
            env = study.subject.fresh()
            env.render_mode = mode
        wrong = _unrendered(env, study.generator(mode))
        yield verdict(f"render/{mode}", wrong, "text at the start and after a step")


def _unrendered(env: Any, generator: np.random.Generator) -> str | None:
    reset(env, seed=0)
    for when in ("reset", "step"):
        shown = env.render()
        if not isinstance(shown, str) or not shown:
            return f"render() after {when} returned {shown!r:.60}, not text"
        if when == "reset":
            step(env, int(tokens_to_the_end(env, generator)[0]))
    return None


def observation_parts(observation: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
    """Return (input_ids [L], attention_mask [L] as bool) of an observation.

    Raises:
        Fault: if one is missing or no array.
    """
    found = [observation.get(key) for key in OBSERVATION_KEYS]
    for key, value in zip(OBSERVATION_KEYS, found, strict=True):
        if not isinstance(value, np.ndarray):
            raise Fault(f"the observation has no array {key!r}")
    return found[0], found[1].astype(bool)  # type: ignore[return-value, union-attr]
