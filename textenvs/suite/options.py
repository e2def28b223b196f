"""Options that several families share."""

from collections.abc import Sequence
from typing import Any

from textenvs.errors import PromptError
from textenvs.types import Split


def first_prompts(choices: Sequence[Any], n_prompts: int | None, split: Split) -> Sequence[Any]:
    """Return the first `n_prompts` of what a split offers, all of it for None.

    Raises:
        PromptError: if the split offers fewer, or `n_prompts` is no count.
    """
    if n_prompts is None:
        return choices
    if isinstance(n_prompts, bool) or not isinstance(n_prompts, int) or n_prompts < 1:
        raise PromptError(f"n_prompts must be at least 1, got {n_prompts!r}")
    if n_prompts > len(choices):
        raise PromptError(
            f"n_prompts is {n_prompts}, but the {split} split has {len(choices)}; lower it, or "
            "pass None to use all of them"
        )
    return choices[:n_prompts]
