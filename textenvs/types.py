"""The records that travel between prompts, environments and rewards.

Shape letters: B batch, T tokens of a completion, P prompt columns, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

FinishReason = Literal["eos", "stop", "length"]
"""Why an episode ended: the EOS token, a stop string, or the token budget."""

Split = Literal["train", "validation", "test"]


class Item(NamedTuple):
    """One entry of a list a model may choose from."""

    title: str
    category: str


@dataclass(frozen=True, slots=True)
class Prompt:
    """One task.

    Attributes:
        id: Unique within its source; replays the task through `reset(options={"prompt_id": id})`.
        text: What the policy reads.
        context: What an answer may draw on; for `ContextSelect-v0` a tuple of `Item`.
        reference: A right answer, or None where none is known.
        group: The unit of splitting: two prompts of one group never stand in two splits.
        metadata: Anything else, JSON-able.
        messages: A conversation of `{"role": ..., "content": ...}`; the environment renders
            it with the tokenizer's chat template, and `text` is then what came out.
    """

    id: str
    text: str
    context: Any = None
    reference: str | None = None
    group: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict)
    messages: tuple[Mapping[str, str], ...] | None = None


@dataclass(frozen=True, slots=True)
class Episode:
    """One finished answer, as a reward sees it.

    Attributes:
        prompt: The task.
        completion: The answer's text, without EOS and without the stop string.
        completion_ids: The tokens that were acted, EOS included; empty when text is
            scored without having been generated.
        finish_reason: Why it ended.
    """

    prompt: Prompt
    completion: str
    completion_ids: Sequence[int] = ()
    finish_reason: FinishReason = "eos"
