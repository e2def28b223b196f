"""What a trainer sampled by itself, as the episodes an environment would have made of it."""

from collections.abc import Mapping, Sequence
from typing import Any

from textenvs.episode_batch import EpisodeBatch
from textenvs.errors import ConfigError, TokenizerError
from textenvs.tokenization import TextTokenizer, load_tokenizer
from textenvs.types import Episode, Prompt

COMPARED_PROMPTS = 16
"""So many prompts must two tokenizers encode alike to be taken for one."""


def acted(batch: EpisodeBatch, prompt: Prompt, tokens: Sequence[int]) -> Episode:
    """Return the episode of acting these tokens: to EOS, a stop string or the budget.

    One that ends before any of these was cut off by the trainer, as if by the budget.

    Args:
        batch: The task.
        prompt: The prompt.
        tokens: Of the completion; what comes after the end is left out.
    """
    taken = list(tokens[: batch.max_new_tokens])
    if batch.tokenizer.eos_id in taken:
        taken = taken[: taken.index(batch.tokenizer.eos_id) + 1]
    text = batch.tokenizer.decode(taken)
    if any(stop in text for stop in batch.stop):
        for count in range(1, len(taken) + 1):  # the token that first completes a stop string
            text = batch.tokenizer.decode(taken[:count])
            cuts = [text.find(stop) for stop in batch.stop if stop in text]
            if cuts:
                return Episode(prompt, text[: min(cuts)], tuple(taken[:count]), "stop")
    at_eos = taken[-1:] == [batch.tokenizer.eos_id]
    return Episode(prompt, text, tuple(taken), "eos" if at_eos else "length")


def spoken(batch: EpisodeBatch, prompt: Prompt, text: str, *, at_eos: bool = True) -> Episode:
    """Return the episode of saying a text, up to the first stop string.

    Args:
        batch: The task.
        prompt: The prompt.
        text: The completion.
        at_eos: Whether the model ended it itself.
    """
    cuts = [text.find(stop) for stop in batch.stop if stop in text]
    if cuts:
        return Episode(prompt, text[: min(cuts)], finish_reason="stop")
    return Episode(prompt, text, finish_reason="eos" if at_eos else "length")


def same_tokens(tokenizer: Any, batch: EpisodeBatch) -> bool:
    """Return whether a tokenizer encodes as the environment's does.

    Compared are the size of the vocabulary, the EOS token and some prompts.

    Args:
        tokenizer: A name, a folder, a transformers tokenizer.
        batch: The task.
    """
    one, other = load_tokenizer(tokenizer), batch.tokenizer
    if (one.vocab_size, one.eos_id) != (other.vocab_size, other.eos_id):
        return False
    count = min(COMPARED_PROMPTS, len(batch.prompts))
    texts = [batch.prompts[i].text for i in range(count)]
    return one.encode_batch(texts) == other.encode_batch(texts)


def refuse_foreign(tokenizer: TextTokenizer, tokens: Sequence[int], text: str) -> None:
    """Refuse tokens that the environment reads otherwise than the trainer did.

    Raises:
        TokenizerError: with the remedies.
    """
    # Models may know more tokens than their tokenizer; those say nothing.
    read = tokenizer.decode([token for token in tokens if token < tokenizer.vocab_size])
    # White space aside: some tokenizers clean it up where they decode for a reader.
    if "".join(read.split()) != "".join(text.split()):
        raise TokenizerError(
            f"the trainer reads a completion as {text!r:.60}, but to the environment's tokenizer "
            f"{tokenizer.name!r} its tokens say {read!r:.60}; make the environment with the "
            "model's tokenizer (tokenizer=...), or pass processing_class= to reward_function to "
            "judge by text"
        )


def answer_text(completion: Any) -> tuple[str, bool]:
    """Return the text of a completion, and whether all of what was said is in it.

    A chat parser may take thoughts and tool calls out of the text.

    Raises:
        ConfigError: if it is neither a text nor a list of messages.
    """
    if isinstance(completion, str):
        return completion, True
    if not isinstance(completion, Sequence) or not all(
        isinstance(message, Mapping) for message in completion
    ):
        raise ConfigError(f"a completion is a text or a list of messages, got {completion!r:.80}")
    said = [message for message in completion if message.get("role") == "assistant"]
    text = "".join(message.get("content") or "" for message in said)
    return text, len(said) == 1 and set(said[0]) <= {"role", "content"}
