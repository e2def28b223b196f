"""Perplexity: how surprised a language model is by an answer."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from textenvs.rewards.batches import batches_by_length, encodable, require_models
from textenvs.types import Episode

if TYPE_CHECKING:
    from textenvs.tokenization import TextTokenizer

PROMPT_TOKENS, BATCH_TOKENS = 512, 4_096


def perplexity(episodes: Sequence[Episode], model: str) -> np.ndarray:
    """Return the perplexity of each answer after its prompt, by a causal language model.

    exp(-1/n * sum_i log p(t_i | prompt, t_1 ... t_{i-1})) over the n tokens of the answer in
    the model's own tokenizer. The EOS token is among them unless the answer was cut off, so
    that an empty answer has a perplexity too: that of ending at once.

    Args:
        episodes: Finished ones.
        model: Name or folder, loaded once per process. The last 512 tokens of a prompt are
            read.

    Returns:
        float64 [B], at least 1 (but for rounding).

    Raises:
        MissingDependencyError: if torch or transformers is absent.
        UnknownNameError: if the name leads nowhere.
    """
    require_models("perplexity")
    tokenizer = _tokenizer(model)
    rows = [_ids(episode, tokenizer) for episode in episodes]
    result = np.zeros(len(rows), np.float64)
    lengths = [len(prompt) + len(answer) for prompt, answer in rows]
    for batch in batches_by_length(lengths, BATCH_TOKENS):
        result[batch] = _batch_perplexity([rows[i] for i in batch], tokenizer, model)
    return result


@lru_cache(maxsize=4)
def _tokenizer(model: str) -> "TextTokenizer":
    from textenvs.tokenization import load_tokenizer

    return load_tokenizer(model)


def _ids(episode: Episode, tokenizer: "TextTokenizer") -> tuple[list[int], list[int]]:
    """Return the ids of a prompt and of its answer; neither is empty."""
    prompt = tokenizer.encode(encodable(episode.prompt.text))[-PROMPT_TOKENS:] or [tokenizer.eos_id]
    answer = tokenizer.encode_completion(encodable(episode.completion))
    if episode.finish_reason == "eos" or not answer:
        answer = [*answer, tokenizer.eos_id]
    return prompt, answer


def _batch_perplexity(
    rows: Sequence[tuple[list[int], list[int]]], tokenizer: "TextTokenizer", model: str
) -> np.ndarray:
    """Return float64 [B] from one teacher-forced pass."""
    from textenvs.reference import CausalLMReference

    start = max(len(prompt) for prompt, _ in rows)
    width = max(len(answer) for _, answer in rows)
    ids = np.full((len(rows), start + width), tokenizer.pad_id, np.int64)
    mask = np.zeros((len(rows), start + width), np.int8)
    for i, (prompt, answer) in enumerate(rows):
        span = slice(start - len(prompt), start + len(answer))
        ids[i, span] = [*prompt, *answer]
        mask[i, span] = 1
    reference = CausalLMReference(model)
    reference.bind(start, tokenizer.vocab_size)
    logprobs = reference.completion_logprobs(ids, mask).astype(np.float64)
    return np.exp(-logprobs.sum(1) / mask[:, start:].sum(1))
