"""Agents that decide a whole answer as an episode begins, and then only say it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from agents.prompt_lookup import PromptLookup
from textenvs.errors import ConfigError

Decide = Callable[[Sequence[int]], Sequence[Sequence[int]]]
"""From indices of prompts to the tokens of an answer to each."""


class Plans(NamedTuple):
    """What each row is going to say.

    Attributes:
        tokens: int64 [B, T], EOS behind the end.
        played: int64 [B], how many have been said.
    """

    tokens: np.ndarray
    played: np.ndarray


class PlanPlayer:
    """Plays answers that are decided when an episode begins, behind the `predict` of SB3."""

    def __init__(self, env: Any, decide: Decide) -> None:
        """Bind an environment and the one who decides.

        Args:
            env: A text environment, single or vector: the one to be played.
            decide: Called with the prompts of the rows that begin.
        """
        self.batch = env.unwrapped.batch
        self.lookup = PromptLookup(env)
        self.decide = decide

    def predict(
        self,
        observation: Mapping[str, np.ndarray],
        state: Plans | None = None,
        episode_start: np.ndarray | None = None,
    ) -> tuple[np.ndarray, Plans]:
        """Return the next planned token of each row; EOS where a plan is at its end.

        Args:
            observation: Of one environment or of a batch.
            state: What the call before returned; None begins an episode in every row.
            episode_start: bool [B], rows that have just been reset.

        Raises:
            ConfigError: if an episode to begin has begun already, or its prompt is unknown.
        """
        single = observation["input_ids"].ndim == 1
        ids, mask = (np.atleast_2d(observation[k]) for k in ("input_ids", "attention_mask"))
        if state is None:
            shape, fresh = (len(ids), self.batch.max_new_tokens), np.ones(len(ids), bool)
            tokens, played = np.zeros(shape, np.int64), np.zeros(len(ids), np.int64)
        else:
            fresh = np.zeros(len(ids), bool)
            if episode_start is not None:
                fresh |= np.atleast_1d(np.asarray(episode_start, bool))
            tokens, played = state.tokens.copy(), state.played.copy()
        rows = np.flatnonzero(fresh)
        if len(rows):
            if mask[rows, self.batch.num_prompt_columns :].any():
                raise ConfigError(
                    "the answer is planned at the beginning of an episode, but this one is under "
                    "way; pass the state that predict returned, and episode_start"
                )
            found = [self.lookup.index_of(ids[row], mask[row]) for row in rows]
            tokens[rows], played[rows] = self.batch.tokenizer.eos_id, 0
            for row, answer in zip(rows, self.decide(found), strict=True):
                kept = answer[: tokens.shape[1]]
                tokens[row, : len(kept)] = kept
        actions = tokens[np.arange(len(ids)), np.minimum(played, tokens.shape[1] - 1)]
        return (actions[0] if single else actions), Plans(tokens, played + 1)
