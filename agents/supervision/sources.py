"""Where prompts and answers come from: files of pairs, instruction data, conversations."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from agents.supervision.examples import ExampleSet, Window
from textenvs.chat import renderer
from textenvs.conversations import CONVERSATIONS, FORMATS, Message, read_conversations
from textenvs.errors import CorpusError, TokenizerError, UnknownNameError
from textenvs.prompts import split_of
from textenvs.suite.instruct import as_text
from textenvs.text_corpora import table_rows
from textenvs.tokenization import TextTokenizer

ChatTemplate = Literal["auto", "required", "none"]
PROMPT, ANSWER = "prompt", "answer"


@dataclass(frozen=True, slots=True)
class Demonstration:
    """One prompt with the answer to imitate.

    Attributes:
        prompt: What is read, as text; of a conversation, its first question.
        answer: What is learned; empty where nothing was answered.
        messages: The conversation up to the answer, None where the prompt is plain text.
    """

    prompt: str
    answer: str
    messages: tuple[Message, ...] | None = None


@dataclass(frozen=True, slots=True)
class Columns:
    """Names of the columns of a file of pairs; None where they are to be found.

    Attributes:
        prompt: By default "prompt".
        answer: By default "answer".
    """

    prompt: str | None = None
    answer: str | None = None

    @property
    def are_given(self) -> bool:
        """Whether one of them was named."""
        return self.prompt is not None or self.answer is not None


def load_demonstrations(source: Any, columns: Columns | None = None) -> list[Demonstration]:
    """Return the demonstrations of a data set, one a row.

    Pairs have the columns `prompt` and `answer` (or those named). Without them the row
    is read as instruction data, in the formats of `textenvs.conversations`: Alpaca
    (`instruction`, `input`, `output`), chat (`messages`), HH (`chosen`). Of a conversation
    the last turn of the assistant is the answer.

    Args:
        source: `"chatterbot"`, the path of a CSV, TSV, JSON, JSON-lines or Parquet file, a
            `datasets.Dataset`, or rows as mappings.
        columns: Names of the columns.

    Raises:
        UnknownNameError: if a column is missing; says what was probably meant.
        CorpusError: if there is no row, or a row is not as the first one is.
    """
    columns = columns or Columns()
    if isinstance(source, str) and source in CONVERSATIONS:
        return _from_conversations(source)
    rows = list(table_rows(source, CONVERSATIONS))
    if not rows:
        raise CorpusError(f"{source!s:.80} has no row; it needs at least one prompt and answer")
    first = rows[0] if isinstance(rows[0], Mapping) else {}
    has_pairs = PROMPT in first or ANSWER in first
    if columns.are_given or has_pairs or not any(form.column in first for form in FORMATS.values()):
        return _from_pairs(rows, columns)
    return _from_conversations(rows)


def _from_pairs(rows: list[Any], columns: Columns) -> list[Demonstration]:
    names = (("prompt", columns.prompt or PROMPT), ("answer", columns.answer or ANSWER))
    found = []
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise CorpusError(f"row {number} is {row!r:.80}; a row is a mapping of columns")
        for role, name in names:
            if name not in row:
                raise UnknownNameError(
                    f"column of the {role}s",
                    name,
                    map(str, row),
                    f"Name another one with --{role}-column; instruction data has the columns "
                    "instruction and output, or messages.",
                )
        prompt, answer = (_text(row[name], number, name) for _, name in names)
        found.append(Demonstration(prompt, answer))
    return found


def _text(value: Any, number: int, column: str) -> str:
    """Return the text of a cell; nothing there is an empty text, anything else is refused."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise CorpusError(f"row {number} has no text in {column!r}: {value!r:.80}")
    return value


def _from_conversations(corpus: Any) -> list[Demonstration]:
    return [
        Demonstration(
            next((m["content"] for m in c.messages if m["role"] == "user"), ""), answer, c.messages
        )
        for c in read_conversations(corpus)
        for answer in (c.answers or ("",))
    ]


def split_demonstrations(
    demonstrations: list[Demonstration],
) -> tuple[list[Demonstration], list[Demonstration]]:
    """Return what to learn from and what to hold out: a fifth, by the prompt's hash.

    The hash is that of the environments' splits, so an instruction that
    `textenvs/Instruct-v0` tests on is not learned here.
    """
    train = [d for d in demonstrations if split_of(d.prompt) == "train"]
    return train, [d for d in demonstrations if split_of(d.prompt) != "train"]


def encode_demonstrations(
    demonstrations: list[Demonstration],
    tokenizer: TextTokenizer,
    window: Window,
    *,
    chat_template: ChatTemplate = "auto",
) -> ExampleSet:
    """Return demonstrations as token ids, every row accounted for.

    Args:
        demonstrations: Prompts and answers.
        tokenizer: The policy's.
        window: Bounds the examples.
        chat_template: "auto" renders conversations with the tokenizer's template if it has
            one, else as the text of a dialogue ("Human: ...", "Assistant:"), and leaves plain
            prompts as they are. "required" renders plain prompts too, each as the message of
            a user. "none" renders nothing.

    Raises:
        TokenizerError: if a template is required and there is none.
    """
    has_template = bool(getattr(tokenizer, "chat_template", None))
    render = None
    if chat_template == "required" and not has_template:
        raise TokenizerError(
            f'chat_template="required", but the tokenizer {tokenizer.name!r} has none; put a '
            "chat_template.jinja beside its tokenizer.json, begin from a chat model, or train "
            'on plain text with chat_template="none"'
        )
    if chat_template != "none" and has_template:
        render = renderer(tokenizer)
    found = ExampleSet()
    for d in demonstrations:
        if chat_template == "required" and d.messages is None:
            user: Message = {"role": "user", "content": d.prompt}
            d = dataclasses.replace(d, messages=(user,) if d.prompt.strip() else None)
        if d.messages is None:
            prompt = tokenizer.encode(d.prompt) if d.prompt.strip() else []
        elif render is None:
            prompt = tokenizer.encode(as_text(d.messages))
        else:  # the template has put the special tokens into the text
            prompt = tokenizer.encode_completion(render(d.messages))
        answer = tokenizer.encode_completion(d.answer) if d.answer.strip() else []
        found.add(prompt, answer, tokenizer.eos_id, window)
    return found
