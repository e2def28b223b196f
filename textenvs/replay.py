"""Replay: recorded tokens through the environment again, compared bit for bit.

The tokens go through `EpisodeBatch`, the state machine behind `TextEnv.step` and
`TextVectorEnv.step`, many episodes side by side. Where a wrapper shaped the reward
(reference KL, for one), what was paid is not what the task scored; a recording keeps
both, and it is the task's reward that is compared.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from textenvs.episode_batch import EpisodeBatch
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.json_fields import jsonable
from textenvs.recording import EpisodeRecord, Header, read_numbered
from textenvs.registration import list_envs

ROWS = 64
"""Episodes replayed side by side."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that came out otherwise.

    Attributes:
        line: Number of the line in the recording.
        prompt_id: The episode's prompt.
        what: Field of the record, with the term's or metric's name behind a dot.
        recorded: As recorded.
        replayed: As it came out now.
    """

    line: int
    prompt_id: str
    what: str
    recorded: Any
    replayed: Any


@dataclass
class ReplayReport:
    """What a replay found.

    Attributes:
        header: Of the recording.
        episodes: Number of them.
        equal: Those without a difference.
        rescored: Whether another reward was asked for; scores are then no differences.
        differences: In the order of the lines.
        recorded: Score, terms and metrics of each scored episode, name -> float [N].
        replayed: The same as they came out now.
    """

    header: Header
    episodes: int = 0
    equal: int = 0
    rescored: bool = False
    differences: list[Difference] = field(default_factory=list)
    recorded: dict[str, list[float]] = field(default_factory=dict)
    replayed: dict[str, list[float]] = field(default_factory=dict)

    @property
    def ok(self) -> bool:
        """Whether every episode came out the same."""
        return self.equal == self.episodes

    def means(self) -> dict[str, tuple[float | None, float | None]]:
        """Return name -> (recorded mean, replayed mean); None where there is no number."""
        names = dict.fromkeys([*self.recorded, *self.replayed])
        return {name: (_mean(self.recorded, name), _mean(self.replayed, name)) for name in names}

    def as_dict(self) -> dict[str, Any]:
        """Return the report as JSON holds it."""
        fields = ("line", "prompt_id", "what", "recorded", "replayed")
        report = {
            "environment": self.header.env_id,
            "episodes": self.episodes,
            "equal": self.equal,
            "rescored": self.rescored,
            "differences": [{f: getattr(d, f) for f in fields} for d in self.differences],
            "means": {n: {"recorded": r, "replayed": p} for n, (r, p) in self.means().items()},
        }
        return dict(jsonable(report))


def replay(
    path: str | Path,
    env: Any = None,
    *,
    reward: Any = None,
    options: Mapping[str, Any] | None = None,
) -> ReplayReport:
    """Replay a recording.

    Args:
        path: The recording.
        env: A `TextEnv` or `TextVectorEnv` to replay in, possibly wrapped; None makes the
            one of the header. It is not stepped: a fresh batch with its task is.
        reward: Another reward to score with (name, function, object); None keeps the
            environment's and compares the scores.
        options: Options of the environment over those of the header.

    Returns:
        What differs: prompt, completion, finish reason, task reward, terms and metrics,
        floats by their bits; and a total that is not the sum of what its tokens were paid.

    Raises:
        ConfigError: if the recording is damaged, or its environment cannot be made.
        UnknownNameError: if the environment's id is not registered.
    """
    header, numbered = read_numbered(path)
    if env is None:
        env = _made(header, reward, dict(options or {}))
    elif options:
        raise ConfigError("options make an environment; pass them or env, not both")
    arguments = env.unwrapped.batch.task_arguments()
    if reward is not None:
        arguments["reward"] = reward
    batch = EpisodeBatch(num_rows=ROWS, **arguments)
    report = ReplayReport(header, rescored=reward is not None)
    while chunk := list(islice(numbered, ROWS)):
        outcomes = _replayed(batch, [record for _, record in chunk])
        for (line, record), outcome in zip(chunk, outcomes, strict=True):
            _add(report, line, record, outcome)
    return report


def _made(header: Header, reward: Any, options: dict[str, Any]) -> Any:
    """Make the environment a header names."""
    if header.env_id is None:
        raise ConfigError(
            "the recording names no environment, because it was not made by gym.make; call "
            "textenvs.replay.replay(path, env) with one like it"
        )
    if header.env_id not in gym.registry:
        raise UnknownNameError(
            "environment", header.env_id, list_envs(), "Import what registers it first."
        )
    if reward is not None:  # the batch gets it too; here it stands in for one not rebuilt
        options["reward"] = reward
    for name, what in header.objects.items():
        if name not in options:
            raise ConfigError(
                f"the recording was made with the option {name}={what}, an object that cannot be "
                f"rebuilt from a file; give {name} again, or call textenvs.replay.replay(path, env)"
            )
    return gym.make(header.env_id, **{**header.kwargs, **options})


@dataclass(frozen=True, slots=True)
class _Outcome:
    """An episode replayed: the prompt's text, and how it ended or why it did not.

    Attributes:
        prompt: None where the environment has no such prompt.
        info: Of its end; None where it did not end.
        completion: Its text.
        taken: Tokens taken; fewer than recorded where it ended early.
        foreign: A token outside the vocabulary; the episode stops before it.
    """

    prompt: str | None = None
    info: Mapping[str, Any] | None = None
    completion: str = ""
    taken: int = 0
    foreign: int | None = None


def _replayed(batch: EpisodeBatch, records: Sequence[EpisodeRecord]) -> list[_Outcome]:
    """Return the outcome of each record; there are at most as many as rows."""
    prompts: dict[int, str] = {}
    tokens: list[list[int]] = []
    foreign: dict[int, int] = {}
    for row, record in enumerate(records):
        ids = list(record.completion_ids)
        first = next((t for t, i in enumerate(ids) if i >= batch.tokenizer.vocab_size), None)
        if first is not None:
            foreign[row] = ids[first]
            ids = ids[:first]
        tokens.append(ids)
        try:
            index = batch.prompts.index_of(record.prompt_id)
        except UnknownNameError:
            continue
        prompts[row] = batch.start(row, index)["prompt"]
    infos: dict[int, Mapping[str, Any]] = {}
    alive = [row for row in prompts if tokens[row]]
    time = 0
    while alive:
        acted = np.array([tokens[row][time] for row in alive], np.int64)
        finished = batch.advance(acted, np.array(alive))
        if finished is not None:
            infos |= zip(finished.rows.tolist(), finished.infos, strict=True)
        time += 1
        alive = [row for row in alive if row not in infos and time < len(tokens[row])]
    outcomes = []
    for row in range(len(records)):
        if row not in prompts:
            outcomes.append(_Outcome())
            continue
        ids = batch.completion_ids(row)
        info = infos.get(row)
        text = batch.tokenizer.decode(ids) if info is None else info["completion"]
        outcomes.append(_Outcome(prompts[row], info, text, len(ids), foreign.get(row)))
    return outcomes


def _add(report: ReplayReport, line: int, record: EpisodeRecord, outcome: _Outcome) -> None:
    """Compare one episode and add it to the report."""
    info = outcome.info or {}
    found = [
        Difference(line, record.prompt_id, what, recorded, replayed)
        for what, recorded, replayed in _differences(record, outcome, scores=not report.rescored)
    ]
    report.differences += found
    report.episodes += 1
    report.equal += not found
    if record.scored:
        terms, metrics = record.reward_terms, record.metrics
        _collect(report.recorded, record.task_reward, terms, metrics)
    if info.get("scored"):
        _collect(report.replayed, info["task_reward"], info["reward_terms"], info["metrics"])


def _differences(
    record: EpisodeRecord, outcome: _Outcome, *, scores: bool
) -> Iterator[tuple[str, Any, Any]]:
    """Yield what came out otherwise, as (what, recorded, replayed)."""
    if outcome.prompt is None:
        yield "prompt_id", record.prompt_id, "no such prompt"
        return
    if outcome.foreign is not None:
        yield "completion_ids", outcome.foreign, "outside the vocabulary"
        return
    info = outcome.info or {}
    pairs: list[tuple[str, Any, Any]] = [
        ("prompt", record.prompt, outcome.prompt),
        ("tokens acted", len(record.completion_ids), outcome.taken),
        ("finish_reason", record.finish_reason, info.get("finish_reason")),
        ("completion", record.completion, outcome.completion),
        *_mapping_pairs("metrics", record.metrics, info.get("metrics", {})),
        ("reward", record.reward, float(sum(record.token_rewards))),
    ]
    if scores:
        spread = info.get("reward_per_token")
        pairs += [
            ("scored", record.scored, info.get("scored", False)),
            ("task_reward", record.task_reward, info.get("task_reward")),
            *_mapping_pairs("reward_terms", record.reward_terms, info.get("reward_terms", {})),
            ("reward_per_token", record.reward_per_token, spread and tuple(spread)),
        ]
    for what, recorded, replayed in pairs:
        if not _same(recorded, replayed):
            yield what, recorded, replayed


def _mapping_pairs(
    what: str, recorded: Mapping[str, float], replayed: Mapping[str, float]
) -> Iterable[tuple[str, Any, Any]]:
    for name in dict.fromkeys([*recorded, *replayed]):
        yield f"{what}.{name}", recorded.get(name), replayed.get(name)


def _same(one: Any, two: Any) -> bool:
    """Return whether two values are equal; floats by their bits, all NaN as one."""
    if isinstance(one, float) and isinstance(two, float):
        return one.hex() == two.hex()
    if isinstance(one, tuple) and isinstance(two, tuple):
        return len(one) == len(two) and all(map(_same, one, two))
    return bool(one == two)


def _collect(
    into: dict[str, list[float]],
    reward: float | None,
    terms: Mapping[str, float],
    metrics: Mapping[str, float],
) -> None:
    named = {"task_reward": reward}
    named |= {f"reward_terms.{name}": value for name, value in terms.items()}
    named |= {f"metrics.{name}": value for name, value in metrics.items()}
    for name, value in named.items():
        into.setdefault(name, []).append(math.nan if value is None else value)


def _mean(values: Mapping[str, Sequence[float]], name: str) -> float | None:
    numbers = values.get(name)
    return float(np.mean(numbers)) if numbers else None
