"""Every completion of an environment, listed by stepping it through all of them.

Ends, stop strings, the budget and the scores are thus the environment's own.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from textenvs.env import TextEnv
from textenvs.episode_batch import EpisodeBatch
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.types import Prompt

PolicyLogprobs = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From `input_ids` int64 [N, P + T] and `attention_mask` [N, P + T] of finished episodes to
float [N, T], the log-probability of each token of the completions; what stands behind the end
of a completion is ignored. `Reference.completion_logprobs` is one."""

NextLogprobs = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""From the same arrays, as they are while an episode runs, to float [N, V], the
log-probabilities of the next token."""

MAX_COMPLETIONS = 500_000
"""The most completions, over all prompts, that are listed."""

CHUNK = 2048
MASS_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Completions:
    """Every completion of every prompt of an environment; M in all.

    Attributes:
        prompts: All prompts of the environment, X of them.
        prompt_ids: int64 [X, P], what stands in the prompt columns.
        prompt_mask: int8 [X, P].
        index: int64 [M], which prompt a completion answers; ascending.
        tokens: int64 [M, T], padded behind the end.
        mask: int8 [M, T].
        rewards: float64 [M].
        vocab_size: V.
        pad_id: What `tokens` is padded with.
    """

    prompts: tuple[Prompt, ...]
    prompt_ids: np.ndarray
    prompt_mask: np.ndarray
    index: np.ndarray
    tokens: np.ndarray
    mask: np.ndarray
    rewards: np.ndarray
    vocab_size: int
    pad_id: int

    def __len__(self) -> int:
        """Return M."""
        return len(self.rewards)

    def sequence_logprobs(
        self, policy_logprobs: PolicyLogprobs, who: str = "the policy"
    ) -> np.ndarray:
        """Return float64 [M], the log-probability of each completion under a policy.

        Those of one prompt are made to add up to exactly 1, which single precision misses.

        Raises:
            ConfigError: if the shape is wrong, or they are far from adding up to 1.
        """
        chunks = []
        for start in range(0, len(self), CHUNK):
            ids, mask = self.observations(slice(start, start + CHUNK))
            chunk = np.asarray(policy_logprobs(ids, mask), np.float64)
            kept = self.mask[start : start + CHUNK]
            if chunk.shape != kept.shape:
                raise ConfigError(
                    f"{who} returned log-probabilities of shape {chunk.shape}; they must be "
                    f"{kept.shape}, one for each token of each completion"
                )
            chunk = np.where(kept == 1, chunk, 0.0)
            if np.isnan(chunk).any():
                raise ConfigError(f"{who} returned NaN for the log-probability of a token")
            chunks.append(chunk.sum(1))
        logprobs = np.concatenate(chunks)
        for x, rows in enumerate(self.rows()):
            mass = float(np.logaddexp.reduce(logprobs[rows]))
            if not abs(math.expm1(mass)) < MASS_TOLERANCE:
                raise ConfigError(
                    f"{who} gives the completions of the prompt {self.prompts[x].id!r} the "
                    f"probability {math.exp(mass):.4g} in all; it must be 1: return normalised "
                    f"log-probabilities over the {self.vocab_size} tokens"
                )
            logprobs[rows] -= mass
        return logprobs

    def stepwise(self, next_logprobs: NextLogprobs) -> PolicyLogprobs:
        """Return, as `PolicyLogprobs`, a policy that tells the next token's distribution."""
        columns, pad_id = self.prompt_ids.shape[1], self.pad_id

        def policy_logprobs(input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
            result = np.zeros((len(input_ids), input_ids.shape[1] - columns))
            for t in range(result.shape[1]):
                active = attention_mask[:, columns + t] == 1
                ids, mask = input_ids[active], attention_mask[active]
                actions = ids[:, columns + t].copy()
                ids[:, columns + t :], mask[:, columns + t :] = pad_id, 0
                # Many completions begin alike; each beginning is asked about once.
                both = np.concatenate([ids, mask.astype(ids.dtype)], axis=1)
                _, first, inverse = np.unique(both, axis=0, return_index=True, return_inverse=True)
                if len(first):
                    table = np.asarray(next_logprobs(ids[first], mask[first]), np.float64)
                    result[active, t] = table[inverse.reshape(-1), actions]
            return result

        return policy_logprobs

    def observations(self, rows: Any) -> tuple[np.ndarray, np.ndarray]:
        """Return `input_ids` int64 and `attention_mask` int8 [N, P + T] of finished episodes."""
        x = self.index[rows]
        return (
            np.concatenate([self.prompt_ids[x], self.tokens[rows]], axis=1),
            np.concatenate([self.prompt_mask[x], self.mask[rows]], axis=1),
        )

    def rows(self) -> Iterator[slice]:
        """Iterate over the rows of each prompt."""
        ends = np.searchsorted(self.index, np.arange(len(self.prompts)), side="right")
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            yield slice(int(start), int(end))

    def rows_of(self, prompt: Prompt | str) -> slice:
        """Return the rows of one prompt, given itself or its id.

        Raises:
            UnknownNameError: if the environment has no such prompt.
        """
        prompt_id = prompt if isinstance(prompt, str) else prompt.id
        for known, rows in zip(self.prompts, self.rows(), strict=True):
            if known.id == prompt_id:
                return rows
        raise UnknownNameError("prompt id", prompt_id, (p.id for p in self.prompts))


def enumerate_completions(env: TextEnv) -> Completions:
    """Step an environment through every completion of every prompt.

    Raises:
        ConfigError: if there are more than `MAX_COMPLETIONS`.
    """
    n_prompts, vocab_size = len(env.prompts), env.tokenizer.vocab_size
    _check_size(n_prompts, vocab_size, env.batch.max_new_tokens)
    batch = EpisodeBatch(num_rows=CHUNK, **{**env.batch.task_arguments(), "metrics": None})
    columns = batch.num_prompt_columns
    prompts, prompt_ids, prompt_mask = [], [], []
    index, tokens, masks, rewards = [], [], [], []
    for x in range(n_prompts):
        prompt = batch.prompts[x]
        batch.start(0, x)
        prompts.append(prompt)
        prompt_ids.append(batch.input_ids[0, :columns].copy())
        prompt_mask.append(batch.attention_mask[0, :columns].copy())
        for ids, mask, scores in _play_all(batch, prompt):
            index.append(np.full(len(scores), x))
            tokens.append(ids)
            masks.append(mask)
            rewards.append(scores)
    return Completions(
        tuple(prompts),
        np.stack(prompt_ids),
        np.stack(prompt_mask),
        np.concatenate(index),
        np.concatenate(tokens),
        np.concatenate(masks),
        np.concatenate(rewards).astype(np.float64),
        vocab_size,
        env.tokenizer.pad_id,
    )


def _play_all(
    batch: EpisodeBatch, prompt: Prompt
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Yield tokens and mask [N, T] and rewards [N] of all completions, shorter ones first."""
    columns = batch.num_prompt_columns
    beginnings: list[list[int]] = [[]]
    while beginnings:
        moves = [(ids, token) for ids in beginnings for token in range(batch.tokenizer.vocab_size)]
        beginnings = []
        for start in range(0, len(moves), batch.num_rows):
            chunk = moves[start : start + batch.num_rows]
            idle = batch.num_rows - len(chunk)
            batch.load_state_dict(
                {
                    "prompt_ids": [prompt.id] * len(chunk) + [None] * idle,
                    "completion_ids": [ids for ids, _ in chunk] + [[]] * idle,
                    "over": [False] * len(chunk) + [True] * idle,
                }
            )
            rows = np.arange(len(chunk))
            ended = batch.advance(np.array([token for _, token in chunk], np.int64), rows)
            if ended is not None:
                yield (
                    batch.input_ids[ended.rows, columns:],
                    batch.attention_mask[ended.rows, columns:],
                    ended.rewards,
                )
            beginnings += [batch.completion_ids(int(row)) for row in rows if not batch.over[row]]


def _check_size(n_prompts: int, vocab_size: int, max_new_tokens: int) -> None:
    """Refuse an environment whose completions cannot be listed."""
    going_on = vocab_size - 1
    each = sum(going_on**t for t in range(max_new_tokens)) + going_on**max_new_tokens
    if n_prompts * each <= MAX_COMPLETIONS:
        return
    digits = math.log10(n_prompts) + max_new_tokens * math.log10(max(going_on, 1))
    count = f"{n_prompts * each:,}" if digits < 15 else f"about 10^{digits:.0f}"
    raise ConfigError(
        f"{n_prompts:,} prompts have {count} completions of up to {max_new_tokens} of "
        f"{vocab_size:,} tokens, and at most {MAX_COMPLETIONS:,} are enumerated; take fewer "
        "prompts, a smaller max_new_tokens or a smaller tokenizer"
    )
