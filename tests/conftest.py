"""Fakes without downloads: a byte tokenizer and models of a few thousand parameters."""

import os
import signal

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what it puts into the background so; tests that interrupt would wait forever.
    signal.signal(signal.SIGINT, signal.default_int_handler)

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from textenvs.tokenization import FileTokenizer


def save_byte_tokenizer(folder: Path, *, eos: bool = True) -> Path:
    """Write a tokenizer of 258 tokens: pad, eos and the 256 bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate(["<pad>", "<eos>", *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<pad>", "<eos>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = '"eos_token": "<eos>", ' if eos else ""
    (folder / "tokenizer_config.json").write_text(
        f'{{"tokenizer_class": "PreTrainedTokenizerFast", {config}"pad_token": "<pad>"}}'
    )
    return folder


@pytest.fixture(scope="session")
def byte_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the byte tokenizer."""
    return save_byte_tokenizer(tmp_path_factory.mktemp("byte-tokenizer"))


@pytest.fixture(scope="session")
def byte_tokenizer(byte_folder: Path) -> FileTokenizer:
    """One token a byte."""
    return FileTokenizer(byte_folder)


def build_model(
    kind: str = "llama", *, seed: int = 0, vocab_size: int = 258, **options: Any
) -> Any:
    """Return a causal language model of a few thousand parameters with uneven logits."""
    import torch
    import transformers

    ids = {"bos_token_id": 1, "eos_token_id": 1, "pad_token_id": 0}
    common: dict[str, Any] = {"vocab_size": vocab_size, "initializer_range": 0.4, **ids}
    if kind == "gpt2":
        shape: dict[str, Any] = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 256}
        config: Any = transformers.GPT2Config(**common, **shape, **options)
    else:
        shape = {
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "num_key_value_heads": 1,
            "max_position_embeddings": 256,
        }
        maker = {"llama": transformers.LlamaConfig, "qwen2": transformers.Qwen2Config}[kind]
        config = maker(**common, **{**shape, **options})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(config).eval()


@pytest.fixture(scope="session")
def make_model() -> Callable[..., Any]:
    """`build_model`, for tests."""
    return build_model
