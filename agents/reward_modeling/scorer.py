"""Scores of all answers to a prompt in one forward pass, with gradients."""

import inspect
from collections.abc import Sequence
from os.path import commonprefix

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from agents.preferences.rankings import Ranking
from textenvs.decoding import autocast
from textenvs.rewards.learned.batches import batches_by_length
from textenvs.rewards.learned.classifier import LoadedClassifier
from textenvs.rewards.learned.model_texts import CHAT, judged_text
from textenvs.teacher_forcing.packing import Packing, pack
from textenvs.teacher_forcing.trunk import (
    base_model,
    forward_trunk,
    hidden_size,
    longest_shareable,
    trunk_of,
)
from textenvs.types import Prompt

Rows = Sequence[list[int]]
"""The tokens of each answer to one prompt, prompt included."""

HEAD = "score"
"""What transformers calls the head of a decoder's classifier; an encoder's is called otherwise."""
PROBE_STEM, PROBE_ANSWERS, PROBE_TOLERANCE = 8, 3, 1e-4


class AnswerScorer:
    """The scores of whole rankings by a sequence classifier.

    Under a causal trunk what the K texts of a ranking have in common, the prompt, is
    computed once: a row holds it followed by what is left of each text, and each part sees
    the prompt and itself alone (`textenvs.teacher_forcing.packing`). Where that is impossible
    (an encoder reads both ways) the texts are K rows of one pass. Either way a score is that
    which `textenvs.rewards.RewardModel` gives the same text.
    """

    def __init__(self, loaded: LoadedClassifier, template: str, *, bfloat16: bool = False) -> None:
        """Bind a classifier with one label.

        Args:
            loaded: The model, in training or not, its tokenizer and its limits.
            template: "chat", or a text with the fields {prompt} and {completion}.
            bfloat16: Compute under autocast; a decoder's head stays in float32, since in
                bfloat16 scores have three digits and many answers would tie.
        """
        self.loaded, self.template, self.bfloat16 = loaded, template, bfloat16
        self.device = next(loaded.model.parameters()).device
        self.shares_prompts = self._can_share() and self._sharing_is_exact()

    def rows(self, ranking: Ranking, max_tokens: int) -> tuple[list[list[int]], int]:
        """Return the tokens of each answer with its prompt, and how many texts were cut.

        Args:
            ranking: K answers to a prompt.
            max_tokens: The most tokens of a text; longer ones lose tokens on the left.
        """
        prompt, tokenizer = Prompt("", ranking.prompt), self.loaded.tokenizer
        name = str(self.loaded.model.config.name_or_path)
        texts = [
            judged_text(tokenizer, self.template, prompt, answer, name)
            for answer in ranking.answers
        ]
        return self.loaded.encode(texts, max_tokens, special=self.template != CHAT)

    def scores(self, rankings: Sequence[Rows]) -> Tensor:
        """Return float32 [N], the score of each answer of each ranking, in order.

        Args:
            rankings: As `rows` returns them, of all that is to go through one pass.
        """
        with autocast(self.bfloat16, self.device):
            if not self.shares_prompts:
                return self._logits_of_rows([row for rows in rankings for row in rows])
            base = base_model(self.loaded.model)
            packing = self._packed(rankings)
            hidden = forward_trunk(base, trunk_of(base), packing).last_hidden_state
        last = hidden.flatten(0, 1)[packing.ends].float()
        return dict(base.named_children())[HEAD](last)[:, 0]

    def micro_batches(self, rankings: Sequence[Rows], token_budget: int) -> list[list[int]]:
        """Return the numbers of the rankings of each forward pass, the longest first.

        Args:
            rankings: As `rows` returns them.
            token_budget: The most tokens of a pass, padding included; a longer ranking is alone.
        """
        return batches_by_length([self._tokens(rows) for rows in rankings], token_budget)

    def _tokens(self, rows: Rows) -> int:
        if not self.shares_prompts:
            return len(rows) * max(map(len, rows))
        common = len(commonprefix(rows))
        return common + sum(len(row) - common for row in rows)

    def _logits_of_rows(self, rows: Rows) -> Tensor:
        tensors = [torch.tensor(row, device=self.device) for row in rows]
        ids = pad_sequence(tensors, batch_first=True)
        mask = pad_sequence([torch.ones_like(row) for row in tensors], batch_first=True)
        return self.loaded.logits(ids, mask)[:, 0]

    def _packed(self, rankings: Sequence[Rows]) -> Packing:
        """Lay rankings out for one forward pass; its `ends` are the tokens that are scored."""
        stems, leaves = [], []
        for rows in rankings:
            scored = [self._up_to_scored_token(row) for row in rows]
            # Something has to stand before each answer, if only its own first token.
            common = max(1, len(commonprefix(scored)))
            stems += [row[:common] for row in scored]
            leaves += [row[common:] for row in scored]
        start = max(map(len, stems))
        ids = torch.zeros(len(stems), start + max(map(len, leaves)), dtype=torch.long)
        mask = torch.zeros_like(ids)
        for row, (stem, leaf) in enumerate(zip(stems, leaves, strict=True)):
            span = slice(start - len(stem), start + len(leaf))
            ids[row, span] = torch.tensor([*stem, *leaf])
            mask[row, span] = 1
        base = base_model(self.loaded.model)
        return pack(
            ids.to(self.device),
            mask.to(self.device),
            start,
            hidden_size=hidden_size(base),
            shareable=longest_shareable(base),
        )

    def _up_to_scored_token(self, row: list[int]) -> list[int]:
        """Return a row without what follows the token that transformers scores.

        That is the last one that is not the padding: where EOS pads, a closing EOS is none.
        """
        last = len(row)
        while last > 1 and row[last - 1] == self.loaded.pad_id:
            last -= 1
        return row[:last]

    def _can_share(self) -> bool:
        """Return whether the classifier is a trunk that takes positions, under one head."""
        base = base_model(self.loaded.model)
        takes = inspect.signature(trunk_of(base).forward).parameters
        has_head = HEAD in dict(base.named_children())
        return has_head and "position_ids" in takes and longest_shareable(base) != 0

    @torch.no_grad()
    def _sharing_is_exact(self) -> bool:
        """Return whether a made-up ranking gets the scores of its texts one by one.

        What a trunk does with a mask and with positions cannot be read off its configuration;
        one that attends both ways, or adds something of its own, shows here.
        """
        vocabulary = base_model(self.loaded.model).config.get_text_config().vocab_size
        ids = [i for i in range(vocabulary) if i != self.loaded.pad_id][: 2 * PROBE_STEM]
        rows = [ids[:PROBE_STEM] + ids[-1 - i :] for i in range(PROBE_ANSWERS)]
        base = base_model(self.loaded.model)
        packing = self._packed([rows])
        hidden = forward_trunk(base, trunk_of(base), packing).last_hidden_state
        shared = dict(base.named_children())[HEAD](hidden.flatten(0, 1)[packing.ends])[:, 0]
        alone = self._logits_of_rows(rows)
        return bool(torch.allclose(shared.float(), alone, atol=PROBE_TOLERANCE, rtol=1e-3))
