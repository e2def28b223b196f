"""Perplexity of a language model on texts: what it has learned, and what it forgets."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from agents.evaluation import Interval
from agents.policy import CausalLMPolicy
from agents.supervision.examples import Example, context_window
from agents.supervision.likelihood import Losses, example_losses, perplexity_of
from textenvs.errors import ConfigError, CorpusError, ModelError
from textenvs.tokenization import TextTokenizer


def perplexity(
    model: Any,
    tokenizer: TextTokenizer,
    texts: Sequence[str],
    *,
    block_tokens: int = 128,
    seed: int = 0,
) -> Interval:
    """Return the perplexity a token of held-out texts, with its 95% interval.

    The interval is a percentile bootstrap over documents, for the tokens of one document
    are not independent.

    Args:
        model: A causal language model, or a `CausalLMPolicy` of one.
        tokenizer: Its tokenizer.
        texts: The documents.
        block_tokens: Tokens the model sees at once, as in training.
        seed: Of the bootstrap.

    Raises:
        ConfigError: if the model cannot read so many tokens at once.
        CorpusError: if there is no text.
        ModelError: if the model knows fewer tokens than the tokenizer has.
    """
    policy = as_policy(model, tokenizer)
    losses = document_losses(policy, tokenizer, texts, block_tokens=block_tokens)
    return perplexity_of(losses, seed=seed)


def document_losses(
    policy: CausalLMPolicy, tokenizer: TextTokenizer, texts: Sequence[str], *, block_tokens: int
) -> Losses:
    """Return the negative log-likelihood of each document, every token predicted once.

    A document is read as in training: behind an EOS, with an EOS at its end. One longer than
    a block is cut into blocks that overlap by the one token the next begins by reading.

    Args:
        policy: The model.
        tokenizer: Its tokenizer.
        texts: At least one document.
        block_tokens: Tokens the model sees at once, at least 2.

    Raises:
        ConfigError: if the model cannot read so many tokens at once.
        CorpusError: if there is no text.
    """
    check_block(policy, block_tokens)
    if not texts:
        raise CorpusError("there is no text to measure the perplexity of; give at least one")
    examples, owners = [], []
    for number, text in enumerate(texts):
        ids = (tokenizer.eos_id, *tokenizer.encode_completion(text), tokenizer.eos_id)
        for begin in range(0, len(ids) - 1, block_tokens - 1):
            block = ids[begin : begin + block_tokens]
            examples.append(Example(block[:1], block[1:]))
            owners.append(number)
    losses = example_losses(policy, examples)
    return losses.grouped(np.array(owners), len(texts))


def as_policy(model: Any, tokenizer: TextTokenizer) -> CausalLMPolicy:
    """Return a policy of a model, or the policy itself, with the tokenizer's vocabulary.

    Raises:
        ModelError: if the model knows fewer tokens than the tokenizer has.
    """
    policy = model if isinstance(model, CausalLMPolicy) else None
    known = int((policy.model if policy else model).get_output_embeddings().weight.shape[0])
    if known < tokenizer.vocab_size:
        raise ModelError(
            f"the model knows {known} tokens, but the tokenizer has {tokenizer.vocab_size}; use "
            "the model's own tokenizer, or build a model from scratch for this one"
        )
    return policy or CausalLMPolicy(model, tokenizer=tokenizer)


def check_block(policy: CausalLMPolicy, block_tokens: int) -> None:
    """Refuse blocks that the model cannot read.

    Raises:
        ConfigError: if a block is below 2 tokens or beyond the model's context.
    """
    window = context_window(policy.model)
    if block_tokens < 2 or (window is not None and block_tokens > window):
        raise ConfigError(
            f"block_tokens must be between 2 and the model's context of {window or 'any'} tokens, "
            f"got {block_tokens}"
        )
