"""Files in the format of SQuAD 1.1 and 2.0: articles, paragraphs, questions.

The format is that of Rajpurkar et al. (arXiv:1606.05250, arXiv:1806.03822):
`{"data": [{"title", "paragraphs": [{"context", "qas": [{"id", "question", "answers":
[{"text"}], "is_impossible", "plausible_answers"}]}]}]}`.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from textenvs.errors import CorpusError


@dataclass(frozen=True, slots=True)
class SquadQuestion:
    """One question of a file.

    Attributes:
        id: As in the file, unique there.
        article: Title of the article; questions of one article belong to one split.
        passage: The paragraph.
        question: What is asked.
        answers: The accepted answers, each once; empty where the paragraph has none.
        plausible: Wrong answers an annotator found tempting (2.0 only).
    """

    id: str
    article: str
    passage: str
    question: str
    answers: tuple[str, ...]
    plausible: tuple[str, ...] = ()


def read_squad(path: str | Path) -> tuple[SquadQuestion, ...]:
    """Return the questions of a SQuAD file, in its order.

    Raises:
        CorpusError: if the file is missing, no JSON, holds no question, or breaks the format;
            the message names the place, such as `data[0].paragraphs[2].qas[1].id`.
    """
    path = Path(path)
    try:
        document = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CorpusError(f"{str(path)!r} cannot be read as JSON: {error}") from error
    questions: dict[str, SquadQuestion] = {}
    for place, question in _questions(_Node(path.name, "", document)):
        if question.id in questions:
            raise CorpusError(
                f"{path.name!r}: {place}.id {question.id!r} stands twice; ids must be unique"
            )
        questions[question.id] = question
    if not questions:
        raise CorpusError(f"{path.name!r} holds no question; its 'data' has no 'qas'")
    return tuple(questions.values())


def _questions(root: "_Node") -> Iterator[tuple[str, SquadQuestion]]:
    """Yield each question with its place."""
    for article in root.children("data"):
        title = article.text("title")
        for paragraph in article.children("paragraphs"):
            passage = paragraph.text("context")
            for qa in paragraph.children("qas"):
                answers = () if qa.flag("is_impossible") else qa.texts("answers")
                if not answers and not qa.flag("is_impossible"):
                    raise qa.error("answers", "is empty; give an answer, or set is_impossible")
                yield (
                    qa.place,
                    SquadQuestion(
                        id=qa.text("id"),
                        article=title,
                        passage=passage,
                        question=" ".join(qa.text("question").split()),
                        answers=answers,
                        plausible=qa.texts("plausible_answers", needed=False),
                    ),
                )


class _Node:
    """One object of the document, which knows its place."""

    def __init__(self, file: str, place: str, value: Any) -> None:
        """Refuse anything but a JSON object."""
        self._file, self.place = file, place
        if not isinstance(value, Mapping):
            raise CorpusError(
                f"{file!r}: {place or 'the document'} must be an object, got {value!r:.60}"
            )
        self._fields = value

    def error(self, key: str, rule: str) -> CorpusError:
        """Return the error for one field."""
        where = f"{self.place}.{key}" if self.place else key
        return CorpusError(f"{self._file!r}: {where} {rule}")

    def children(self, key: str) -> Iterator["_Node"]:
        """Yield the objects of a list."""
        value = self._fields.get(key)
        if not isinstance(value, list):
            raise self.error(key, f"must be a list, got {value!r:.60}")
        prefix = f"{self.place}." if self.place else ""
        for i, item in enumerate(value):
            yield _Node(self._file, f"{prefix}{key}[{i}]", item)

    def text(self, key: str) -> str:
        """Return a field that must be text."""
        value = self._fields.get(key)
        if not isinstance(value, str) or not value.strip():
            raise self.error(key, f"must be non-empty text, got {value!r:.60}")
        return value

    def flag(self, key: str) -> bool:
        """Return a field that is true or false, false where it is missing."""
        value = self._fields.get(key, False)
        if not isinstance(value, bool):
            raise self.error(key, f"must be true or false, got {value!r:.60}")
        return value

    def texts(self, key: str, *, needed: bool = True) -> tuple[str, ...]:
        """Return the distinct texts of a list of answers."""
        if not needed and key not in self._fields:
            return ()
        return tuple(dict.fromkeys(answer.text("text") for answer in self.children(key)))
