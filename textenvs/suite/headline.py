"""`textenvs/Headline-v0`: write the title of a news article."""

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np

from textenvs.errors import ConfigError
from textenvs.options import checked_integer
from textenvs.rewards.classic.rouge import reference_of, rouge
from textenvs.rewards.classic.words import copied_share, words_of
from textenvs.suite.corpus_prompts import (
    CorpusPrompts,
    chosen_reward,
    first_words,
    prompts_of_split,
)
from textenvs.task_env import TaskEnv
from textenvs.text_corpora import ARTICLES, load_articles
from textenvs.types import Episode, Prompt, Split

REWARD = "rouge-l"
TEMPLATE = "{article}\n\nTitle:"
SENTENCE_END = re.compile(r"(?<=[.!?])\s")


def headline_task(
    *,
    corpus: Any = "bbc-news",
    split: Split = "train",
    n_prompts: int | None = None,
    prompt_seed: int = 0,
    article_words: int = 150,
    template: str = TEMPLATE,
    title_column: str = "title",
    body_column: str = "body",
    category_column: str = "category",
    reward: Any = REWARD,
    reward_model: str | None = None,
    reward_model_label: str | None = None,
    max_prompt_tokens: int = 512,
    max_new_tokens: int = 24,
) -> dict[str, Any]:
    """Return the arguments of `TextEnv` for this task.

    Args:
        corpus: `"bbc-news"`, a file, a `datasets.Dataset`, rows.
        split: "train", "validation" or "test", by article.
        n_prompts: How many articles to draw; None takes all of the split.
        prompt_seed: Chooses which.
        article_words: The first words of the article that stand in the prompt.
        template: Wording, with the field {article}.
        title_column: Column of a file or dataset.
        body_column: Column of a file or dataset.
        category_column: Column of a file or dataset.
        reward: Name, function or object.
        reward_model: Folder or hub name of a sequence classifier, instead of `reward`.
        reward_model_label: Which of its labels to reward.
        max_prompt_tokens: Prompt columns.
        max_new_tokens: Token budget of an answer.

    Raises:
        ConfigError: if an option is out of range.
        CorpusError: if the corpus cannot serve the task.
        MissingDependencyError: if a package is absent.
        UnknownNameError: if a name is unknown.
    """
    checked_integer("article_words", article_words, 1, 150)
    if "{article}" not in template:
        raise ConfigError(f"template must hold the field {{article}}, got {template!r}")
    columns = (title_column, body_column, category_column)
    named = isinstance(corpus, str) and corpus in ARTICLES
    prompts = (_prompts if named else _prompts.__wrapped__)(
        corpus, columns, article_words, template, split, n_prompts, prompt_seed
    )
    return {
        "prompts": prompts,
        "reward": chosen_reward(reward, reward_model, reward_model_label, REWARD),
        "max_prompt_tokens": max_prompt_tokens,
        "max_new_tokens": max_new_tokens,
        "metrics": gold_metrics,
        "oracle": reference_of,
        "probes": probes,
    }


@lru_cache(maxsize=16)
def _prompts(
    corpus: Any,
    columns: tuple[str, str, str],
    article_words: int,
    template: str,
    split: Split,
    n_prompts: int | None,
    prompt_seed: int,
) -> CorpusPrompts:
    """Build the prompts; those of a corpus with a name are built once per process."""
    title, body, category = columns
    articles = load_articles(corpus, title_column=title, body_column=body, category_column=category)
    prompts = []
    for i, article in enumerate(articles):
        shown = first_words(article.body, article_words)
        text = template.replace("{article}", shown)
        metadata = {"category": article.category}
        prompts.append(Prompt(f"article-{i}", text, shown, article.title, article.title, metadata))
    return prompts_of_split(prompts, split, n_prompts, prompt_seed)


def probes(prompt: Prompt) -> dict[str, str]:
    """Return answers that take words of the article, or of titles in general, unread."""
    article = prompt.context
    lead = SENTENCE_END.split(article, maxsplit=1)[0]
    return {
        "lead_sentence": lead,
        "first_six_words": first_words(article, 6),
        "first_twelve_words": first_words(article, 12),
        "words_of_titles": "to in for of on new over set",
        "category": prompt.metadata["category"],
    }


def gold_metrics(episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    """Return the measures a policy is judged by and never trained on, float64 [B] each.

    - `rouge_1`, `rouge_2`, `rouge_l`: F-measures against the reference title, in [0, 1].
    - `copied`: share of pairs of words that stand in the article as shown, in [0, 1].
    - `length_ratio`: words of the answer over words of the reference title.
    """
    rows = [_gold(episode) for episode in episodes]
    names = ("rouge_1", "rouge_2", "rouge_l", "copied", "length_ratio")
    table = np.array(rows, np.float64).reshape(len(rows), len(names))
    return {name: table[:, i].copy() for i, name in enumerate(names)}


def _gold(episode: Episode) -> tuple[float, ...]:
    answer, title = episode.completion, reference_of(episode.prompt)
    return (
        rouge(answer, title, "rouge-1"),
        rouge(answer, title, "rouge-2"),
        rouge(answer, title, "rouge-l"),
        copied_share(answer, episode.prompt.context),
        len(words_of(answer)) / max(1, len(words_of(title))),
    )


class HeadlineEnv(TaskEnv):
    """Write the title of a news article whose beginning stands in the prompt.

    Observation and action: as in `TextEnv`. Reward: ROUGE-L, the F-measure against the title
    the newspaper gave it, in [0, 1]; or a trained reward model. Ends at EOS or when the token
    budget is spent. Gold metrics: see `gold_metrics`. Options: see `headline_task`.

    Version history: v0, first version.
    """

    task = staticmethod(headline_task)


make_vec = HeadlineEnv.make_vec
