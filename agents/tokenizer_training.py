"""Training a tokenizer: byte-level BPE, which has a token for every text there is."""

from collections.abc import Iterable
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

from textenvs.errors import ConfigError, CorpusError
from textenvs.tokenization import HuggingFaceTokenizer

PAD_TOKEN, EOS_TOKEN = "<pad>", "<eos>"
SPECIAL_TOKENS = (PAD_TOKEN, EOS_TOKEN)
"""The first ids. They differ, so that padding can never be taken for an end."""

SMALLEST = 256 + len(SPECIAL_TOKENS)
"""Tokens of a vocabulary without any merge: the bytes, and the special tokens."""

# GPT-2's split with two changes. A newline is always a token of its own, and punctuation takes
# the space after it: "[War] Ran" is "[", "War", "] ", "Ran", so a title has the same tokens
# after its label as it has alone on a line, and copying is copying of ids.
PIECE = Regex(
    r"\n|'(?:s|t|re|ve|m|ll|d)\b| ?\p{L}[\p{L}\p{M}]*| ?\p{N}{1,4}| ?[^\s\p{L}\p{N}]+ ?|[^\S\n]+"
)


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE (Sennrich et al., arXiv:1508.07909) that round-trips any text.

    Nothing in it is random: the same texts give the same tokenizer.

    Args:
        texts: What the merges are counted on.
        vocab_size: Tokens at most, special tokens included; few texts give fewer.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(PIECE, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def train_tokenizer(texts: Iterable[str], vocab_size: int, *, context: int) -> HuggingFaceTokenizer:
    """Return a tokenizer trained on texts, which a policy saves beside its weights.

    Args:
        texts: Documents, of any language.
        vocab_size: Tokens at most, at least 258.
        context: Tokens the model will read, kept as `model_max_length`.

    Raises:
        ConfigError: if the vocabulary has no room for the bytes.
        CorpusError: if there is no text.
    """
    if vocab_size < SMALLEST:
        raise ConfigError(
            f"a vocabulary has at least {SMALLEST} tokens, the 256 bytes, {PAD_TOKEN} and "
            f"{EOS_TOKEN}; got {vocab_size}"
        )
    given = [text for text in texts if text.strip()]
    if not given:
        raise CorpusError("there is no text to train a tokenizer on; give at least one document")
    return HuggingFaceTokenizer(as_fast_tokenizer(train_bpe(given, vocab_size), context))


def as_fast_tokenizer(tokenizer: Tokenizer, context: int) -> Any:
    """Return a transformers tokenizer with its EOS and padding told, ready to be saved."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD_TOKEN,
        eos_token=EOS_TOKEN,
        model_max_length=context,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
