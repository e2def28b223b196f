"""Ranked answers of a model: several samples a prompt, put in order by a score."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from agents.baselines import Reference
from agents.evaluation import play_prompts
from agents.policy import CausalLMPolicy
from agents.preferences.collection import RankingCollector
from agents.preferences.rankings import RankingSet, places
from textenvs.errors import UnknownNameError
from textenvs.options import checked_integer
from textenvs.rewards import REWARDS, REWARDS_OF_MODELS, resolve_reward
from textenvs.rewards.base import Reward, checked_result
from textenvs.types import Episode, Prompt
from textenvs.vector_env import TextVectorEnv

ROWS = 256
UNSCORED = "unscored answers"
OWN_REWARD = "reward"


@dataclass(frozen=True)
class Sampled:
    """Several answers to a prompt, one a sample.

    Attributes:
        prompt: What was asked.
        episodes: The answers.
        metrics: The environment's gold metrics of each.
    """

    prompt: Prompt
    episodes: tuple[Episode, ...]
    metrics: tuple[Mapping[str, float], ...]


RankBy = str | Reward | Callable[..., Any]
"""A name, a reward, or a function that becomes one."""
Scorer = Callable[[Sequence[Sampled]], list[np.ndarray]]
"""From answers to float64 [K] a prompt, the score of each; NaN where it cannot be told."""


def sample_answers(
    policy_or_agent: Any,
    env: Any,
    n_prompts: int,
    *,
    samples_per_prompt: int = 4,
    seed: int = 0,
    rows: int = ROWS,
) -> list[Sampled]:
    """Return several answers to each of the first prompts of an environment.

    Args:
        policy_or_agent: A `CausalLMPolicy`, which is sampled with `seed`, or anything with
            Stable-Baselines3's `predict`, which brings its own chance.
        env: A text environment, single or vector.
        n_prompts: The first so many prompts of its split.
        samples_per_prompt: Answers to each, at least 2.
        seed: Of sampling a policy.
        rows: Prompts answered side by side; another number gives other samples.

    Raises:
        ConfigError: if a number is out of range.
    """
    checked_integer("n_prompts", n_prompts, 1, 300)
    checked_integer("samples_per_prompt", samples_per_prompt, 2, 4)
    checked_integer("rows", rows, 1, ROWS)
    agent = policy_or_agent
    if isinstance(agent, CausalLMPolicy):
        agent = Reference(agent, seed)
    # A reward that cannot score an answer is no reason to stop: another one may rank it.
    task = {**env.unwrapped.batch.task_arguments(), "on_unscored": "skip"}
    count = min(n_prompts, len(task["prompts"]))
    disabled = AutoresetMode.DISABLED
    venv = TextVectorEnv(num_envs=min(rows, count), autoreset_mode=disabled, **task)
    rounds = [
        play_prompts(agent, venv, count, deterministic=False) for _ in range(samples_per_prompt)
    ]
    return [
        _sampled(venv.batch.encoded(index)[0], infos)
        for index, infos in enumerate(zip(*rounds, strict=True))
    ]


def _sampled(prompt: Prompt, infos: Sequence[Mapping[str, Any]]) -> Sampled:
    episodes = [
        Episode(prompt, info["completion"], info["completion_ids"], info["finish_reason"])
        for info in infos
    ]
    return Sampled(prompt, tuple(episodes), tuple(info["metrics"] for info in infos))


def from_samples(
    policy_or_agent: Any,
    env: Any,
    n_prompts: int,
    *,
    samples_per_prompt: int = 4,
    rank_by: RankBy = OWN_REWARD,
    seed: int = 0,
    rows: int = ROWS,
) -> RankingSet:
    """Sample answers and rank them by a score; equal scores tie.

    Empty and unscored answers are left out, an answer that was sampled twice is there once,
    and a prompt whose answers all score alike gives no ranking; all this is counted.

    Args:
        policy_or_agent: As in `sample_answers`.
        env: A text environment, single or vector.
        n_prompts: The first so many prompts of its split.
        samples_per_prompt: Answers to each, at least 2.
        rank_by: "reward", the environment's own; a gold metric of the environment, such as
            "correct"; the name of a reward, e.g. "reward-model:FOLDER"; a reward; or a function
            of (prompt, completion).
        seed: Of sampling.
        rows: Prompts answered side by side; another number gives other samples.

    Raises:
        ConfigError: if a number is out of range, or no prompt has answers that differ in score.
        UnknownNameError: if there is no such metric and no such reward.
    """
    scorer = scorer_of(env, rank_by)  # first: a wrong name is found before the work is done
    sampled = sample_answers(
        policy_or_agent,
        env,
        n_prompts,
        samples_per_prompt=samples_per_prompt,
        seed=seed,
        rows=rows,
    )
    return ranked_samples(sampled, scorer)


def ranked_samples(sampled: Sequence[Sampled], scorer: Scorer) -> RankingSet:
    """Return the rankings of sampled answers by a score; see `from_samples`."""
    collector = RankingCollector()
    kept = [distinct(asked, collector) for asked in sampled]
    for asked, scores in zip(kept, scorer(kept), strict=True):
        known = np.flatnonzero(~np.isnan(scores))
        collector.count(UNSCORED, len(scores) - len(known))
        collector.add(
            asked.prompt.text,
            [asked.episodes[i].completion for i in known],
            places(scores[known].tolist()),
            group=asked.prompt.group,
            prompt_id=asked.prompt.id,
        )
    return collector.finish(
        "sample more answers a prompt, ask for more prompts, or rank by another score"
    )


def distinct(asked: Sampled, collector: RankingCollector) -> Sampled:
    """Return the answers that can be ranked, each text once; the collector counts the others."""
    texts = [episode.completion for episode in asked.episodes]
    rows = [texts.index(text) for text in collector.distinct(texts)]
    episodes = tuple(asked.episodes[row] for row in rows)
    return Sampled(asked.prompt, episodes, tuple(asked.metrics[row] for row in rows))


def scorer_of(env: Any, rank_by: RankBy) -> Scorer:
    """Return what scores answers.

    Args:
        env: Brings the metrics and its own reward.
        rank_by: As in `from_samples`; a metric goes before a reward of its name.

    Raises:
        ConfigError: if it is neither a name nor a reward.
        UnknownNameError: if there is no such metric and no such reward.
    """
    batch = env.unwrapped.batch
    metrics = list(batch.metrics([Episode(batch.prompts[0], "")]))
    if isinstance(rank_by, str) and rank_by in metrics:
        name = rank_by
        return lambda sampled: [
            np.array([values[name] for values in asked.metrics], np.float64) for asked in sampled
        ]
    reward = batch.reward if rank_by == OWN_REWARD else _reward(rank_by, metrics)
    return lambda sampled: _rewards(reward, sampled)


def _rewards(reward: Reward, sampled: Sequence[Sampled]) -> list[np.ndarray]:
    """Return the rewards of all answers, in one batch: a reward model is quicker so."""
    episodes = [episode for asked in sampled for episode in asked.episodes]
    if not episodes:
        return [np.zeros(0) for _ in sampled]
    scores = checked_result(reward, episodes).scores
    ends = np.cumsum([len(asked.episodes) for asked in sampled])[:-1]
    return list(np.split(scores, ends))


def _reward(rank_by: RankBy, metrics: Sequence[str]) -> Reward:
    if isinstance(rank_by, str) and ":" not in rank_by and rank_by not in REWARDS:
        models = [f"{kind}:MODEL" for kind in REWARDS_OF_MODELS]
        known = [OWN_REWARD, *metrics, *REWARDS, *models]
        raise UnknownNameError("metric or reward to rank by", rank_by, known)
    return resolve_reward(rank_by)
