"""Evaluation on held-out prompts: gold metrics with bootstrap intervals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode

from agents.episode_feed import filler_token
from textenvs.errors import ConfigError, MissingDependencyError
from textenvs.vector_env import TextVectorEnv, vectorised
from textenvs.vector_infos import row_info

RESAMPLES = 2_000


class Interval(NamedTuple):
    """A mean with the bounds of its 95% bootstrap interval."""

    mean: float
    low: float
    high: float


@dataclass(frozen=True)
class Answer:
    """What an agent said to one prompt.

    Attributes:
        prompt_id: Which prompt.
        completion: The answer.
        values: Metric -> value, gold metrics, `reward`, `length` (tokens), `eos`.
    """

    prompt_id: str
    completion: str
    values: Mapping[str, float]


def evaluate(
    agent: Any,
    id_or_env: Any,
    n_prompts: int = 200,
    deterministic: bool = True,
    *,
    num_envs: int = 64,
    seed: int = 0,
    env_kwargs: Mapping[str, Any] | None = None,
) -> dict[str, Interval]:
    """Return each metric with its 95% interval over prompts.

    Args:
        agent: Anything with Stable-Baselines3's `predict`.
        id_or_env: An id (its test split is taken), or a text environment, single or
            vector; the task's own reward is used, without any KL.
        n_prompts: The first so many prompts of the split, each answered once.
        deterministic: Greedy decoding; False samples.
        num_envs: Prompts answered side by side.
        seed: Of the bootstrap.
        env_kwargs: Options for an id, e.g. `{"n_items": 8}`.

    Returns:
        Metric -> (mean, low, high).
    """
    answers = answer_prompts(
        agent, id_or_env, n_prompts, deterministic, num_envs=num_envs, env_kwargs=env_kwargs
    )
    return summarise(answers, seed=seed)


def answer_prompts(
    agent: Any,
    id_or_env: Any,
    n_prompts: int = 200,
    deterministic: bool = True,
    *,
    num_envs: int = 64,
    env_kwargs: Mapping[str, Any] | None = None,
) -> list[Answer]:
    """Return the agent's answers to the first prompts of an environment, in order.

    Rows that end are given the next prompt at once. Arguments as in `evaluate`.

    Raises:
        ConfigError: if `n_prompts` is below 1.
    """
    venv = _evaluation_env(id_or_env, num_envs, n_prompts, env_kwargs)
    count = min(n_prompts, len(venv.prompts))
    infos = play_prompts(agent, venv, count, deterministic)
    return [_answer(venv.prompts[i].id, info) for i, info in enumerate(infos)]


def play_prompts(
    agent: Any, venv: TextVectorEnv, count: int, deterministic: bool = True
) -> list[dict[str, Any]]:
    """Return the final info of an episode of each of the first prompts, in order.

    Args:
        agent: As in `evaluate`.
        venv: With autoreset disabled.
        count: How many; at most as many as there are prompts.
        deterministic: Greedy decoding; False samples.
    """
    ids = [venv.prompts[i].id for i in range(count)]
    played: dict[int, dict[str, Any]] = {}
    asked = list(range(venv.num_envs))  # the prompt each row answers; >= count is idle
    filler = filler_token(venv)
    observation, _ = venv.reset(options={"prompt_id": [ids[i % count] for i in asked]})
    state, fresh = None, np.ones(venv.num_envs, bool)
    following = venv.num_envs
    while len(played) < count:
        actions, state = agent.predict(
            observation, state=state, episode_start=fresh, deterministic=deterministic
        )
        idle = np.array([i >= count for i in asked])
        actions = np.where(idle, filler, np.asarray(actions, np.int64))
        observation, _, terminated, _, infos = venv.step(actions)
        for row in np.flatnonzero(terminated & ~idle).tolist():
            played[asked[row]] = row_info(infos, row)
        fresh = terminated.copy()
        if terminated.any():
            replay = [ids[0]] * venv.num_envs
            for row in np.flatnonzero(terminated).tolist():
                asked[row], following = following, following + 1
                replay[row] = ids[asked[row] % count]
            options = {"reset_mask": terminated, "prompt_id": replay}
            observation, _ = venv.reset(options=options)
    return [played[i] for i in range(count)]


def _answer(prompt_id: str, info: Mapping[str, Any]) -> Answer:
    values = {
        **info["metrics"],
        "reward": float(info["task_reward"]),
        "length": float(len(info["completion_ids"])),
        "eos": float(info["finish_reason"] == "eos"),
    }
    return Answer(prompt_id, info["completion"], values)


def summarise(answers: list[Answer], *, seed: int = 0) -> dict[str, Interval]:
    """Return the mean of each metric with its percentile-bootstrap interval over prompts."""
    names = list(answers[0].values)
    table = np.array([[answer.values[name] for name in names] for answer in answers])
    return {name: bootstrap_mean(table[:, i], seed=seed) for i, name in enumerate(names)}


def bootstrap_mean(values: np.ndarray, *, seed: int = 0) -> Interval:
    """Return the mean and its 95% percentile-bootstrap interval (Efron, 1979), seeded.

    Args:
        values: float [N]; fewer than two, or all equal, give an interval of no width.
        seed: Of the resampling.
    """
    mean = float(np.mean(values))
    if len(values) < 2 or np.ptp(values) == 0:
        return Interval(mean, mean, mean)
    return percentile_interval(mean, (values,), np.mean, seed=seed)


def clustered_mean(
    values: Sequence[float] | np.ndarray, clusters: Sequence[Any] | np.ndarray, *, seed: int = 0
) -> Interval:
    """Return the mean over values with a 95% percentile bootstrap over clusters.

    The pairs of one prompt share their answers, and so their mistakes; what is drawn anew is
    therefore whole prompts (Field and Welsh, J. R. Stat. Soc. B 69(3), 2007). The mean is that
    of all values, sum over sum, so that a prompt with many pairs weighs more.

    Args:
        values: float [M], at least one; fewer than two clusters, or values all equal, give an
            interval of no width.
        clusters: [M], which values belong together.
        seed: Of the resampling.

    Raises:
        MissingDependencyError: if scipy is absent.
    """
    mean = float(np.mean(values))
    _, place = np.unique(np.asarray(clusters), return_inverse=True)
    sums, counts = np.bincount(place, weights=values), np.bincount(place).astype(float)
    if len(sums) < 2 or np.ptp(values) == 0:
        return Interval(mean, mean, mean)
    return percentile_interval(mean, (sums, counts), _ratio_of_sums, seed=seed)


def percentile_interval(
    estimate: float, samples: tuple[np.ndarray, ...], statistic: Any, *, seed: int
) -> Interval:
    """Return an estimate with its 95% percentile-bootstrap interval.

    Args:
        estimate: The statistic of the samples as they are.
        samples: float [N] each, drawn together.
        statistic: Of the samples along `axis`.
        seed: Of the resampling.

    Raises:
        MissingDependencyError: if scipy is absent.
    """
    try:
        from scipy import stats
    except ImportError as error:
        raise MissingDependencyError(
            "scipy", "a bootstrap interval", 'pip install "textenvs[agents]"'
        ) from error
    result = stats.bootstrap(
        samples,
        statistic,
        paired=len(samples) > 1,
        n_resamples=RESAMPLES,
        method="percentile",
        rng=np.random.default_rng(seed),
        batch=200,
    )
    return Interval(estimate, *map(float, result.confidence_interval))


def _ratio_of_sums(sums: np.ndarray, counts: np.ndarray, axis: int = -1) -> np.ndarray:
    return np.asarray(sums.sum(axis) / counts.sum(axis))


def _evaluation_env(
    id_or_env: Any, num_envs: int, n_prompts: int, env_kwargs: Mapping[str, Any] | None
) -> TextVectorEnv:
    if n_prompts < 1:
        raise ConfigError(f"n_prompts must be at least 1, got {n_prompts}; the default is 200")
    if isinstance(id_or_env, str):
        options = {"split": "test", **(env_kwargs or {})}
        made: Any = gym.make_vec(id_or_env, num_envs=1, **options)
    else:
        made = id_or_env
        if env_kwargs:
            raise ConfigError("env_kwargs goes with an id; this environment is made already")
    rows = max(1, min(num_envs, n_prompts))
    return vectorised(made.unwrapped, rows, AutoresetMode.DISABLED)
