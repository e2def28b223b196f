"""The published metric and the strict one."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from rapidfuzz import fuzz, process

from agents.evaluation import Answer, bootstrap_mean

PUBLISHED = {"base": 0.33, "SFT": 0.68, "PPO": 0.88}
"""The ChatGLM-6B experiment: fuzzy 0.9, category ignored, on the titles it was trained on."""
THRESHOLD = 90.0


def published_metric(completion: str, titles: Sequence[str]) -> float:
    """Return the share of answer lines that resemble a listed title at a ratio of 0.9.

    Args:
        completion: One title a line; without any line the share is 0.
        titles: Those of the list, whatever their category.
    """
    lines = [line.strip() for line in completion.splitlines() if line.strip()]
    named = [
        process.extractOne(line, titles, scorer=fuzz.ratio, score_cutoff=THRESHOLD) is not None
        for line in lines
    ]
    return sum(named) / len(named) if named else 0.0


def measure(answers: Sequence[Answer], prompts: Any) -> dict[str, tuple[float, float, float]]:
    """Return metric -> (mean, low, high) over prompts, with 95% bootstrap intervals.

    Args:
        answers: To the first prompts of a split.
        prompts: That split.

    Returns:
        `published`: see `published_metric`. `strict`: the share of answer lines that are,
        letter for letter, a listed title of the asked category. `recall`: the share of the
        titles asked for that are named. `empty`: answers without a line. `tokens`.
    """
    titles = [[item.title for item in prompts[i].context] for i in range(len(answers))]
    pairs = zip(answers, titles, strict=True)
    columns = {
        "published": [published_metric(answer.completion, listed) for answer, listed in pairs],
        "strict": [answer.values["correct"] for answer in answers],
        "recall": [answer.values["recall"] for answer in answers],
        "empty": [answer.values["empty"] for answer in answers],
        "tokens": [answer.values["length"] for answer in answers],
    }
    return {name: tuple(bootstrap_mean(np.array(values))) for name, values in columns.items()}
