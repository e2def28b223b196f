"""Rewards for form alone: `RegexFormat` and `JsonFormat`.

Form says nothing of content: the shortest text of the right form earns everything.
"""

import importlib
import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from textenvs.errors import ConfigError, RewardError
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.rewards.optional import require_package
from textenvs.rewards.options import checked_count
from textenvs.types import Episode, Prompt

THINK_ANSWER = r"\s*<think>(?:(?!</?think>).)+</think>\s*<answer>(?:(?!</?answer>).)+</answer>\s*"
"""Reasoning, then the answer, each within its tags once, as the format reward of DeepSeek-R1
asks (arXiv:2501.12948, section 2.2.2). Dots match line breaks (`RegexFormat` sees to it)."""
LONGEST, DEEPEST = 20_000, 64


class RegexFormat(BaseReward):
    """1 for an answer of which all matches a regular expression, else 0.

    An empty answer gets 0, whatever the pattern says, and so does one over `max_characters`.
    Needs the package `regex`, since it can be stopped: an answer that the pattern takes
    longer than `timeout_s` over (catastrophic backtracking) is not scored, rather than
    scored by how fast the machine is.
    """

    name = "regex_format"

    def __init__(
        self,
        pattern: str = THINK_ANSWER,
        *,
        search: bool = False,
        max_characters: int = LONGEST,
        timeout_s: float = 1.0,
    ) -> None:
        r"""Compile the pattern.

        Args:
            pattern: In the syntax of `regex`, which is that of `re` and more; "." matches
                line breaks too. "(?i)" in front ignores case.
            search: Whether a match anywhere in the answer is enough.
            max_characters: The longest answer that is read.
            timeout_s: Seconds an answer may take, above 0.

        Raises:
            ConfigError: if the pattern is none, or an option out of range.
            MissingDependencyError: if `regex` is absent.
        """
        require_package("regex", "the reward 'RegexFormat'")
        regex = importlib.import_module("regex")
        try:
            self._pattern = regex.compile(pattern, regex.DOTALL)
        except (regex.error, TypeError) as error:
            raise ConfigError(f"{pattern!r} is no regular expression: {error}") from error
        if not 0 < timeout_s < float("inf"):
            raise ConfigError(f"timeout_s must be above 0 and finite, got {timeout_s}; default 1")
        self.pattern, self.search = pattern, search
        self.max_characters = checked_count("max_characters", max_characters, LONGEST)
        self.timeout_s = float(timeout_s)

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch."""
        return RewardResult.from_scores(self.name, [self._score(e.completion) for e in episodes])

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return (0, 1)."""
        return (0.0, 1.0)

    def _score(self, text: str) -> float | None:
        if not text.strip() or len(text) > self.max_characters:
            return 0.0
        match = self._pattern.search if self.search else self._pattern.fullmatch
        try:
            return float(match(text, timeout=self.timeout_s) is not None)
        except TimeoutError:
            return None


class JsonFormat(BaseReward):
    """1 for an answer that is one JSON document, and valid by a schema if there is one, else 0.

    The answer is JSON as RFC 8259 has it: nothing around it, no NaN, no name twice in an
    object (which of the two counts, readers disagree on). An empty answer gets 0, and so do
    one over `max_characters` and one nested more than 64 deep. Schemas need the package
    `jsonschema`.

    "{}" or "null" earns everything where the schema does not ask for more: state `required`,
    `minLength`, `minItems`.
    """

    name = "json_format"

    def __init__(
        self, schema: Mapping[str, Any] | None = None, *, max_characters: int = LONGEST
    ) -> None:
        """Check the schema.

        Args:
            schema: A JSON schema, draft 2020-12 unless its "$schema" says otherwise; None
                asks for JSON alone. It must stand by itself: nothing is fetched.
            max_characters: The longest answer that is read.

        Raises:
            ConfigError: if it is no schema, or refers to what is not in it.
            MissingDependencyError: if there is a schema and `jsonschema` is absent.
        """
        self.schema = None if schema is None else dict(schema)
        self.max_characters = checked_count("max_characters", max_characters, LONGEST)
        self._key: str | None = None
        if self.schema is not None:
            try:
                self._key = json.dumps(self.schema, sort_keys=True)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"a JSON schema is made of JSON alone: {error}") from error
            _validator(self._key)

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch.

        Raises:
            RewardError: if the schema refers to what is not in it.
        """
        return RewardResult.from_scores(self.name, [self._score(e.completion) for e in episodes])

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return (0, 1)."""
        return (0.0, 1.0)

    def _score(self, text: str) -> float:
        if len(text) > self.max_characters:
            return 0.0
        try:
            document = json.loads(
                text, object_pairs_hook=_object_without_twins, parse_constant=_refuse
            )
        except (ValueError, RecursionError):
            return 0.0
        if _depth(document) > DEEPEST:
            return 0.0
        return 1.0 if self._key is None else float(_is_valid(_validator(self._key), document))


@lru_cache(maxsize=64)
def _validator(key: str) -> Any:
    """Return the validator of a schema in JSON, which was tried on a few documents.

    It is kept here and not by the reward, which must be fit to be sent to another process.

    Raises:
        ConfigError: if it is no schema, refers to what is not in it, or to itself for ever.
    """
    require_package("jsonschema", "the reward 'JsonFormat' with a schema")
    jsonschema = importlib.import_module("jsonschema")
    referencing = importlib.import_module("referencing")
    schema = json.loads(key)
    kind = jsonschema.validators.validator_for(schema, jsonschema.Draft202012Validator)
    try:
        kind.check_schema(schema)
        # A registry of its own: the default one would fetch remote schemas.
        validator = kind(schema, registry=referencing.Registry())
        trials: tuple[Any, ...] = (None, {}, [], "", 0)
        for document in trials:
            _is_valid(validator, document)
    except jsonschema.SchemaError as error:
        raise ConfigError(f"this is no JSON schema: {error.message:.200}") from error
    except RecursionError as error:
        raise ConfigError("the JSON schema refers to itself for ever") from error
    except RewardError as error:
        raise ConfigError(str(error)) from error
    return validator


def _is_valid(validator: Any, document: Any) -> bool:
    referencing = importlib.import_module("referencing")
    try:
        return bool(validator.is_valid(document))
    except referencing.exceptions.Unresolvable as error:
        raise RewardError(
            f"the JSON schema refers to {error.ref!r:.100}, which is not in it; put it in under "
            "'$defs': nothing is fetched"
        ) from error


def _object_without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        raise ValueError("a name stands twice in an object")
    return fields


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


def _depth(document: Any) -> int:
    """Return how deep arrays and objects are nested, without recursion."""
    depth, level = 0, [document]
    while level := [item for item in level if isinstance(item, (list, dict))]:
        depth += 1
        level = [x for item in level for x in (item.values() if isinstance(item, dict) else item)]
    return depth
