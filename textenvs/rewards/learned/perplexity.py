"""Perplexity: how surprised a language model is by an answer, and a reward made of it."""

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

from textenvs.errors import ConfigError
from textenvs.rewards.base import BaseReward, RewardResult
from textenvs.rewards.learned.batches import Batching, encodable, require_models
from textenvs.types import Episode, Prompt

if TYPE_CHECKING:
    from textenvs.tokenization import TextTokenizer

PROMPT_TOKENS, ANSWER_TOKENS, BATCH_TOKENS = 512, 1536, 4_096


class Perplexity(BaseReward):
    """How fluent a language model finds an answer, in [0, 1]; an empty answer gets 0.

    enough / perplexity, at most 1: an answer whose tokens the model gives a geometric mean
    probability of 1 / `enough` or more after the prompt earns everything. There is nothing to
    be had below that, since the least perplexity of all is that of a loop; above it the score
    falls as the mean probability does.

    Dull and repeated text is what a language model expects: common phrases earn everything
    whatever the prompt asks. It is for sums, with a reward that reads the answer and
    `Repetition` against loops. A reference KL holds a policy near a model more directly.
    """

    name = "perplexity"

    def __init__(self, model: str, *, enough: float = 20.0) -> None:
        """Choose the model, which is loaded when first needed, once per process.

        Args:
            model: Name or folder of a causal language model.
            enough: The perplexity from which down everything is earned, at least 1.

        Raises:
            ConfigError: if `enough` is below 1 or not finite.
            MissingDependencyError: if torch or transformers is absent.
        """
        require_models("the reward 'perplexity'")
        if not 1 <= enough < float("inf"):
            raise ConfigError(f"enough must be finite and at least 1, got {enough}; default 20")
        self.model, self.enough = str(model), float(enough)

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch.

        Raises:
            UnknownNameError: if the model's name leads nowhere.
        """
        rows = [i for i, episode in enumerate(episodes) if episode.completion.strip()]
        scores = np.zeros(len(episodes), np.float64)
        if rows:
            measured = perplexity([episodes[i] for i in rows], self.model)
            scores[rows] = np.minimum(1.0, self.enough / measured)
        return RewardResult.from_scores(self.name, scores)

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return (0, 1)."""
        return (0.0, 1.0)


def perplexity(episodes: Sequence[Episode], model: str) -> np.ndarray:
    """Return the perplexity of each answer after its prompt, by a causal language model.

    exp(-1/n * sum_i log p(t_i | prompt, t_1 ... t_{i-1})) over the n tokens of the answer in
    the model's own tokenizer. The EOS token is among them unless the answer was cut off, so
    that an empty answer has a perplexity too: that of ending at once.

    Args:
        episodes: Finished ones.
        model: Name or folder, loaded once per process. The last 512 tokens of a prompt are
            read and the first 1,536 of an answer, or as many as the model has places for.

    Returns:
        float64 [B], at least 1 (but for rounding). What stands for one answer does not depend
        on the others of the batch.

    Raises:
        MissingDependencyError: if torch or transformers is absent.
        ModelError: if the model knows fewer tokens than its tokenizer.
        UnknownNameError: if the name leads nowhere.
    """
    require_models("perplexity")
    if not episodes:
        return np.zeros(0, np.float64)
    tokenizer = _tokenizer(model)
    limit = _longest(model, tokenizer.vocab_size)
    pairs = [_ids(episode, tokenizer, limit) for episode in episodes]
    rows = [[*prompt, *answer] for prompt, answer in pairs]
    logprobs = _token_logprobs(rows, model, limit)
    means = [
        logprobs[i, len(prompt) : len(prompt) + len(answer)].mean()
        for i, (prompt, answer) in enumerate(pairs)
    ]
    return np.exp(-np.array(means, np.float64))


@lru_cache(maxsize=4)
def _tokenizer(model: str) -> "TextTokenizer":
    from textenvs.tokenization import load_tokenizer

    return load_tokenizer(model)


@lru_cache(maxsize=4)
def _longest(model: str, vocab_size: int) -> int:
    """Return the most tokens the model reads of a prompt and its answer.

    Raises:
        ModelError: if the model knows fewer tokens than its tokenizer.
    """
    from textenvs.decoding import check_model
    from textenvs.models import shared_causal_lm
    from textenvs.rewards.learned.classifier import longest_text

    loaded = shared_causal_lm(model)
    check_model(loaded, vocab_size)
    return min(longest_text(loaded.config), PROMPT_TOKENS + ANSWER_TOKENS)


def _ids(episode: Episode, tokenizer: "TextTokenizer", limit: int) -> tuple[list[int], list[int]]:
    """Return the ids of a prompt and of its answer, at most `limit` in all; neither is empty."""
    prompt = tokenizer.encode(encodable(episode.prompt.text)) or [tokenizer.eos_id]
    prompt = prompt[-min(PROMPT_TOKENS, limit // 2) :]
    answer = tokenizer.encode_completion(encodable(episode.completion))
    if episode.finish_reason == "eos" or not answer:
        answer = [*answer, tokenizer.eos_id]
    return prompt, answer[: limit - len(prompt)]


def _token_logprobs(rows: Sequence[Sequence[int]], model: str, limit: int) -> np.ndarray:
    """Return float64 [B, T]: log p of each token given those before it; 0 for the first."""
    import torch
    from torch import Tensor

    from textenvs.models import shared_causal_lm

    loaded = shared_causal_lm(model)
    width = max(map(len, rows))

    def forward(ids: Tensor, mask: Tensor) -> Tensor:
        logits = loaded(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float()
        picked = logits.gather(-1, ids[:, 1:, None])[..., 0] - logits.logsumexp(-1)
        # Every pass has the width of the longest row: one before it, what is behind it cut.
        picked = torch.nn.functional.pad(picked, (1, width))
        return picked[:, :width]

    device = str(next(loaded.parameters()).device)
    batching = Batching(device, BATCH_TOKENS, limit, fixed_shapes=True)
    return batching.outputs(rows, forward)
