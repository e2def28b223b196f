"""What both sides read: one randomly initialised model, its tokenizer, the prompts.

All three are written to a folder once, from a seed, so that two processes in two virtual
environments start from the same bytes.
"""

import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from textenvs.models import load_causal_lm, model_folder

RANDOM_LLAMA = "random-llama"
PAD, EOS, FIRST_WORD = 0, 1, 2
VOCABULARY, WIDTH = 4096, 256
NEVER = 20.0
"""Weight that keeps EOS and padding from being drawn; see `never_draw`."""


def random_llama(seed: int) -> LlamaForCausalLM:
    """Return a Llama of 6.8 million parameters: 6 layers, 4 heads, embeddings not tied."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=688,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=EOS,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
    never_draw(model, (PAD, EOS))
    return model


@torch.no_grad()
def never_draw(model: LlamaForCausalLM, tokens: tuple[int, ...]) -> None:
    """Make the probability of some tokens 0 in effect, by the weights alone.

    Coordinate 0 of the residual stream is given a constant, 1, by every embedding. It is
    large beside what the small random layers add, so the logit of a token whose output row
    reads only this coordinate, with weight -NEVER, is below -100 everywhere. The other
    output rows do not read it.

    All answers then have the same length on both sides, whatever either does at the EOS.
    """
    model.get_input_embeddings().weight[:, 0] = 1.0
    head = model.get_output_embeddings().weight
    head[:, 0] = 0.0
    for token in tokens:
        head[token] = 0.0
        head[token, 0] = -NEVER


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer of 4,094 words w2 ... w4095, an EOS and a padding token."""
    words = {f"w{i}": i for i in range(FIRST_WORD, VOCABULARY)}
    backend = Tokenizer(models.WordLevel({"<pad>": PAD, "<eos>": EOS, **words}, unk_token="<pad>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<eos>", padding_side="left"
    )


def write_material(folder: Path, model: str, prompt_tokens: int, prompts: int, seed: int) -> Path:
    """Write the model with its tokenizer, and prompts of exactly `prompt_tokens` tokens.

    Args:
        folder: Made if absent; what lies there already is kept.
        model: "random-llama", or a model name of `textenvs`.
        prompt_tokens: Length of each prompt.
        prompts: How many.
        seed: Decides the weights and the words.

    Returns:
        The folder of this material; `prompts.json` lies in it, the model in `model`.
    """
    folder = folder / f"{model}-{prompt_tokens}-{prompts}-{seed}"
    if (folder / "prompts.json").is_file():
        return folder
    if model == RANDOM_LLAMA:
        random_llama(seed).save_pretrained(folder / "model")
        word_tokenizer().save_pretrained(folder / "model")
        texts = _random_words(prompt_tokens, prompts, seed)
    else:
        load_causal_lm(model).save_pretrained(folder / "model")
        tokenizer = AutoTokenizer.from_pretrained(model_folder(model))
        tokenizer.save_pretrained(folder / "model")
        # A word that is one token, however often it is repeated, in any byte-level vocabulary.
        texts = [" the" * prompt_tokens] * prompts
    (folder / "prompts.json").write_text(json.dumps(texts), encoding="utf-8")
    return folder


def _random_words(length: int, prompts: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    ids = generator.integers(FIRST_WORD, VOCABULARY, (prompts, length))
    return [" ".join(f"w{i}" for i in row) for row in ids.tolist()]
