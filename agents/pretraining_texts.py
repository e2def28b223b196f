"""Running text for pretraining: by name, from a file, or from any rows; split by document."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from textenvs.corpora import TABLE_SUFFIXES, films, load_items
from textenvs.errors import ConfigError, CorpusError, UnknownNameError
from textenvs.prompts import read_table, split_of
from textenvs.text_corpora import bbc_articles, movie_reviews
from textenvs.types import Item

TextPart = Literal["train", "held-out"]
DocumentRule = Literal["paragraph", "line", "file"]
TEXT_COLUMN = "text"


@dataclass(frozen=True, slots=True)
class Document:
    """A text that is learned whole or held out whole.

    Attributes:
        text: The document.
        group: Decides the split, as `Prompt.group` does for environments: of a list of
            titles it is the title, so one that `textenvs/ContextSelect-v0` tests on is not
            learned here.
    """

    text: str
    group: str


def pretraining_texts(
    source: Any,
    part: TextPart | None = "train",
    *,
    text_column: str | None = None,
    documents: DocumentRule = "paragraph",
) -> list[str]:
    """Return the texts of a source that are to be learned, or those that are held out.

    The split is by document and by hash, as that of the environments: 80% to learn from.

    Args:
        source: As in `load_documents`.
        part: "train", "held-out" (what environments call validation and test), or None for
            all.
        text_column: As in `load_documents`.
        documents: As in `load_documents`.

    Raises:
        CorpusError: if the part is empty.
        UnknownNameError: if a name, a column or the part is unknown.
    """
    if part is not None and part not in get_args(TextPart):
        raise UnknownNameError("part of the texts", part, get_args(TextPart))
    found = load_documents(source, text_column=text_column, documents=documents)
    return texts_of(found, part)


def texts_of(documents: Iterable[Document], part: TextPart | None) -> list[str]:
    """Return the texts of one part of some documents; arguments as in `pretraining_texts`."""
    every = list(documents)
    kept = [d.text for d in every if part in (None, _part_of(d))]
    if not kept:
        raise CorpusError(
            f"none of the {len(every)} documents falls into the part {part!r}; give more "
            'documents (documents="line" makes one of every line of a text file), or take all '
            "of them and hold out none"
        )
    return kept


def _part_of(document: Document) -> TextPart:
    return "train" if split_of(document.group) == "train" else "held-out"


def load_documents(
    source: Any, *, text_column: str | None = None, documents: DocumentRule = "paragraph"
) -> list[Document]:
    """Return the documents of a source, in order.

    Args:
        source: "films" (titles, each with its genre), "bbc-news" (articles), "movie-reviews";
            the path of a text file (.txt, .md); the path of a CSV, TSV, JSON, JSON-lines or
            Parquet file with a column of texts, or with titles and categories; a
            `datasets.Dataset`; or rows, which are texts or mappings.
        text_column: Column that holds the text; None takes "text".
        documents: What is a document of a text file: a "paragraph" (what stands between
            blank lines), a "line", or the whole "file".

    Raises:
        ConfigError: if a file cannot be read.
        CorpusError: if there is no text.
        UnknownNameError: if a name or a column is unknown.
    """
    if documents not in get_args(DocumentRule):
        raise UnknownNameError("kind of document", documents, get_args(DocumentRule))
    if isinstance(source, str) and source in NAMED_TEXTS:
        return NAMED_TEXTS[source]()
    if not isinstance(source, (str, Path)):
        name, found = type(source).__name__, _from_rows(source, text_column or TEXT_COLUMN)
    elif Path(source).suffix.casefold() in TABLE_SUFFIXES:
        name, found = str(source), _from_table(Path(source), text_column)
    else:
        name, found = str(source), _from_text_file(Path(source), documents)
    kept = [document for document in found if document.text.strip()]
    if not kept:
        raise CorpusError(f"{name!r} holds no text; give at least one document")
    return kept


def title_text(item: Item) -> str:
    """Return a title with its category, as it stands in the lists of the environments."""
    return f"[{item.category}] {item.title}"


def _from_items(items: Iterable[Item]) -> list[Document]:
    return [Document(title_text(item), item.title) for item in items]


def _from_articles() -> list[Document]:
    return [Document(f"{a.title}\n{a.body}", a.title) for a in bbc_articles()]


def _from_reviews() -> list[Document]:
    return [Document(review.text, review.text) for review in movie_reviews()]


NAMED_TEXTS: dict[str, Callable[[], list[Document]]] = {
    "films": lambda: _from_items(films()),
    "bbc-news": _from_articles,
    "movie-reviews": _from_reviews,
}
"""Running text by name."""


def _from_text_file(path: Path, documents: DocumentRule) -> list[Document]:
    if not path.is_file():
        remedy = "Or give the path of a text file, or of a CSV, TSV, JSON or Parquet file."
        raise UnknownNameError("text", str(path), NAMED_TEXTS, remedy)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path.name!r} cannot be read as UTF-8 text: {error}") from error
    return [Document(part, part) for part in _parts(text, documents)]


def _parts(text: str, documents: DocumentRule) -> list[str]:
    lines = text.splitlines()
    if documents == "line":
        return lines
    if documents == "file":
        return ["\n".join(lines)]
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if line.strip():
            paragraphs[-1].append(line)
        elif paragraphs[-1]:
            paragraphs.append([])
    return ["\n".join(paragraph) for paragraph in paragraphs]


def _from_table(path: Path, text_column: str | None) -> list[Document]:
    """Return the texts of a table, or its titles where it is a list of titles."""
    rows = read_table(path)
    if not rows:
        raise CorpusError(f"{path.name!r} has no row; give at least one document")
    if text_column is not None or TEXT_COLUMN in rows[0]:
        return _from_rows(rows, text_column or TEXT_COLUMN)
    try:
        return _from_items(load_items(path, duplicates="drop"))
    except UnknownNameError:  # it has neither titles with categories nor texts
        return _from_rows(rows, TEXT_COLUMN)


def _from_rows(rows: Iterable[Any], column: str) -> list[Document]:
    found = []
    for number, row in enumerate(rows):
        text = row
        if isinstance(row, Mapping):
            if column not in row:
                raise UnknownNameError(
                    "column", column, map(str, row), "Name the one of the texts: text_column=NAME."
                )
            text = row[column]
        if not isinstance(text, str):
            raise CorpusError(f"row {number} has no text in {column!r}: {text!r:.80}")
        found.append(Document(text, text))
    return found
