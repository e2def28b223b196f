"""Train the tiny language model that textenvs ships, from text, on two processor cores.

`python -m agents.tiny_lm --out FOLDER` writes a plain Hugging Face folder. The model knows
list documents of its own wordings, not the prompt of any registered environment: that is
left to supervised fine-tuning and PPO. Titles of the test split are never seen.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from agents.tiny_lm_data import (
    CHOICE,
    CONTEXT,
    EOS,
    PAD,
    Document,
    ListDocuments,
    read_films,
    read_words,
    train_tokenizer,
)
from agents.tokenizer_training import as_fast_tokenizer


@dataclass(frozen=True)
class Recipe:
    """Every choice that decides the weights."""

    seed: int = 0
    vocab_size: int = 5120
    width: int = 192
    n_layers: int = 4
    n_heads: int = 4
    mlp_width: int = 512
    context: int = 1024
    n_steps: int = 3000
    batch_tokens: int = 4096
    row_tokens: int = 192  # a row takes documents until it has so many
    learning_rate: float = 2e-3
    n_warmup: int = 50
    weight_decay: float = 0.02
    request_share: float = 0.3  # of the documents; the others are recalls
    first_items: int = 4
    max_items: int = 30
    advance_below: float = 0.5  # nats a choice; the lists grow when the mean falls under it
    context_share: float = 0.1  # of the tokens that answer nothing are predicted


def build_model(recipe: Recipe) -> LlamaForCausalLM:
    """Build the untrained model; the caller fixes torch's seed."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=recipe.vocab_size,
            hidden_size=recipe.width,
            intermediate_size=recipe.mlp_width,
            num_hidden_layers=recipe.n_layers,
            num_attention_heads=recipe.n_heads,
            num_key_value_heads=recipe.n_heads,
            max_position_embeddings=recipe.context,
            tie_word_embeddings=True,
            pad_token_id=PAD,
            bos_token_id=None,
            eos_token_id=EOS,
        )
    )


def draw_batch(
    source: ListDocuments, rng: np.random.Generator, n_items: int, recipe: Recipe
) -> tuple[Tensor, Tensor]:
    """Return token ids int64 [B, T] and loss weights float [B, T], right-padded.

    Short documents share a row: hundreds of rows of twenty tokens run far slower.
    """
    rows: list[Document] = []
    while sum(len(row.ids) for row in rows) < recipe.batch_tokens:
        row = Document([], [])
        while len(row.ids) < recipe.row_tokens:
            is_request = rng.random() < recipe.request_share
            document = (source.request if is_request else source.recall)(rng, n_items)
            row.ids += document.ids
            row.weights += document.weights
        rows.append(row)
    length = min(recipe.context, max(len(row.ids) for row in rows))
    ids, weights = torch.full((len(rows), length), PAD), torch.zeros(len(rows), length)
    for i, row in enumerate(rows):
        n = min(length, len(row.ids))
        ids[i, :n] = torch.tensor(row.ids[:n])
        weights[i, :n] = torch.tensor(row.weights[:n])
    # A tenth of the context tokens at ten times the weight: the same gradient on average,
    # for a fraction of the output layer's work.
    is_context = weights == CONTEXT
    drawn = torch.from_numpy(rng.random(weights.shape) < recipe.context_share)
    weights[is_context & ~drawn] = 0.0
    weights[is_context & drawn] = CONTEXT / recipe.context_share
    return ids, weights


def losses(model: LlamaForCausalLM, ids: Tensor, weights: Tensor) -> tuple[Tensor, float]:
    """Return the weighted loss and the mean loss, in nats, of the choosing tokens."""
    target = weights[:, 1:] > 0
    # Padding is on the right, where causal attention never looks, so no mask is needed.
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(input_ids=ids).last_hidden_state
        logits = model.lm_head(hidden[:, :-1][target])
    token_loss = torch.nn.functional.cross_entropy(
        logits.float(), ids[:, 1:][target], reduction="none"
    )
    weight = weights[:, 1:][target]
    choice = token_loss.detach()[weight == CHOICE].mean().item()
    return (token_loss * weight).sum() / weight.sum(), choice


def train(model: LlamaForCausalLM, source: ListDocuments, recipe: Recipe) -> None:
    """Train in place on lists that grow from `first_items` to `max_items`."""
    rng = np.random.default_rng(recipe.seed)
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe.learning_rate, (0.9, 0.95), weight_decay=recipe.weight_decay
    )
    n_items, mean_choice = recipe.first_items, 5.0
    began = time.perf_counter()
    for step in range(recipe.n_steps):
        left = 1.0 - step / recipe.n_steps
        rate = min(1.0, (step + 1) / recipe.n_warmup, 0.05 + left / 0.3)
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * rate
        drawn = n_items if rng.random() < 0.6 else int(rng.integers(2, n_items + 1))
        loss, choice = losses(model, *draw_batch(source, rng, drawn, recipe))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if drawn == n_items:
            mean_choice = 0.9 * mean_choice + 0.1 * choice
            if mean_choice < recipe.advance_below and n_items < recipe.max_items:
                n_items = min(recipe.max_items, n_items + max(1, n_items // 6))
                mean_choice = 0.6  # at least a few batches at every length
        if step % 50 == 0:
            seconds = time.perf_counter() - began
            print(f"step {step}  items {n_items}  choice {choice:.3f}  {seconds:.0f} s", flush=True)


def save(model: LlamaForCausalLM, tokenizer: Tokenizer, recipe: Recipe, out: Path) -> None:
    """Write a folder that AutoModelForCausalLM and AutoTokenizer load; half precision."""
    out.mkdir(parents=True, exist_ok=True)
    model.eval().to(torch.float16).save_pretrained(out)
    as_fast_tokenizer(tokenizer, recipe.context).save_pretrained(out)


def main() -> None:
    """Train and save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write the model to")
    parser.add_argument("--begin-from", type=Path, help="go on from a model of this shape")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.n_steps)
    parser.add_argument("--first-items", type=int, default=Recipe.first_items)
    given = parser.parse_args()
    recipe = Recipe(seed=given.seed, n_steps=given.steps, first_items=given.first_items)
    films, words = read_films("train"), read_words()
    tokenizer = train_tokenizer(films, words, recipe.vocab_size)
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        model = build_model(recipe)
    if given.begin_from is not None:
        model = LlamaForCausalLM.from_pretrained(given.begin_from, dtype=torch.float32)
    train(model, ListDocuments(tokenizer, films, words), recipe)
    save(model, tokenizer, recipe, given.out)


if __name__ == "__main__":
    main()
