"""Answers sampled from a language model that was not trained on the reward."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from textenvs.audit.evolution import Speech
from textenvs.audit.subject import Attempt, Subject
from textenvs.checker.report import Skipped
from textenvs.errors import MissingDependencyError
from textenvs.tokenization import load_tokenizer
from textenvs.types import Prompt

if TYPE_CHECKING:
    from textenvs.decoding import CachedDecoder

COMPACT_BELOW = 0.75
"""Answers that have ended leave the batch once fewer of its rows than this go on: taking rows
out copies the cache."""


def model_samples(
    subject: Subject,
    prompts: Sequence[Prompt],
    samples: int,
    generator: np.random.Generator,
    reference: Any = "tiny-lm",
) -> list[list[Attempt]]:
    """Return answers a model gives at temperature 1 within the token budget.

    Args:
        subject: Brings the tokenizer, the prompt window and the budget.
        prompts: To answer, one after the other.
        samples: Answers to each prompt.
        generator: Decides everything.
        reference: Name or folder of a causal language model, or the model.

    Returns:
        For each prompt, `samples` attempts.

    Raises:
        MissingDependencyError: if torch or transformers is absent.
        ModelError: if the model cannot be used.
        Skipped: if the model speaks another vocabulary than the environment.
    """
    try:
        from textenvs.decoding import CachedDecoder
        from textenvs.models import shared_causal_lm
    except ImportError as error:
        raise MissingDependencyError(
            "torch", "sampling from a reference model", 'pip install "textenvs[agents]"'
        ) from error
    model = reference
    if isinstance(reference, (str, Path)):
        _check_vocabulary(subject, str(reference))
        model = shared_causal_lm(str(reference))
    decoder = CachedDecoder(model, vocab_size=subject.tokenizer.vocab_size)
    return [_sampled(subject, decoder, prompt, samples, generator) for prompt in prompts]


def _check_vocabulary(subject: Subject, name: str) -> None:
    """Refuse a model whose tokens mean something else.

    Raises:
        Skipped: if its tokenizer differs from the environment's.
    """
    own, theirs = subject.tokenizer, load_tokenizer(name)
    text = subject.prompts[0].text
    same = own.vocab_size == theirs.vocab_size and own.encode(text) == theirs.encode(text)
    if not same:
        raise Skipped(
            f"the model {name!r} has another tokenizer than the environment; make the environment "
            f"with tokenizer={name!r}"
        )


def _sampled(
    subject: Subject,
    decoder: "CachedDecoder",
    prompt: Prompt,
    samples: int,
    generator: np.random.Generator,
) -> list[Attempt]:
    """Sample answers to one prompt side by side: it is read once, and its cache is shared out."""
    import torch

    tokenizer, budget = subject.tokenizer, subject.max_new_tokens
    batch = subject.env.batch
    prompt_ids = batch.prompts.encode(tokenizer, [prompt])[0][-batch.num_prompt_columns :]
    device = next(decoder.model.parameters()).device
    start, columns = len(prompt_ids), len(prompt_ids) + budget
    ids = torch.full((1, columns), tokenizer.pad_id, device=device)
    ids[0, :start] = torch.tensor(prompt_ids, device=device)
    mask = (torch.arange(columns, device=device) < start)[None]
    logits, state = decoder.next_token(ids, mask)
    shared = torch.zeros(samples, dtype=torch.long, device=device)
    ids, mask, logits, state = ids[shared], mask[shared], logits[shared], state.select(shared)
    answers: list[list[int]] = [[] for _ in range(samples)]
    members, over = np.arange(samples), np.zeros(samples, bool)
    for t in range(budget):
        tokens = drawn_tokens(logits.log_softmax(-1).cpu().numpy(), generator)
        for row in np.flatnonzero(~over):
            answers[members[row]].append(int(tokens[row]))
        over |= tokens == tokenizer.eos_id
        if over.all() or t == budget - 1:
            break
        ids[:, start + t] = torch.from_numpy(tokens).to(device)
        mask[:, start + t] = True
        if (~over).mean() < COMPACT_BELOW:
            kept = torch.from_numpy(np.flatnonzero(~over)).to(device)
            ids, mask, state = ids[kept], mask[kept], state.select(kept)
            members, over = members[~over], over[~over]
        logits, state = decoder.next_token(ids, mask, state)
    speech = Speech(tokenizer, budget, batch.stop)
    return [_attempt(prompt, answer, speech) for answer in answers]


def _attempt(prompt: Prompt, ids: list[int], speech: Speech) -> Attempt:
    """Return the answer that some tokens are, up to EOS or a stop string."""
    ended = ids[-1] == speech.tokenizer.eos_id
    text = speech.text(ids[:-1] if ended else ids)
    stopped = not ended and text != speech.tokenizer.decode(ids)
    return Attempt(prompt, text, "eos" if ended or stopped else "length")


def drawn_tokens(logprobs: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return int64 [B], a token of each row's distribution: one uniform number a row, inverted.

    Args:
        logprobs: float [B, V].
        generator: Decides everything.
    """
    cumulative = np.exp(logprobs.astype(np.float64)).cumsum(axis=1)
    # Scaled by the row's sum, which rounding keeps from being exactly 1.
    thresholds = generator.random((len(logprobs), 1)) * cumulative[:, -1:]
    return (cumulative <= thresholds).sum(axis=1).clip(max=logprobs.shape[1] - 1)
