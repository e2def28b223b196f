"""Files in SQuAD's format: what is read, and what is refused where."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from textenvs.errors import CorpusError
from textenvs.squad import SquadQuestion, read_squad


def document() -> dict[str, Any]:
    qas = [
        {
            "id": "a",
            "question": " Where is\nParis? ",
            "answers": [{"text": "France", "answer_start": 12}, {"text": "in France"}]
            + [{"text": "France", "answer_start": 12}],
        },
        {
            "id": "b",
            "question": "Who?",
            "is_impossible": True,
            "answers": [],
            "plausible_answers": [{"text": "Paris", "answer_start": 0}],
        },
    ]
    second = [{"id": "c", "question": "When?", "answers": [{"text": "1988"}]}]
    return {
        "version": "v2.0",
        "data": [
            {"title": "Paris", "paragraphs": [{"context": "Paris is in France.", "qas": qas}]},
            {"title": "Duel", "paragraphs": [{"context": "In 1988.", "qas": second}]},
        ],
    }


def write(folder: Path, value: Any) -> Path:
    path = folder / "squad.json"
    path.write_text(json.dumps(value), encoding="utf-8-sig")
    return path


def test_both_versions_are_read(tmp_path: Path) -> None:
    passage = "Paris is in France."
    assert read_squad(write(tmp_path, document())) == (
        SquadQuestion("a", "Paris", passage, "Where is Paris?", ("France", "in France")),
        SquadQuestion("b", "Paris", passage, "Who?", (), ("Paris",)),
        SquadQuestion("c", "Duel", "In 1988.", "When?", ("1988",)),
    )


def qa(value: dict[str, Any], i: int = 0) -> dict[str, Any]:
    found: dict[str, Any] = value["data"][0]["paragraphs"][0]["qas"][i]
    return found


BROKEN: dict[str, tuple[Callable[[dict[str, Any]], Any], str]] = {
    "no data": (lambda d: d.pop("data"), r"data must be a list, got None"),
    "data no list": (lambda d: d.update(data={}), r"data must be a list"),
    "article no object": (lambda d: d["data"].append(3), r"data\[2\] must be an object, got 3"),
    "no title": (lambda d: d["data"][1].pop("title"), r"data\[1\]\.title must be non-empty text"),
    "no context": (
        lambda d: d["data"][1]["paragraphs"][0].pop("context"),
        r"data\[1\]\.paragraphs\[0\]\.context must be non-empty text, got None",
    ),
    "number for an id": (
        lambda d: qa(d).update(id=7),
        r"qas\[0\]\.id must be non-empty text, got 7",
    ),
    "blank question": (
        lambda d: qa(d).update(question=" "),
        r"qas\[0\]\.question must be non-empty",
    ),
    "no answers": (lambda d: qa(d).pop("answers"), r"qas\[0\]\.answers must be a list"),
    "empty answers": (lambda d: qa(d).update(answers=[]), r"answers is empty; give an answer, or"),
    "text for answer": (lambda d: qa(d).update(answers=["x"]), r"answers\[0\] must be an object"),
    "blank answer": (
        lambda d: qa(d)["answers"][1].update(text=""),
        r"data\[0\]\.paragraphs\[0\]\.qas\[0\]\.answers\[1\]\.text must be non-empty text",
    ),
    "flag no flag": (
        lambda d: qa(d).update(is_impossible="no"),
        r"is_impossible must be true or false, got 'no'",
    ),
    "plausible no list": (
        lambda d: qa(d, 1).update(plausible_answers="x"),
        r"qas\[1\]\.plausible_answers must be a list",
    ),
    "same id": (lambda d: qa(d, 1).update(id="a"), r"qas\[1\]\.id 'a' stands twice"),
    "no question": (lambda d: d.update(data=[]), r"holds no question"),
}


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN)
def test_a_malformed_file_is_refused_with_the_place(
    damage: Callable[[dict[str, Any]], Any], message: str, tmp_path: Path
) -> None:
    value = document()
    damage(value)
    with pytest.raises(CorpusError, match=r"^'squad\.json'.*" + message):
        read_squad(write(tmp_path, value))


@pytest.mark.parametrize(
    "content", [b"{", b"\xff\xfe\x00", b"[" * 100_000], ids=["cut", "binary", "deep"]
)
def test_what_is_no_json(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "squad.json"
    path.write_bytes(content)
    with pytest.raises(CorpusError, match="cannot be read as JSON"):
        read_squad(path)


def test_a_list_or_nothing(tmp_path: Path) -> None:
    with pytest.raises(CorpusError, match="the document must be an object"):
        read_squad(write(tmp_path, []))
    with pytest.raises(CorpusError, match="cannot be read"):
        read_squad(tmp_path / "missing.json")
