"""What a mask is, how masks combine, and how rows are followed token by token.

Shape letters: B rows, P prompt columns, T token budget, V vocabulary.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar, get_args

import numpy as np

from textenvs.chat import encode_prompt
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.prompts import too_long
from textenvs.tokenization import TextTokenizer
from textenvs.types import Prompt

OnEmpty = Literal["error", "eos"]
State = TypeVar("State")


@dataclass(frozen=True, slots=True)
class MaskSetting:
    """What a mask must know of an environment.

    Attributes:
        tokenizer: Of the environment; V is its `vocab_size`.
        num_prompt_columns: P.
        max_new_tokens: T.
    """

    tokenizer: TextTokenizer
    num_prompt_columns: int
    max_new_tokens: int


@dataclass(frozen=True, slots=True)
class Rows:
    """Where a batch of episodes stands; read it, keep copies only, change nothing.

    Attributes:
        prompts: [B], what each row answers.
        completions: [B], the tokens acted so far.
        active: bool [B], rows whose episode goes on; the others need no mask.
        input_ids: int64 [B, P + T], as observed.
        attention_mask: int8 [B, P + T].
    """

    prompts: Sequence[Prompt]
    completions: Sequence[Sequence[int]]
    active: np.ndarray
    input_ids: np.ndarray
    attention_mask: np.ndarray


class BoundMask(Protocol):
    """A mask at work in one environment."""

    def fill(self, rows: Rows, allowed: np.ndarray) -> None:
        """Mark the tokens that may come next.

        The answer depends on the prompt and the completion of each row alone. What was
        asked before may save work, and never changes an answer.

        Args:
            rows: Where the episodes stand.
            allowed: bool [B, V], False everywhere; set the active rows in place.
        """


class TokenMask(ABC):
    """Which tokens may come next, as a recipe; `a & b` allows what both allow."""

    @abstractmethod
    def bind(self, setting: MaskSetting) -> BoundMask:
        """Return the mask for one environment.

        Raises:
            TokenizerError: if the tokenizer cannot serve this mask.
        """

    def __and__(self, other: "TokenMask") -> "Intersection":
        """Return the mask that allows what both allow."""
        if not isinstance(other, TokenMask):
            return NotImplemented
        return Intersection((*_parts(self), *_parts(other)))

    def allowed(
        self,
        tokenizer: TextTokenizer,
        prompt: Prompt,
        completion_ids: Sequence[int] = (),
        *,
        max_prompt_tokens: int = 512,
        max_new_tokens: int = 32,
    ) -> np.ndarray:
        """Return what may follow one unfinished answer; made to look at, not to step with.

        Args:
            tokenizer: As the environment's.
            prompt: The task.
            completion_ids: The tokens so far, fewer than `max_new_tokens`.
            max_prompt_tokens: P.
            max_new_tokens: T.

        Returns:
            bool [V].

        Raises:
            PromptError: if the prompt does not fit.
            ConfigError: if the completion does not.
        """
        ids = encode_prompt(tokenizer, prompt)
        if len(ids) > max_prompt_tokens:
            raise too_long(prompt, len(ids), max_prompt_tokens)
        if len(completion_ids) >= max_new_tokens:
            raise ConfigError(
                f"no token may follow {len(completion_ids)} tokens with max_new_tokens "
                f"{max_new_tokens}; give fewer"
            )
        first, stop = max_prompt_tokens - len(ids), max_prompt_tokens + len(completion_ids)
        input_ids = np.full((1, max_prompt_tokens + max_new_tokens), tokenizer.pad_id, np.int64)
        attention_mask = np.zeros(input_ids.shape, np.int8)
        input_ids[0, first:stop] = [*ids, *completion_ids]
        attention_mask[0, first:stop] = 1
        completion = [int(token) for token in completion_ids]
        rows = Rows([prompt], [completion], np.ones(1, bool), input_ids, attention_mask)
        found = np.zeros((1, tokenizer.vocab_size), bool)
        self.bind(MaskSetting(tokenizer, max_prompt_tokens, max_new_tokens)).fill(rows, found)
        return found[0]


@dataclass(frozen=True)
class Intersection(TokenMask):
    """Allow what every part allows.

    Attributes:
        parts: At least two masks.
        on_empty: Where no token is left, "error" leaves the row without one, which the
            wrapper reports, and "eos" allows EOS.
    """

    parts: tuple[TokenMask, ...]
    on_empty: OnEmpty = "error"

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ConfigError: if there are fewer than two parts.
            UnknownNameError: if `on_empty` is unknown.
        """
        if len(self.parts) < 2 or not all(isinstance(part, TokenMask) for part in self.parts):
            raise ConfigError(f"an intersection needs two or more masks, got {self.parts!r:.80}")
        if self.on_empty not in get_args(OnEmpty):
            raise UnknownNameError("on_empty", self.on_empty, get_args(OnEmpty))

    def bind(self, setting: MaskSetting) -> "BoundIntersection":
        """Bind every part."""
        eos_id = setting.tokenizer.eos_id if self.on_empty == "eos" else None
        return BoundIntersection([part.bind(setting) for part in self.parts], eos_id)


class BoundIntersection:
    """An `Intersection` at work."""

    def __init__(self, parts: Sequence[BoundMask], eos_id: int | None) -> None:
        """Keep the parts, and the token that is allowed where nothing else is."""
        self._parts, self._eos_id = parts, eos_id

    def fill(self, rows: Rows, allowed: np.ndarray) -> None:
        """Mark the tokens that every part marks."""
        self._parts[0].fill(rows, allowed)
        for part in self._parts[1:]:
            also = np.zeros_like(allowed)
            part.fill(rows, also)
            allowed &= also
        if self._eos_id is not None:
            allowed[rows.active & ~allowed.any(1), self._eos_id] = True


def _parts(mask: TokenMask) -> tuple[TokenMask, ...]:
    """Return the parts of `a & b`, so that a chain of `&` is one intersection."""
    if isinstance(mask, Intersection) and mask.on_empty == "error":
        return mask.parts
    return (mask,)


class Cursors(Generic[State]):
    """The state of each row, moved on by the tokens that are new since the last call.

    A row that begins another episode, is replayed or is put back is walked from its
    start; so a state is always what the prompt and the completion alone make it.
    """

    def __init__(
        self,
        start: Callable[[Prompt], State],
        advance: Callable[[State, int], State | None],
    ) -> None:
        """Keep the two rules.

        Args:
            start: From a prompt to the state before the first token.
            advance: From a state, which it may use up, and a token to the next state;
                None where the token was not allowed. There is no way back from None.
        """
        self._start, self._advance = start, advance
        self._kept: dict[int, tuple[Prompt, list[int], State | None]] = {}

    def at(self, row: int, rows: Rows) -> State | None:
        """Return the state of a row."""
        prompt, ids = rows.prompts[row], list(rows.completions[row])
        known: list[int] = []
        state: State | None = None
        if row in self._kept:
            last, known, state = self._kept[row]
        if row not in self._kept or last is not prompt or ids[: len(known)] != known:
            known, state = [], self._start(prompt)
        for token in ids[len(known) :]:
            if state is None:
                break
            state = self._advance(state, token)
        self._kept[row] = (prompt, ids, state)
        return state
