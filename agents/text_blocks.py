"""Running text as blocks of tokens: documents joined by EOS and cut."""

from collections.abc import Sequence

import numpy as np

from textenvs.errors import ConfigError
from textenvs.tokenization import TextTokenizer


def token_blocks(
    texts: Sequence[str], tokenizer: TextTokenizer, *, block_tokens: int
) -> np.ndarray:
    """Return int64 [N, block_tokens]: the documents, EOS behind each, cut into blocks.

    What is left behind the last whole block is dropped.

    Args:
        texts: The documents.
        tokenizer: The model's.
        block_tokens: Tokens a block, at least 2.

    Raises:
        ConfigError: if the texts do not fill one block.
    """
    if block_tokens < 2:
        raise ConfigError(f"block_tokens must be at least 2, got {block_tokens}")
    ids: list[int] = []
    for text in texts:
        ids += [*tokenizer.encode_completion(text), tokenizer.eos_id]
    blocks = len(ids) // block_tokens
    if not blocks:
        raise ConfigError(
            f"the pretraining texts have {len(ids)} tokens, fewer than one block of "
            f"{block_tokens}; give more text or a smaller block_tokens"
        )
    return np.array(ids[: blocks * block_tokens], np.int64).reshape(blocks, -1)
