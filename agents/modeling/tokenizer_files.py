"""A tokenizer's files beside the model that reads its tokens."""

from pathlib import Path

from textenvs.tokenization import TextTokenizer


def save_tokenizer(tokenizer: TextTokenizer, folder: Path) -> None:
    """Copy a tokenizer's files, through transformers so that nothing is left out."""
    from transformers import AutoTokenizer, PreTrainedTokenizerBase

    backend = getattr(tokenizer, "backend", None)
    if not isinstance(backend, PreTrainedTokenizerBase):
        if not Path(tokenizer.name).is_dir():
            return
        backend = AutoTokenizer.from_pretrained(tokenizer.name)
    backend.save_pretrained(folder)
