"""Pretraining: a causal language model learns to predict running text."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agents.config import Schedule, SupervisedConfig
from agents.perplexity import as_policy, check_block
from agents.policy import CausalLMPolicy
from agents.supervision.descent import maximise_likelihood
from agents.supervision.epochs import EpochSampler
from agents.supervision.examples import Example, batches_of
from agents.text_blocks import token_blocks
from textenvs.tokenization import TextTokenizer

Log = Callable[[Mapping[str, Any]], None]


@dataclasses.dataclass(frozen=True)
class PretrainingConfig(SupervisedConfig):
    """Next-token prediction on blocks of text.

    The settings of `SupervisedConfig`, a batch counted in blocks, and:

    Attributes:
        steps: Optimiser steps.
        learning_rate: 1e-3 suits a small model from scratch; continue with 1e-4 or less.
        schedule: How the learning rate falls after the warm-up.
        weight_decay: AdamW's decay; 0.1 as for GPT-3 (arXiv:2005.14165, appendix B).
        block_tokens: Tokens a block, at most the model's context.
    """

    steps: int = 500
    learning_rate: float = 1e-3
    schedule: Schedule = "cosine"
    weight_decay: float = 0.1
    block_tokens: int = 128


def pretrain(
    model: Any,
    tokenizer: TextTokenizer,
    train_texts: Sequence[str],
    config: PretrainingConfig | None = None,
    *,
    seed: int = 0,
    log: Log | None = None,
) -> CausalLMPolicy:
    """Train a causal language model on texts.

    The documents are joined by EOS and cut into blocks (`agents.text_blocks`); every token
    of a block but its first is predicted. No block is drawn twice before all were drawn.

    Args:
        model: A causal language model, new (`agents.modeling.architecture`) or trained, or a
            `CausalLMPolicy` of one, which may have adapters; trained in place.
        tokenizer: Its tokenizer.
        train_texts: The documents.
        config: Settings.
        seed: Orders the blocks.
        log: Called after each step with `step`, `loss` (nats a token), `epoch` (passes over
            the text so far), `learning_rate`, `answer_tokens` (predicted), `padding`,
            `seconds`.

    Returns:
        The policy, whose `save_pretrained` writes a plain Hugging Face folder.

    Raises:
        ConfigError: if the texts do not fill a block, or a block the model's context.
        ModelError: if the model knows fewer tokens than the tokenizer has.
    """
    config = config or PretrainingConfig()
    policy = as_policy(model, tokenizer)
    check_block(policy, config.block_tokens)
    blocks = token_blocks(train_texts, tokenizer, block_tokens=config.block_tokens)
    examples = [Example(tuple(block[:1]), tuple(block[1:])) for block in blocks.tolist()]
    sampler = EpochSampler(len(examples), seed=seed)

    def told(values: Mapping[str, Any]) -> None:
        if log is not None:
            log({**values, "epoch": values["step"] * config.batch_size / len(examples)})

    maximise_likelihood(policy, batches_of(examples, sampler.draw), config, log=told)
    return policy
