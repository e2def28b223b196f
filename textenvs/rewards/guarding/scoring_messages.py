"""What a guard and its scoring process say to each other.

Requests are pickled: they hold prompts, whose context may be any object, and go from the
guard to its own process. Answers are JSON, since what has read the model's text is not
trusted to send anything that could be executed; floats read back to the same bits.
"""

import dataclasses
import json
import pickle
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any

import numpy as np

from textenvs.errors import ConfigError
from textenvs.rewards.base import BaseReward, Reward, RewardResult, Term
from textenvs.rewards.guarding.scored_batch import Failure, ScoredBatch, described, score_batch
from textenvs.types import Episode, Prompt

PROMPTS_KEPT = 4096
"""The worker forgets all prompts after so many."""
fields_of = attrgetter(*(f.name for f in dataclasses.fields(Episode) if f.name != "prompt"))
"""What an episode is made of beside its prompt."""


def to_json(outcome: ScoredBatch | Failure, state: Mapping[str, Any] | None = None) -> bytes:
    """Return an outcome as JSON.

    Args:
        outcome: Of scoring a batch.
        state: Of the reward, where scoring has changed it.
    """
    if isinstance(outcome, Failure):
        return json.dumps({"failure": [outcome.kind, outcome.text]}).encode()
    result = outcome.result
    spread = result.per_token
    values = {
        "scores": result.scores.tolist(),
        "terms": {
            name: [term.score.tolist(), term.weight, term.status]
            for name, term in result.terms.items()
        },
        "per_token": None if spread is None else [row.tolist() for row in spread],
        "failures": [[row, f.kind, f.text] for row, f in outcome.failures.items()],
        "state": state,
    }
    return json.dumps(values).encode()


def from_json(text: bytes) -> tuple[ScoredBatch | Failure, dict[str, Any] | None]:
    """Return the outcome and the state that `to_json` wrote."""
    values: dict[str, Any] = json.loads(text)
    if "failure" in values:
        return Failure(*values["failure"]), None
    terms = {
        name: Term(np.array(score, np.float64), weight, tuple(status))
        for name, (score, weight, status) in values["terms"].items()
    }
    spread = values["per_token"]
    rows = None if spread is None else [np.array(row, np.float64) for row in spread]
    result = RewardResult(np.array(values["scores"], np.float64), terms, rows)
    failures = {row: Failure(kind, text) for row, kind, text in values["failures"]}
    return ScoredBatch(result, failures), values["state"]


class RequestWriter:
    """The guard's side: episodes in, requests out.

    A prompt is sent once and then named by its number, since prompts are long and come again.
    """

    def __init__(self) -> None:
        """Begin with no prompt sent."""
        self._sent: dict[str, tuple[int, Prompt]] = {}
        self._count = 0

    def request(self, episodes: Sequence[Episode]) -> bytes:
        """Return what `Scorer.answer` reads.

        Raises:
            ConfigError: if a prompt holds what cannot be sent to another process.
        """
        if self._count > PROMPTS_KEPT:
            self._sent, self._count = {}, 0
        keep, new, rows = self._count, [], []
        for episode in episodes:
            number, sent = self._sent.get(episode.prompt.id, (-1, None))
            if not _same(sent, episode.prompt):
                number = self._count
                new.append(portable(episode.prompt, f"the prompt {episode.prompt.id!r}"))
                self._sent[episode.prompt.id] = (number, episode.prompt)
                self._count += 1
            rows.append((number, *fields_of(episode)))
        return pickle.dumps((keep, new, rows), pickle.HIGHEST_PROTOCOL)


def _same(sent: Prompt | None, prompt: Prompt) -> bool:
    if sent is prompt:
        return True
    try:
        return bool(sent == prompt)
    except ValueError:  # an array in it has no single truth value
        return False


def state_of(reward: Reward) -> dict[str, Any]:
    """Return what scoring has changed in a reward; {} where nothing is kept."""
    return reward.state_dict() if isinstance(reward, BaseReward) else {}


def load_state(reward: Reward, state: Mapping[str, Any]) -> None:
    """Have a reward go on where `state_of` was taken."""
    if isinstance(reward, BaseReward) and state:
        reward.load_state_dict(state)


def portable(value: Any, what: str) -> bytes:
    """Return a value pickled so that another process can read it.

    Functions and classes of the main program, of notebooks and of functions go by value.

    Args:
        value: Anything.
        what: Its name in the error.

    Raises:
        ConfigError: if it cannot be pickled.
    """
    try:
        pickled = pickle.dumps(value, pickle.HIGHEST_PROTOCOL)
        if b"__main__" not in pickled:  # which is another module there
            return pickled
    except Exception:  # pickle gives up in many ways; the next try tells
        pass
    import cloudpickle

    try:
        return bytes(cloudpickle.dumps(value))
    except Exception as error:
        raise ConfigError(
            f"{what} cannot be sent to a scoring process: {described(error)}; leave out what is "
            'tied to this process, such as open files, or name it as "module:object"'
        ) from error


class Scorer:
    """The worker's side: requests in, answers out.

    What scoring changes in a reward goes back with the answer, so that a new process can go
    on from there; a batch that fails changes nothing.
    """

    def __init__(self, reward: Reward, *, allow_unscored: bool) -> None:
        """Keep the reward; see `score_batch` for the option."""
        self._reward, self._allow_unscored = reward, allow_unscored
        self._prompts: list[Prompt] = []
        self._state = json.dumps(state_of(reward))

    def answer(self, request: bytes) -> bytes:
        """Return the outcome of a request that `RequestWriter` wrote, as JSON."""
        keep, new, rows = pickle.loads(request)
        try:
            self._prompts[keep:] = [pickle.loads(prompt) for prompt in new]
        except Exception as error:  # a class of the prompt's may do anything
            text = f"a prompt cannot be rebuilt in the scoring process: {described(error)}"
            return to_json(Failure("start", text))
        episodes = [Episode(self._prompts[number], *values) for number, *values in rows]
        outcome = score_batch(self._reward, episodes, allow_unscored=self._allow_unscored)
        state = state_of(self._reward)
        text = json.dumps(state)
        if text == self._state:
            return to_json(outcome)
        if isinstance(outcome, Failure):
            load_state(self._reward, json.loads(self._state))
            return to_json(outcome)
        self._state = text
        return to_json(outcome, state)
