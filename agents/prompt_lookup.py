"""Which prompt an observation shows, for agents that must know the task and not just its text."""

import dataclasses
from typing import Any

import numpy as np

from textenvs.errors import ConfigError
from textenvs.types import Prompt

READ_WHOLE = 1024
"""A source of at most so many prompts is read to its end, so that none stands there twice
unnoticed; a longer one as far as the prompts that are asked for."""


class PromptLookup:
    """From the prompt columns of an observation to the prompt, by its tokens.

    The prompts are encoded as they are needed and kept by their tokens.
    """

    def __init__(self, env: Any) -> None:
        """Bind a text environment, single or vector; its prompts are the known ones."""
        self.batch = env.unwrapped.batch
        self._indices: dict[bytes, list[int]] = {}
        self._read = 0

    def index_of(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> int:
        """Return where the prompt stands among `env.unwrapped.prompts`.

        Args:
            input_ids: int64 [P + T], of one row.
            attention_mask: [P + T].

        Raises:
            ConfigError: if no prompt has these tokens, or several that ask different things.
        """
        start, columns = self.batch.num_prompt_columns, self.batch.input_ids.shape[1]
        if len(input_ids) != columns:
            raise ConfigError(
                f"the observation has {len(input_ids)} columns, but those of this agent's "
                f"environment have {columns}; give the agent the environment that it is to play"
            )
        tokens = np.asarray(input_ids[:start], np.int64)[np.asarray(attention_mask[:start], bool)]
        found = self._find(tokens.tobytes())
        if not found:
            text = self.batch.tokenizer.decode(tokens.tolist())
            raise ConfigError(
                f"the observation shows the prompt {text!r:.80}, which is none of this agent's "
                "environment; make the agent with the same environment, split and tokenizer"
            )
        self._check_unambiguous([self.batch.prompts[i] for i in found])
        return found[0]

    def _find(self, key: bytes) -> list[int]:
        total = len(self.batch.prompts)
        while self._read < total and (total <= READ_WHOLE or key not in self._indices):
            ids = self.batch.encoded(self._read)[1]
            self._indices.setdefault(ids.tobytes(), []).append(self._read)
            self._read += 1
        return self._indices.get(key, [])

    def _check_unambiguous(self, prompts: list[Prompt]) -> None:
        """Refuse prompts that read alike and are not the same task."""
        tasks = [dataclasses.replace(prompt, id="", group="") for prompt in prompts]
        if any(task != tasks[0] for task in tasks):
            ids = ", ".join(repr(prompt.id) for prompt in prompts)
            raise ConfigError(
                f"the prompts {ids} read alike, token by token, but are different tasks, so an "
                "observation does not tell which is meant; word them differently, or keep one"
            )
