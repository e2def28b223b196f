"""Supervised fine-tuning: cross-entropy of right answers, prompts left out of the loss."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from agents.config import SFTConfig
from agents.policy import CausalLMPolicy
from agents.supervision.descent import maximise_likelihood
from agents.supervision.epochs import EpochSampler
from agents.supervision.examples import Accounting, Example, ExampleSet, batches_of, context_window
from textenvs.errors import ConfigError

Log = Callable[[Mapping[str, Any]], None]
PROBED = 16
"""Prompts of an environment that are measured before anything is trained."""


def sft(
    policy: CausalLMPolicy,
    source: Any,
    config: SFTConfig | None = None,
    *,
    seed: int = 0,
    log: Log | None = None,
) -> CausalLMPolicy:
    """Train a policy on right answers.

    Args:
        policy: Trained in place.
        source: A text environment, single or vector, whose oracle answers prompts drawn at
            random, or `OracleExamples` of one, which keep account; or examples
            (`agents.supervision`), which are drawn pass by pass.
        config: Settings.
        seed: Chooses the prompts, except those of `OracleExamples`, which have their own.
        log: Called after each step with `step`, `loss` (nats an answer token),
            `learning_rate`, `answer_tokens`, `padding` (share of the tokens computed),
            `seconds`.

    Returns:
        The policy.

    Raises:
        ConfigError: if the environment knows no right answer, a prompt of it does not fit
            into the model's context, or there is no example.
    """
    config = config or SFTConfig()
    draw = _drawing(policy, source, seed)
    maximise_likelihood(policy, draw, config, packing=config.packing, log=log)
    return policy


def _drawing(policy: CausalLMPolicy, source: Any, seed: int) -> Callable[[int], list[Example]]:
    """Return a function that draws so many examples of a source."""
    if isinstance(source, OracleExamples):
        return source.draw
    if not isinstance(source, (ExampleSet, Sequence)):
        return OracleExamples(policy, source, seed=seed).draw
    examples = source.examples if isinstance(source, ExampleSet) else source
    if not examples:
        raise ConfigError("there is no example to learn from; give at least one")
    return batches_of(examples, EpochSampler(len(examples), seed=seed).draw)


class OracleExamples:
    """The prompts of an environment with its oracle's answers, drawn at random.

    Attributes:
        accounting: Of the examples drawn so far; an answer longer than the environment's
            token budget is cut there.
    """

    def __init__(self, policy: CausalLMPolicy, env: Any, *, seed: int = 0) -> None:
        """Bound the policy's vocabulary to the environment's.

        Args:
            policy: Reads the examples.
            env: A text environment, single or vector.
            seed: Chooses the prompts.

        Raises:
            ConfigError: if one of the first prompts does not fit into the model's context.
            ModelError: if the policy knows fewer tokens than the environment.
        """
        self.batch = env.unwrapped.batch
        policy.check_vocabulary(self.batch.tokenizer.vocab_size)
        self.window = context_window(policy.model)
        self.generator = np.random.default_rng(seed)
        for index in range(min(PROBED, len(self.batch.prompts))):
            self._example(index)
        self.accounting = Accounting()

    def draw(self, count: int) -> list[Example]:
        """Return so many examples.

        Raises:
            ConfigError: if one does not fit into the model's context.
        """
        indices = self.generator.integers(len(self.batch.prompts), size=count)
        return [self._counted(self._example(int(index))) for index in indices]

    def _counted(self, example: Example) -> Example:
        self.accounting.rows += 1
        is_cut = example.answer[-1] != self.batch.tokenizer.eos_id
        self.accounting.keep(example, is_cut=is_cut)
        return example

    def _example(self, index: int) -> Example:
        example = oracle_example(self.batch, index)
        if self.window is not None and len(example) > self.window:
            raise ConfigError(
                f"prompt {self.batch.prompts[index].id!r} and its right answer have "
                f"{len(example)} tokens, but the model's context is {self.window}; shorten the "
                "prompts (-o n_items=... of a list), lower max_prompt_tokens and max_new_tokens, "
                "or take a model with a longer context"
            )
        return example


def oracle_example(batch: Any, index: int) -> Example:
    """Return a prompt of an environment with its oracle's answer.

    Args:
        batch: The environment's `EpisodeBatch`.
        index: Of the prompt.

    Returns:
        The answer with EOS behind; one longer than the budget is cut there and has none,
        as when it is acted.
    """
    prompt, prompt_ids, _ = batch.encoded(index)
    answer = batch.oracle_ids(prompt)[: batch.max_new_tokens]
    return Example(tuple(prompt_ids.tolist()), tuple(answer))
