r"""Conversations with right answers: by name, or from a file in one of three formats.

- Alpaca: rows with `instruction`, optionally `input`, and `output` (Taori et al., 2023).
- HH: rows with `chosen`, the text of a dialogue "\n\nHuman: ...\n\nAssistant: ..." (Bai et
  al., arXiv:2204.05862); what stands in `rejected` is not read.
- Chat: rows with `messages`, a list of `{"role": ..., "content": ...}`.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from textenvs.corpora import package_folder
from textenvs.errors import CorpusError, MissingDependencyError
from textenvs.prompts import normalise
from textenvs.text_corpora import table_rows

CHATTERBOT_INSTALL = "pip install --no-deps chatterbot-corpus==1.3.3"
HH_TURN = re.compile(r"\n\n(Human|Assistant):")
HH_ROLES = {"Human": "user", "Assistant": "assistant"}

Message = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation up to where an assistant speaks next.

    Attributes:
        messages: `{"role": ..., "content": ...}`, at least one.
        answers: What was answered to it; empty where nothing is known.
    """

    messages: tuple[Message, ...]
    answers: tuple[str, ...]


def load_conversations(corpus: Any) -> tuple[Conversation, ...]:
    """Return the conversations of a corpus; the answers to the same one are put together.

    Args:
        corpus: `"chatterbot"`, the path of a CSV, TSV, JSON, JSON-lines or Parquet file, a
            `datasets.Dataset`, or rows as mappings. The first row decides the format.

    Raises:
        UnknownNameError: if the name is unknown.
        CorpusError: if there is no row, or a row is of none of the formats.
        MissingDependencyError: if the package that holds the corpus is absent.
    """
    if isinstance(corpus, str) and corpus in CONVERSATIONS:
        return CONVERSATIONS[corpus]()
    return merged(read_conversations(corpus))


def read_conversations(corpus: Any) -> tuple[Conversation, ...]:
    """Return the conversations of a corpus as they stand there, one a row.

    Arguments and errors as in `load_conversations`; what a name stands for is merged.
    """
    if isinstance(corpus, str) and corpus in CONVERSATIONS:
        return CONVERSATIONS[corpus]()
    rows = list(table_rows(corpus, CONVERSATIONS))
    if not rows:
        raise CorpusError(f"the corpus {corpus!s:.80} has no row; it needs at least one")
    name = _format_of(rows[0])
    return tuple(_read_row(FORMATS[name], name, row, i) for i, row in enumerate(rows))


def merged(conversations: Iterable[Conversation]) -> tuple[Conversation, ...]:
    """Return each conversation once, with all its answers in order."""
    found: dict[tuple[str, ...], tuple[tuple[Message, ...], dict[str, None]]] = {}
    for conversation in conversations:
        key = tuple(normalise(f"{m['role']}: {m['content']}") for m in conversation.messages)
        _, answers = found.setdefault(key, (conversation.messages, {}))
        answers.update(dict.fromkeys(conversation.answers))
    return tuple(Conversation(messages, tuple(answers)) for messages, answers in found.values())


@lru_cache(maxsize=1)
def chatterbot() -> tuple[Conversation, ...]:
    """Return 700-odd English questions with answers (package `chatterbot-corpus`, BSD).

    The opening of each conversation: its first statement, and what was said to it.

    Raises:
        MissingDependencyError: if the package, or PyYAML, is absent.
    """
    folder = package_folder("chatterbot_corpus", "the corpus 'chatterbot'", CHATTERBOT_INSTALL)
    try:
        import yaml
    except ImportError as error:
        raise MissingDependencyError(
            "yaml", "the corpus 'chatterbot'", "pip install PyYAML"
        ) from error
    found = []
    for path in sorted((folder / "data" / "english").glob("*.yml")):
        for turns in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            question, answer = str(turns[0]).strip(), str(turns[1]).strip()
            found.append(Conversation((_message("user", question),), (answer,)))
    return merged(found)


CONVERSATIONS: dict[str, Callable[[], tuple[Conversation, ...]]] = {"chatterbot": chatterbot}
"""Corpora by name; each is read once per process."""


def _from_alpaca(row: Mapping[str, Any]) -> Conversation:
    parts = (row["instruction"], row.get("input") or "")
    question = "\n\n".join(part.strip() for part in parts if part.strip())
    return Conversation((_message("user", question),), _answers(row.get("output")))


def _from_hh(row: Mapping[str, Any]) -> Conversation:
    opening, *turns = HH_TURN.split(row["chosen"])
    if opening.strip() or len(turns) < 4 or turns[-2] != "Assistant":
        raise ValueError(
            "the dialogue must begin with '\\n\\nHuman:' and end with a turn of '\\n\\nAssistant:'"
        )
    pairs = zip(turns[::2], turns[1::2], strict=True)
    messages = [_message(HH_ROLES[speaker], text.strip()) for speaker, text in pairs]
    return Conversation(tuple(messages[:-1]), _answers(messages[-1]["content"]))


def _from_chat(row: Mapping[str, Any]) -> Conversation:
    messages = [_message(m["role"], m["content"]) for m in row["messages"]]
    if messages and messages[-1]["role"] == "assistant":
        answer = messages.pop()["content"]
        return Conversation(tuple(messages), _answers(answer))
    return Conversation(tuple(messages), ())


@dataclass(frozen=True, slots=True)
class Format:
    """A format of rows.

    Attributes:
        column: The column that tells it.
        kind: What that column holds.
        read: From a row to a conversation.
    """

    column: str
    kind: type
    read: Callable[[Mapping[str, Any]], Conversation]


FORMATS = {
    "alpaca": Format("instruction", str, _from_alpaca),
    "hh": Format("chosen", str, _from_hh),
    "chat": Format("messages", list, _from_chat),
}


def _format_of(row: Any) -> str:
    for name, form in FORMATS.items():
        if isinstance(row, Mapping) and isinstance(row.get(form.column), form.kind):
            return name
    columns = sorted(map(str, row)) if isinstance(row, Mapping) else repr(row)[:80]
    raise CorpusError(
        f"the first row is of no format that is read; it has {columns}. A row has 'instruction' "
        "and 'output' (Alpaca), the text of a dialogue in 'chosen' (HH), or a list 'messages' of "
        "{'role', 'content'} (chat)"
    )


def _read_row(form: Format, name: str, row: Any, number: int) -> Conversation:
    try:
        conversation = form.read(row)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise CorpusError(
            f"row {number} of the corpus is not in the {name} format, as the first row is: {error}"
        ) from error
    if not any(message["content"].strip() for message in conversation.messages):
        raise CorpusError(f"row {number} of the corpus asks nothing: its texts are empty")
    return conversation


def _message(role: str, content: str) -> Message:
    if not isinstance(role, str) or not isinstance(content, str):
        raise TypeError(f"role and content must be text, got {role!r} and {content!r:.60}")
    return {"role": role, "content": content}


def _answers(text: str | None) -> tuple[str, ...]:
    stripped = (text or "").strip()
    return (stripped,) if stripped else ()
