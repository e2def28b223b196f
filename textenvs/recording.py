"""Recordings of episodes: JSON lines that are read without a tokenizer and replayed exactly.

The first line is the header: format, version, and the environment with its options. Each
further line is one finished episode. Lines are ASCII (other characters are escaped), so
that no character of a completion ends a line; floats are written with the digits that
read back to the same bits, and NaN and infinity as the texts "NaN", "Infinity" and
"-Infinity", since JSON has no numbers for them.

A file has one writer at a time. Lines are written whole and flushed; if a crash tears the
last one, the reader passes over it and the next writer cuts it off.
"""

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, get_args

import textenvs
from textenvs.errors import ConfigError
from textenvs.json_fields import Fields, jsonable
from textenvs.rendering import token_pieces
from textenvs.task_env import KL_OPTIONS, VECTOR_OPTIONS
from textenvs.tokenization import TextTokenizer
from textenvs.types import FinishReason

FORMAT, VERSION = "textenvs-episodes", 1
NOT_OF_THE_TASK = (*VECTOR_OPTIONS, *KL_OPTIONS, "num_envs", "vectorization_mode", "vector_kwargs")
"""Options of `make` and `make_vec` that decide how episodes are run, not what they are."""


@dataclass(frozen=True)
class Header:
    """What a recording is of.

    Attributes:
        env_id: Id of the environment; None where it was not made by `gym.make`.
        kwargs: Its options, those that JSON can hold.
        objects: Options that were objects, name -> what they were; they cannot be rebuilt.
        textenvs: Version of textenvs that recorded.
    """

    env_id: str | None
    kwargs: Mapping[str, Any]
    objects: Mapping[str, str]
    textenvs: str

    @classmethod
    def of(cls, env: Any) -> "Header":
        """Return the header for an environment, single or vector, however it is wrapped."""
        spec = env.unwrapped.spec
        kwargs, objects = {}, {}
        for name, value in {} if spec is None else sorted(spec.kwargs.items()):
            if name in NOT_OF_THE_TASK:
                continue
            plain = str(value) if isinstance(value, Path) else value
            try:
                kwargs[name] = json.loads(json.dumps(plain, allow_nan=False))
            except (TypeError, ValueError):
                objects[name] = getattr(value, "__qualname__", type(value).__qualname__)
        return cls(None if spec is None else spec.id, kwargs, objects, textenvs.__version__)

    def line(self) -> bytes:
        """Return the first line of a file."""
        return _line({"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)})


@dataclass(frozen=True, slots=True)
class KLRecord:
    """What KL shaping charged an episode; see `textenvs.wrappers.reference_kl`.

    Attributes:
        coef: Beta.
        reference_logprob: float [T], log pi_ref of each token.
        terms: float [T], what each token added to the reward.
    """

    coef: float
    reference_logprob: tuple[float, ...]
    terms: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """One episode of T tokens.

    Attributes:
        prompt_id: Replays the prompt.
        prompt: Its text.
        completion: The answer, without EOS and without the stop string.
        completion_ids: int [T], the tokens acted, EOS included.
        tokens: What each token adds to the text, [T]; a character of several tokens stands
            with the last of them.
        finish_reason: "eos", "stop" or "length"; None where a time limit cut the episode.
        scored: Whether the task's reward could score it; False where it was cut.
        reward: The total as paid: the task's reward and whatever wrappers made of it.
        task_reward: The task's reward alone; None where the episode was cut.
        token_rewards: float [T], what was paid with each token.
        reward_terms: Weighted terms of the task's reward.
        metrics: Gold metrics.
        reward_per_token: float [T], how the task's reward spreads over the tokens, where it
            can say so.
        kl: Where KL shaping charged the episode.
        values: float [T], the agent's value before each token, where it handed them over.
        logprobs: float [T], the agent's log-probability of each token, likewise.
    """

    prompt_id: str
    prompt: str
    completion: str
    completion_ids: tuple[int, ...]
    tokens: tuple[str, ...]
    finish_reason: FinishReason | None
    scored: bool
    reward: float
    task_reward: float | None
    token_rewards: tuple[float, ...]
    reward_terms: Mapping[str, float]
    metrics: Mapping[str, float]
    reward_per_token: tuple[float, ...] | None = None
    kl: KLRecord | None = None
    values: tuple[float, ...] | None = None
    logprobs: tuple[float, ...] | None = None

    @classmethod
    def of(
        cls,
        info: Mapping[str, Any],
        *,
        tokenizer: TextTokenizer,
        prompt_id: str,
        prompt: str,
        completion_ids: Sequence[int],
        token_rewards: Sequence[float],
        values: Sequence[float] | None = None,
        logprobs: Sequence[float] | None = None,
    ) -> "EpisodeRecord":
        """Return the record of an episode that has ended.

        Args:
            info: Of its last step; without a `completion` where it was cut.
            tokenizer: Of the environment.
            prompt_id: From the reset.
            prompt: From the reset.
            completion_ids: int [T], every token acted.
            token_rewards: float [T], as paid.
            values: float [T].
            logprobs: float [T].
        """
        kl, spread = info.get("kl"), info.get("reward_per_token")
        ids = tuple(int(token) for token in completion_ids)
        paid = tuple(float(reward) for reward in token_rewards)
        return cls(
            prompt_id=prompt_id,
            prompt=prompt,
            completion=info["completion"] if "completion" in info else tokenizer.decode(ids),
            completion_ids=ids,
            tokens=tuple(token_pieces(tokenizer, ids)),
            finish_reason=info.get("finish_reason"),
            scored=info.get("scored", False),
            reward=float(sum(paid)),
            task_reward=info.get("task_reward"),
            token_rewards=paid,
            reward_terms=dict(info.get("reward_terms", {})),
            metrics=dict(info.get("metrics", {})),
            reward_per_token=None if spread is None else tuple(spread),
            kl=kl
            and KLRecord(float(kl["coef"]), tuple(kl["reference_logprob"]), tuple(kl["terms"])),
            values=None if values is None else tuple(map(float, values)),
            logprobs=None if logprobs is None else tuple(map(float, logprobs)),
        )

    def line(self) -> bytes:
        """Return the line of a file."""
        return _line(dataclasses.asdict(self))


def _line(value: Mapping[str, Any]) -> bytes:
    return json.dumps(jsonable(value), allow_nan=False).encode("ascii") + b"\n"


class RecordingWriter:
    """Appends episodes to a file; makes it, or goes on with one that has the same header."""

    def __init__(self, path: str | Path, header: Header) -> None:
        """Make the file, or cut off the torn last line of one that is there.

        Raises:
            ConfigError: if the file is something else, has another header, or cannot be written.
        """
        self.path = Path(path).absolute()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            with self.path.open("r+b") as file:
                self._resume(file, header)
        except OSError as error:
            raise ConfigError(
                f"episodes cannot be recorded to {str(path)!r}: {error.strerror}; choose another "
                "file"
            ) from error
        except ValueError as error:
            raise ConfigError(
                f"{str(path)!r} is kept as it is: {error}. Record to another file, or move this "
                "one away"
            ) from error

    @staticmethod
    def _resume(file: BinaryIO, header: Header) -> None:
        """Leave a file that ends in a whole line; ValueError if it is not this recording."""
        first = file.readline()
        # A torn header is begun anew, but only if it is one: anything else is not ours.
        if not first.endswith(b"\n") and header.line().startswith(first):
            file.truncate(0)
            file.seek(0)
            file.write(header.line())
            return
        found = parse_header(first)
        if found != header:
            raise ValueError(f"it was recorded from {_told(found)}, this is {_told(header)}")
        last = first
        for line in file:
            last = line
        if last.endswith(b"\n"):
            return
        try:
            parse_record(last)
        except ValueError:
            file.truncate(file.tell() - len(last))
        else:  # only its line feed is missing
            file.write(b"\n")

    def append(self, record: EpisodeRecord) -> None:
        """Write one episode, whole: the file is open no longer than that.

        Raises:
            FileNotFoundError: if the file was taken away, since its header went with it.
        """
        with self.path.open("r+b") as file:
            file.seek(0, os.SEEK_END)
            file.write(record.line())


def _told(header: Header) -> str:
    options = {**header.kwargs, **header.objects}
    return f"{header.env_id} {options} by textenvs {header.textenvs}"


def read_episodes(path: str | Path) -> tuple[Header, Iterator[EpisodeRecord]]:
    """Read a recording.

    The episodes are read as they are asked for; a torn last line is passed over.

    Raises:
        ConfigError: if there is no such file or it is no recording; while iterating, naming
            the line, if a line before the last is damaged or any is no record.
    """
    header, numbered = read_numbered(path)
    return header, (record for _, record in numbered)


def read_numbered(path: str | Path) -> tuple[Header, Iterator[tuple[int, EpisodeRecord]]]:
    """Read a recording; as `read_episodes`, each record with the number of its line."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            header = parse_header(file.readline())
    except OSError as error:
        why = error.strerror
        raise ConfigError(f"the recording {str(path)!r} cannot be read: {why}") from error
    except ValueError as error:
        raise ConfigError(f"{str(path)!r}, line 1: {error}") from error
    return header, _records(path)


def _records(path: Path) -> Iterator[tuple[int, EpisodeRecord]]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if number == 1:
                continue
            try:
                yield number, parse_record(line)
            except ValueError as error:
                if not line.endswith(b"\n"):  # only the last line can lack its line feed
                    return
                raise ConfigError(
                    f"{str(path)!r}, line {number}: {error}; remove the line to read the rest"
                ) from error


def parse_header(line: bytes) -> Header:
    """Return the header a line holds.

    Raises:
        ValueError: if it holds none, or one of another version.
    """
    fields = Fields.read(line)
    if fields.get("format") != FORMAT:
        raise ValueError(f"this is no recording; its first line must say {FORMAT!r}")
    if fields.get("version") != VERSION:
        raise ValueError(
            f"the recording has version {fields.get('version')!r}, this textenvs reads {VERSION}"
        )
    return Header(
        fields.optional("env_id", fields.text),
        fields.mapping("kwargs"),
        {name: str(value) for name, value in fields.mapping("objects").items()},
        fields.text("textenvs"),
    )


def parse_record(line: bytes) -> EpisodeRecord:
    """Return the episode a line holds.

    Raises:
        ValueError: naming the field that is missing or has a wrong value.
    """
    fields = Fields.read(line)
    ids = fields.naturals("completion_ids")
    length = len(ids)
    reason = fields.get("finish_reason")
    if reason is not None and reason not in get_args(FinishReason):
        raise ValueError(f"'finish_reason' must be one of {get_args(FinishReason)}, got {reason!r}")
    kl = None
    if fields.get("kl") is not None:
        charged = Fields(fields.mapping("kl"))
        kl = KLRecord(
            charged.number("coef"),
            charged.numbers("reference_logprob", length),
            charged.numbers("terms", length),
        )
    return EpisodeRecord(
        prompt_id=fields.text("prompt_id"),
        prompt=fields.text("prompt"),
        completion=fields.text("completion"),
        completion_ids=ids,
        tokens=fields.texts("tokens", length),
        finish_reason=reason,
        scored=fields.boolean("scored"),
        reward=fields.number("reward"),
        task_reward=fields.optional("task_reward", fields.number),
        token_rewards=fields.numbers("token_rewards", length),
        reward_terms=fields.figures("reward_terms"),
        metrics=fields.figures("metrics"),
        reward_per_token=fields.optional("reward_per_token", fields.numbers, length),
        kl=kl,
        values=fields.optional("values", fields.numbers, length),
        logprobs=fields.optional("logprobs", fields.numbers, length),
    )
