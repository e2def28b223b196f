"""The shape of a causal language model that is built from nothing."""

import dataclasses
from typing import Any

import torch

from agents.validation import count
from textenvs.errors import ConfigError
from textenvs.tokenization import TextTokenizer


@dataclasses.dataclass(frozen=True)
class Architecture:
    """A Llama-like transformer (arXiv:2302.13971): rotary positions, SwiGLU, tied embeddings.

    Attributes:
        width: Of the hidden states; a multiple of `heads`.
        layers: Transformer blocks.
        heads: Attention heads.
        mlp_width: Of the feed-forward layers; None takes 8/3 of `width`, rounded up to a
            multiple of 16, which costs as much as a plain layer of 4 times `width`.
        context: The most tokens the model reads.
    """

    width: int = 128
    layers: int = 4
    heads: int = 4
    mlp_width: int | None = None
    context: int = 512

    def __post_init__(self) -> None:
        """Refuse shapes that cannot be built."""
        count(self, "width", "layers", "heads", "mlp_width", "context")
        if self.width % self.heads or self.width // self.heads % 2:
            raise ConfigError(
                f"width must be an even multiple of heads, since rotary positions turn pairs of "
                f"each head's columns; got width={self.width}, heads={self.heads}"
            )


def build_causal_lm(architecture: Architecture, tokenizer: TextTokenizer, *, seed: int) -> Any:
    """Return an untrained `LlamaForCausalLM` for a tokenizer.

    Args:
        architecture: The shape.
        tokenizer: Decides the vocabulary, the EOS and the padding.
        seed: Of the initial weights.
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    shape = architecture
    config = LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=shape.width,
        intermediate_size=shape.mlp_width or -(-shape.width * 8 // 48) * 16,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.heads,
        max_position_embeddings=shape.context,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_id,
        pad_token_id=tokenizer.pad_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()
