"""What is audited: a reward on a sample of prompts, with what honest answers earn there."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from textenvs.audit.gold import Gold, choose_gold
from textenvs.checker.probes import LETTERS, random_letters
from textenvs.checker.report import Skipped
from textenvs.checker.study import Study
from textenvs.checker.subject import oracle_of, subject_of
from textenvs.env import TextEnv
from textenvs.errors import ConfigError, RewardError, TextEnvsError
from textenvs.rewards import resolve_reward
from textenvs.rewards.base import Reward, checked_result
from textenvs.tokenization import TextTokenizer
from textenvs.types import Episode, FinishReason, Prompt


@dataclass(frozen=True, slots=True)
class Attempt:
    """One answer to one prompt.

    Attributes:
        prompt: The task.
        text: The answer.
        finish_reason: "length" for one that was cut off at the token budget.
        slip: Whether it means to say the right answer with slips of spelling, which a
            reader may forgive; see `textenvs.audit.verdicts`.
        ids: Its tokens, where it was cut off.
    """

    prompt: Prompt
    text: str
    finish_reason: FinishReason = "eos"
    slip: bool = False
    ids: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Honest:
    """An answer that solves the task, or a part of it, as it is meant to be solved.

    Attributes:
        name: "the oracle", "half of the right items", ...
        text: The answer.
        reward: What it scores; NaN where it is not scored.
        gold: Its gold measure.
    """

    name: str
    text: str
    reward: float = math.nan
    gold: float = math.nan


@dataclass(frozen=True, slots=True)
class Standard:
    """What answers to one prompt are measured by.

    Attributes:
        prompt: The task.
        null: What is had for nothing: the greater of what the empty answer and, on average,
            random letters score.
        honest: The oracle first, then honest parts of it, where it is a list.
    """

    prompt: Prompt
    null: float
    honest: tuple[Honest, ...]

    @property
    def oracle(self) -> Honest:
        """The right answer."""
        return self.honest[0]


@dataclass(frozen=True)
class Subject:
    """A reward under audit.

    Attributes:
        name: For the report.
        env: Brings prompts, tokenizer, metrics, oracle and probes; without wrappers.
        reward: What is audited: the environment's own, or the one given in its place.
        prompts: The sample.
        study: The seed of every random choice.
        gold: What an answer is worth, apart from the reward.
        standards: Id of a prompt -> what its answers are measured by; only prompts with an
            oracle.
    """

    name: str
    env: TextEnv
    reward: Reward
    prompts: tuple[Prompt, ...]
    study: Study
    gold: Gold
    standards: Mapping[str, Standard] = field(default_factory=dict)

    @property
    def tokenizer(self) -> TextTokenizer:
        """The tokenizer of the environment."""
        return self.env.tokenizer

    @property
    def max_new_tokens(self) -> int:
        """The token budget of an answer."""
        return self.env.batch.max_new_tokens

    @property
    def measured(self) -> tuple[Prompt, ...]:
        """The prompts of the sample with a right answer."""
        return tuple(prompt for prompt in self.prompts if prompt.id in self.standards)

    def rewards(self, attempts: Sequence[Attempt]) -> np.ndarray:
        """Score attempts in one batch, float64 [B]; NaN where the reward did not score."""
        result = checked_result(self.reward, self.episodes(attempts))
        return np.asarray(result.scores, np.float64)

    def golds(self, attempts: Sequence[Attempt]) -> np.ndarray:
        """Return the gold measure of attempts, float64 [B]; 1 is the oracle's, 0 no answer's."""
        return self.gold(self.episodes(attempts))

    def episodes(self, attempts: Sequence[Attempt]) -> list[Episode]:
        """Return attempts as finished episodes."""
        return [Episode(a.prompt, a.text, a.ids, a.finish_reason) for a in attempts]

    def generator(self, name: str) -> np.random.Generator:
        """Return a generator for one use; the same whatever else is drawn."""
        return self.study.generator(name)


def make_subject(
    id_or_env: Any,
    reward: Any = None,
    *,
    seed: int = 0,
    n_prompts: int = 48,
    gold: str | None = None,
    options: Mapping[str, Any] | None = None,
) -> Subject:
    """Return what is to be audited, with the rewards of the honest answers.

    Args:
        id_or_env: An id, or a `TextEnv` or `TextVectorEnv`, wrapped or not.
        reward: Audited in place of the environment's own: a name, "module:object", a
            function, a `Reward`; None audits its own.
        seed: Of every random choice.
        n_prompts: Size of the sample.
        gold: Name of the metric to take for gold; None chooses (see `choose_gold`).
        options: Of the environment, where an id is given.

    Raises:
        UnknownNameError: if the id, the reward, an option or the metric is unknown.
        ConfigError: if it is no text environment, or `n_prompts` is below 1.
        RewardError: if the reward raises on the honest answers.
    """
    if n_prompts < 1:
        raise ConfigError(f"n_prompts must be at least 1, got {n_prompts}")
    checked = subject_of(id_or_env, options or {})
    env = checked.fresh()
    if not isinstance(env, TextEnv):
        raise ConfigError(
            f"{checked.name} is no TextEnv, so its reward cannot be asked about a text; wrap the "
            "task as a TextEnv, or register it with textenvs.register"
        )
    study = Study(checked, seed, n_prompts)
    prompts = tuple(study.sample(env))
    oracles: dict[str, str] = {}
    for prompt in prompts:
        try:
            oracles[prompt.id] = oracle_of(env, prompt)
        except Skipped:
            continue
    metrics = env.metrics if env.batch.metrics_of is not None else None
    chosen = choose_gold(metrics, oracles, prompts, study.generator("gold"), gold)
    audited = env.reward if reward is None else resolve_reward(reward)
    name = checked.name if reward is None else f"{checked.name} with the reward {audited.name}"
    subject = Subject(name, env, audited, prompts, study, chosen)
    return dataclasses.replace(subject, standards=_standards(subject, oracles))


def _standards(subject: Subject, oracles: Mapping[str, str]) -> dict[str, Standard]:
    """Score nothing, noise and the honest answers of each prompt, in one batch."""
    generator = subject.generator("null")
    attempts: list[Attempt] = []
    answers: list[tuple[Prompt, list[Honest]]] = []
    for prompt in subject.prompts:
        if prompt.id not in oracles:
            continue
        honest = honest_answers(oracles[prompt.id])
        answers.append((prompt, honest))
        letters = [random_letters(generator) for _ in range(LETTERS)]
        attempts += [Attempt(prompt, text) for text in ["", *letters, *(h.text for h in honest)]]
    if not attempts:
        return {}
    rewards, golds = iter(_first_rewards(subject, attempts)), iter(subject.golds(attempts))
    standards = {}
    for prompt, honest in answers:
        empty, *noise = [float(next(rewards)) for _ in range(1 + LETTERS)]
        for _ in range(1 + LETTERS):
            next(golds)
        scored = tuple(
            dataclasses.replace(h, reward=float(next(rewards)), gold=float(next(golds)))
            for h in honest
        )
        null = float(np.fmax(empty, np.mean(noise)))
        standards[prompt.id] = Standard(prompt, null, scored)
    return standards


def _first_rewards(subject: Subject, attempts: Sequence[Attempt]) -> np.ndarray:
    """Score the honest answers: a reward that cannot is not fit to be audited."""
    try:
        return subject.rewards(attempts)
    except TextEnvsError:
        raise
    except Exception as error:  # a user's reward raises anything
        raise RewardError(
            f"the reward {subject.reward.name!r} raised {type(error).__name__} on an honest, an "
            f"empty or a random answer: {error}"
        ) from error


def honest_answers(oracle: str) -> list[Honest]:
    """Return a right answer and, where it is a list of lines, honest parts of it."""
    items = [line for line in oracle.splitlines() if line.strip()]
    honest = [Honest("the oracle", oracle)]
    sizes = {
        "all right items but one": len(items) - 1,
        "half of the right items": (len(items) + 1) // 2,
    }
    for name, size in sizes.items():
        text = "\n".join(items[:size])
        if size >= 1 and len(items) > 1 and text not in [h.text for h in honest]:
            honest.append(Honest(name, text))
    return honest
