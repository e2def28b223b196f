"""Prompt sources: deterministic, indexable sequences of `Prompt`, one per split.

Splits are by `Prompt.group` (the InstructGPT rule, Ouyang et al., arXiv:2203.02155,
appendix A.3: no user in two splits), decided by a hash, so that a group's split never
depends on what else is in the data.
"""

import csv
import dataclasses
import hashlib
import json
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from textenvs.errors import ConfigError, MissingDependencyError, PromptError, UnknownNameError
from textenvs.tokenization import TextTokenizer
from textenvs.types import Prompt, Split

SPLITS: tuple[Split, ...] = get_args(Split)
TRAIN_SHARE, VALIDATION_SHARE = 0.8, 0.1
CHUNK, PROBED = 4096, 128


class PromptSource(Sequence[Prompt]):
    """A sequence of prompts: same index, same prompt, always.

    A subclass gives `__len__` and `__getitem__`; the rest has defaults that read the
    prompts one by one.
    """

    def index_of(self, prompt_id: str) -> int:
        """Return where the prompt with this id stands.

        Raises:
            UnknownNameError: if there is no such id.
        """
        for i in range(len(self)):
            if self[i].id == prompt_id:
                return i
        raise UnknownNameError("prompt id", prompt_id, (self[i].id for i in range(len(self))))

    def encode(self, tokenizer: TextTokenizer, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Return the ids the policy reads of some of these prompts."""
        return tokenizer.encode_batch([prompt.text for prompt in prompts])

    def check_lengths(self, tokenizer: TextTokenizer, limit: int) -> "TokenTable | None":
        """Encode every prompt once and refuse the first longer than `limit` tokens.

        Returns:
            The ids, so that none is encoded again; None from a source that checked a part.

        Raises:
            PromptError: naming the prompt and both lengths.
        """
        table = TokenTable(tokenizer.vocab_size)
        for start in range(0, len(self), CHUNK):
            prompts = [self[i] for i in range(start, min(start + CHUNK, len(self)))]
            encoded = self.encode(tokenizer, prompts)
            for prompt, ids in zip(prompts, encoded, strict=True):
                if len(ids) > limit:
                    raise too_long(prompt, len(ids), limit)
            table.extend(encoded)
        return table.finish()


class TokenTable:
    """The ids of many prompts in one array: a lookup costs the same for ten as for a million."""

    def __init__(self, vocab_size: int) -> None:
        """Begin an empty table of ids below `vocab_size`."""
        self._dtype = np.uint16 if vocab_size <= 2**16 else np.uint32
        self._chunks: list[np.ndarray] = []
        self._lengths: list[int] = []
        self._ids, self._ends = np.zeros(0, self._dtype), np.zeros(1, np.int64)

    def extend(self, encoded: Sequence[Sequence[int]]) -> None:
        """Append the ids of some prompts."""
        self._chunks.append(np.concatenate([np.array(ids, self._dtype) for ids in encoded]))
        self._lengths.extend(map(len, encoded))

    def finish(self) -> "TokenTable":
        """Join what was appended."""
        self._ids = np.concatenate(self._chunks)
        self._ends = np.concatenate([[0], np.cumsum(self._lengths)])
        self._chunks, self._lengths = [], []
        return self

    def __getitem__(self, index: int) -> np.ndarray:
        """Return int64 [N], the ids of one prompt."""
        return self._ids[self._ends[index] : self._ends[index + 1]].astype(np.int64)


class PromptList(PromptSource):
    """Prompts held in memory."""

    def __init__(self, prompts: Iterable[Prompt | str | Mapping[str, Any]]) -> None:
        """Collect prompts; a string or a mapping becomes a `Prompt`.

        Raises:
            PromptError: if there is none, or an id stands twice.
        """
        self._prompts = tuple(as_prompt(p, i) for i, p in enumerate(prompts))
        if not self._prompts:
            raise PromptError("there is no prompt; give at least one")
        self._index: dict[str, int] = {}
        for i, prompt in enumerate(self._prompts):
            if self._index.setdefault(prompt.id, i) != i:
                raise PromptError(f"the prompt id {prompt.id!r} stands twice; ids must be unique")

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self._prompts)

    def __getitem__(self, index: Any) -> Any:
        """Return one prompt."""
        return self._prompts[index]

    def index_of(self, prompt_id: str) -> int:
        """Return where the prompt with this id stands."""
        if prompt_id not in self._index:
            raise UnknownNameError("prompt id", prompt_id, self._index)
        return self._index[prompt_id]


class GeneratedPrompts(PromptSource):
    """Procedural prompts: index and seed in, prompt out, nothing held in memory."""

    def __init__(
        self,
        make: Callable[[int, np.random.Generator], Prompt],
        size: int,
        *,
        seed: int | tuple[int, ...] = 0,
    ) -> None:
        """Keep the recipe.

        Args:
            make: Called with the index and a generator seeded by (seed, index); the ids it
                gives end in "-INDEX".
            size: Number of prompts, at least 1.
            seed: Chooses another sequence of the same size.
        """
        if size < 1:
            raise PromptError(f"the number of prompts must be at least 1, got {size}")
        self._make, self._size = make, size
        self._seed = (seed,) if isinstance(seed, int) else seed

    def __len__(self) -> int:
        """Return the number of prompts."""
        return self._size

    def __getitem__(self, index: Any) -> Any:
        """Return the prompt of this index."""
        if not -self._size <= index < self._size:
            raise IndexError(f"prompt index {index} is outside 0..{self._size - 1}")
        i = int(index) % self._size
        return self._make(i, np.random.default_rng((*self._seed, i)))

    def index_of(self, prompt_id: str) -> int:
        """Return the index the id ends in, if the prompt there has that id."""
        tail = prompt_id.rpartition("-")[2]
        if tail.isdecimal() and int(tail) < self._size and self[int(tail)].id == prompt_id:
            return int(tail)
        examples = (self[i].id for i in range(min(3, self._size)))
        raise UnknownNameError("prompt id", prompt_id, examples)

    def check_lengths(self, tokenizer: TextTokenizer, limit: int) -> TokenTable | None:
        """Refuse the longest of the first prompts if it does not fit; others are met later."""
        probe_lengths(self, tokenizer, limit)
        return None


def probe_lengths(source: PromptSource, tokenizer: TextTokenizer, limit: int) -> None:
    """Refuse the longest of the first prompts of a source if it does not fit."""
    probed = [source[i] for i in range(min(PROBED, len(source)))]
    lengths = [len(ids) for ids in source.encode(tokenizer, probed)]
    longest = int(np.argmax(lengths))
    if lengths[longest] > limit:
        raise too_long(probed[longest], lengths[longest], limit)


def as_prompt(value: Prompt | str | Mapping[str, Any] | Sequence[Any], index: int) -> Prompt:
    """Return a `Prompt` for a string (its text), a list of messages, or a mapping of its fields.

    The text of a mapping may also be called `prompt`, and may be a list of messages
    (`{"role": ..., "content": ...}`). Keys that are no field of `Prompt` go into `metadata`.

    Raises:
        PromptError: if there is no text, or a message lacks its role or its content.
    """
    if isinstance(value, Prompt):
        return value
    if isinstance(value, str):
        return Prompt(id=str(index), text=value, group=value)
    if isinstance(value, Sequence):
        value = {"messages": value}
    if not isinstance(value, Mapping):
        raise PromptError(
            f"prompt {index} is {value!r:.60}; a prompt is a text, a list of messages, a mapping "
            "with a 'text', or a Prompt"
        )
    names = {field.name for field in dataclasses.fields(Prompt)}
    known = {key: item for key, item in value.items() if key in names}
    extra = {key: item for key, item in value.items() if key not in names}
    text, messages = known.pop("text", extra.pop("prompt", None)), known.pop("messages", None)
    if messages is None and isinstance(text, Sequence) and not isinstance(text, str):
        text, messages = None, text
    if messages is not None:
        messages = _checked_messages(messages, index)
        text = "\n".join(message["content"] for message in messages) if text is None else text
    if not isinstance(text, str):
        raise PromptError(f"prompt {index} has no 'text'; its keys are {sorted(value)}")
    metadata = {**extra, **known.pop("metadata", {})}
    known["id"] = str(known.get("id", index))
    prompt = Prompt(text=text, metadata=metadata, messages=messages, **known)
    return prompt if prompt.group else dataclasses.replace(prompt, group=text)


def _checked_messages(messages: Sequence[Any], index: int) -> tuple[Mapping[str, str], ...]:
    if not messages:
        raise PromptError(f"prompt {index} is an empty list of messages; give at least one")
    for message in messages:
        if not isinstance(message, Mapping) or not all(
            isinstance(message.get(key), str) for key in ("role", "content")
        ):
            raise PromptError(
                f"prompt {index} holds {message!r:.80}; a message is a mapping with the texts "
                "'role' and 'content'"
            )
    return tuple(messages)


def as_source(prompts: Any, split: Split | None = None) -> PromptSource:
    """Return a prompt source for a list, a file, a `datasets.Dataset`, or a source.

    Args:
        prompts: A source; an iterable of prompts, strings or mappings; a
            `datasets.Dataset`; or the path of a file that `datasets.load_dataset` reads.
        split: Keep only the groups of this split; None keeps all.

    Raises:
        PromptError: if nothing is left, or an item is no prompt.
    """
    if split is not None:
        checked_split(split)
    if isinstance(prompts, PromptSource):
        return prompts
    if isinstance(prompts, (str, Path)):
        prompts = read_table(prompts)
    collected = [as_prompt(p, i) for i, p in enumerate(prompts)]
    if split is not None:
        kept = [p for p in collected if split_of(p.group) == split]
        if collected and not kept:
            raise PromptError(
                f"none of the {len(collected)} prompts falls into the split {split!r}; "
                "add prompts, or pass split=None to use all of them"
            )
        collected = kept
    return PromptList(collected)


class PromptSubset(PromptSource):
    """Some prompts of another source."""

    def __init__(self, source: PromptSource, indices: Sequence[int]) -> None:
        """Keep the indices."""
        self._source, self._indices = source, tuple(indices)
        self._position = {index: i for i, index in enumerate(self._indices)}

    def __len__(self) -> int:
        """Return the number of prompts."""
        return len(self._indices)

    def __getitem__(self, index: Any) -> Any:
        """Return one prompt."""
        return self._source[self._indices[index]]

    def index_of(self, prompt_id: str) -> int:
        """Return where the prompt with this id stands."""
        found = self._source.index_of(prompt_id)
        if found not in self._position:
            ids = (self[i].id for i in range(min(3, len(self))))
            raise UnknownNameError("prompt id of this split", prompt_id, ids)
        return self._position[found]


def split_source(source: PromptSource) -> dict[Split, PromptSource]:
    """Return the three splits of a source, by group; the whole thrice if one would be empty."""
    rows: dict[Split, list[int]] = {split: [] for split in SPLITS}
    for i in range(len(source)):
        rows[split_of(source[i].group)].append(i)
    if not all(rows.values()):
        return dict.fromkeys(SPLITS, source)
    return {split: PromptSubset(source, indices) for split, indices in rows.items()}


def read_table(path: str | Path) -> list[dict[str, Any]]:
    """Return the rows of a CSV, TSV, JSON, JSON-lines or Parquet file.

    Raises:
        ConfigError: if the file is missing, unreadable, or of a kind that is not read.
        MissingDependencyError: if a Parquet file is given and `datasets` is absent.
    """
    path = Path(path)
    if not path.is_file():
        raise ConfigError(f"there is no file {str(path)!r}")
    kind = path.suffix.casefold()
    try:
        if kind in (".csv", ".tsv"):
            header, *rows = read_rows(path) or [[]]
            return [dict(zip(header, row, strict=False)) for row in rows]
        if kind in (".json", ".jsonl", ".ndjson"):
            text = path.read_text(encoding="utf-8-sig")
            if kind == ".json":
                return [dict(record) for record in json.loads(text)]
            # Not `splitlines`: JSON leaves U+2028 and its kin as they are inside a text.
            return [dict(json.loads(line)) for line in text.split("\n") if line.strip()]
    except (UnicodeDecodeError, ValueError, TypeError) as error:
        raise ConfigError(f"{path.name!r} cannot be read as {kind[1:]}: {error}") from error
    if kind == ".parquet":
        return _read_parquet(path)
    raise ConfigError(
        f"{path.name!r} ends in {path.suffix!r}; the kinds that are read are "
        ".csv, .tsv, .json, .jsonl, .parquet"
    )


def read_rows(path: Path) -> list[list[str]]:
    """Return the rows of a CSV file, or of a TSV file (which has no quoting).

    Raises:
        ConfigError: if the file is not UTF-8 or no table.
    """
    is_tsv = path.suffix.casefold() == ".tsv"
    quoting: Literal[0, 3] = csv.QUOTE_NONE if is_tsv else csv.QUOTE_MINIMAL
    delimiter = "\t" if is_tsv else ","
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            return [row for row in csv.reader(file, delimiter=delimiter, quoting=quoting) if row]
    except (csv.Error, UnicodeDecodeError) as error:
        raise ConfigError(f"{path.name!r} cannot be read as a UTF-8 table: {error}") from error


def _read_parquet(path: Path) -> list[dict[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise MissingDependencyError(
            "datasets", f"reading {path.name}", 'pip install "textenvs[agents]"'
        ) from error
    return [dict(row) for row in datasets.Dataset.from_parquet(str(path))]


def normalise(text: str) -> str:
    """Return the comparison form of a text: what a reader would call the same words.

    Format characters (category Cf: zero-width, direction marks) dropped, NFKC, case
    folded, runs of white space made one space.
    """
    if text.isascii():  # has no format character and is in NFKC already
        return " ".join(text.casefold().split())
    # Format characters go first: one between a letter and its accent would keep them apart.
    # None is printable, which is the quick way to see that there is none.
    kept = text if text.isprintable() else _format_characters().sub("", text)
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", kept).casefold())
    return " ".join(folded.split())


@lru_cache(maxsize=1)
def _format_characters() -> re.Pattern[str]:
    """Return a pattern for the characters of category Cf."""
    every = map(chr, range(sys.maxunicode + 1))
    return re.compile(f"[{''.join(c for c in every if unicodedata.category(c) == 'Cf')}]+")


def checked_split(split: Any) -> Split:
    """Return the split.

    Raises:
        UnknownNameError: if there is no such split.
    """
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    return split


def split_of(group: str) -> Split:
    """Return the split of a group: 80% train, 10% validation, 10% test, by hash."""
    digest = hashlib.blake2b(normalise(group).encode("utf-8", "surrogatepass"), digest_size=8)
    share = int.from_bytes(digest.digest(), "big") / 2**64
    if share < TRAIN_SHARE:
        return "train"
    return "validation" if share < TRAIN_SHARE + VALIDATION_SHARE else "test"


def too_long(prompt: Prompt, length: int, limit: int) -> PromptError:
    """Return the error for a prompt that does not fit, with the remedies."""
    return PromptError(
        f"prompt {prompt.id!r} has {length} tokens, but max_prompt_tokens is {limit}; raise "
        f"max_prompt_tokens to at least {length}, shorten the prompt, or pass "
        'overlong="truncate" to drop tokens from its left'
    )
