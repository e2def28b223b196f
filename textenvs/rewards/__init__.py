"""Rewards: what scores a completion."""

from collections.abc import Callable
from functools import partial
from typing import Any

from textenvs.errors import ConfigError
from textenvs.rewards.against_reference import AgainstReference
from textenvs.rewards.base import BaseReward, Reward, RewardResult, Term, WeightedSum
from textenvs.rewards.classic.bleu import Bleu
from textenvs.rewards.classic.diversity import DistinctN
from textenvs.rewards.classic.final_answer import FinalAnswer
from textenvs.rewards.classic.format import JsonFormat, RegexFormat
from textenvs.rewards.classic.keywords import Keywords
from textenvs.rewards.classic.length import Length
from textenvs.rewards.classic.profanity import Profanity
from textenvs.rewards.classic.readability import Readability
from textenvs.rewards.classic.repetition import Repetition
from textenvs.rewards.classic.rouge import Rouge
from textenvs.rewards.classic.sentiment import Sentiment
from textenvs.rewards.clip import Clip
from textenvs.rewards.ensemble import Ensemble
from textenvs.rewards.functions import FunctionReward, reward
from textenvs.rewards.functions import resolve_reward as _resolve
from textenvs.rewards.gate import Gate
from textenvs.rewards.grounding.answer_match import AnswerMatch
from textenvs.rewards.grounding.context_grounding import ContextGrounding
from textenvs.rewards.grounding.context_match import ContextMatch
from textenvs.rewards.guarding.guarded import Guarded
from textenvs.rewards.learned.judge import Judge, PairwiseJudge
from textenvs.rewards.learned.model import RewardModel
from textenvs.rewards.learned.perplexity import Perplexity
from textenvs.rewards.learned.similarity import SentenceSimilarity
from textenvs.rewards.normalisation import RunningNormalised
from textenvs.rewards.shaping import PotentialShaping
from textenvs.rewards.stages import Staged

REWARDS: dict[str, Callable[[], Reward]] = {
    "answer-match": AnswerMatch,
    "answer-match-f1": partial(AnswerMatch, scoring="f1"),
    "bleu": Bleu,
    "chrf": partial(Bleu, "chrf"),
    "chrf++": partial(Bleu, "chrf++"),
    "context-grounding": ContextGrounding,
    "context-match": ContextMatch,
    "context-match-f1": partial(ContextMatch, scoring="f1"),
    "context-match-first": partial(ContextMatch, scoring="first"),
    "distinct-1": partial(DistinctN, 1),
    "distinct-2": partial(DistinctN, 2),
    "final-number": FinalAnswer,
    "final-text": partial(FinalAnswer, "text"),
    "json": JsonFormat,
    "keywords": Keywords,
    "length": Length,
    "profanity-penalty": lambda: -Profanity(),
    "readability": Readability,
    "repetition-penalty": lambda: -Repetition(),
    "rouge-1": partial(Rouge, "rouge-1"),
    "rouge-2": partial(Rouge, "rouge-2"),
    "rouge-l": partial(Rouge, "rouge-l"),
    "sentiment": Sentiment,
    "similarity": SentenceSimilarity,
    "think-format": RegexFormat,
}
"""Rewards by name, each with its defaults; a penalty is paid negative."""

REWARDS_OF_MODELS: dict[str, Callable[[str], Reward]] = {
    "judge": Judge,
    "pairwise-judge": PairwiseJudge,
    "reward-model": RewardModel.from_name,
}
"""Rewards named "KIND:MODEL", such as "reward-model:runs/rm" or "judge:smollm2-135m"."""


def resolve_reward(spec: Any) -> Reward:
    """Return a reward for a name, `"module:object"`, a function, or a reward.

    A name is one of `REWARDS`, or one of `REWARDS_OF_MODELS`, a colon and a model.

    Raises:
        UnknownNameError: if the name is not registered.
        ConfigError: if it lacks its model, cannot be imported, or is no reward.
    """
    if isinstance(spec, str):
        kind, _, model = spec.partition(":")
        if kind in REWARDS_OF_MODELS:
            if not model:
                raise ConfigError(f'the reward {spec!r} needs a model: reward="{kind}:MODEL"')
            return REWARDS_OF_MODELS[kind](model)
    return _resolve(spec, REWARDS)


__all__ = [
    "REWARDS",
    "REWARDS_OF_MODELS",
    "AgainstReference",
    "AnswerMatch",
    "BaseReward",
    "Bleu",
    "Clip",
    "ContextGrounding",
    "ContextMatch",
    "DistinctN",
    "Ensemble",
    "FinalAnswer",
    "FunctionReward",
    "Gate",
    "Guarded",
    "JsonFormat",
    "Judge",
    "Keywords",
    "Length",
    "PairwiseJudge",
    "Perplexity",
    "PotentialShaping",
    "Profanity",
    "Readability",
    "RegexFormat",
    "Repetition",
    "Reward",
    "RewardModel",
    "RewardResult",
    "Rouge",
    "RunningNormalised",
    "SentenceSimilarity",
    "Sentiment",
    "Staged",
    "Term",
    "WeightedSum",
    "resolve_reward",
    "reward",
]
