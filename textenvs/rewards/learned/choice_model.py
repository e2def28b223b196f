"""A causal language model that is asked to answer with one of several words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from os.path import commonprefix
from typing import TYPE_CHECKING, Any

import numpy as np

from textenvs.errors import ModelError
from textenvs.rewards.learned.batches import Batching
from textenvs.rewards.learned.classifier import in_float32, longest_text
from textenvs.rewards.learned.model_texts import defused, filled, rendered, special_tokens

if TYPE_CHECKING:
    from torch import Tensor

CUT = "[...]"


@dataclass(frozen=True)
class ChoiceModel:
    """A causal language model in evaluation mode, with its tokenizer.

    Attributes:
        name: As it was asked for.
        model: On its device.
        tokenizer: Of transformers.
        longest: The most tokens the model reads.
    """

    name: str
    model: Any
    tokenizer: Any
    longest: int

    @property
    def lead(self) -> str:
        """What stands between the question and a choice: its model's turn, or a space."""
        return "" if self.tokenizer.chat_template else " "

    def choice_ids(self, choices: Sequence[str]) -> tuple[list[int], list[int]]:
        """Return the ids that all choices begin with, and the one by which each differs.

        Raises:
            ModelError: if two choices do not differ in the token behind their common ones.
        """
        rows = [self._ids(self.lead + choice) for choice in choices]
        common = list(commonprefix(rows))
        after = [row[len(common) : len(common) + 1] for row in rows]
        found = [row[0] for row in after if row]
        if len(set(found)) < len(choices):
            raise ModelError(
                f"the tokenizer of {self.name!r} does not tell the choices {list(choices)} apart "
                "by one token; take letters, or the digits from 0 to 9"
            )
        return common, found

    def question(self, template: str, fields: Mapping[str, str], quotations: Sequence[str]) -> str:
        """Return a filled template as a user's message, special tokens of the fields broken up.

        Args:
            template: With `{fields}`.
            fields: Values by name.
            quotations: Names of the values in which special tokens are broken up.
        """
        special = special_tokens(self.tokenizer)
        safe = {k: defused(v, special if k in quotations else ()) for k, v in fields.items()}
        text = filled(template, safe)
        if not self.tokenizer.chat_template:
            return text
        messages = [{"role": "user", "content": text}]
        return rendered(self.tokenizer, messages, self.name, to_be_answered=True)

    def fitted(
        self, template: str, fields: Mapping[str, str], ends: Mapping[str, str], limit: int
    ) -> tuple[str, bool]:
        """Return a question of at most so many tokens, and whether anything was cut.

        Long values share evenly what room there is, short ones keep all of theirs.

        Args:
            template: With `{fields}`.
            fields: Values by name.
            ends: Which values may be cut, and the end to keep: "head" or "tail".
            limit: Tokens, those of a choice not counted.

        Raises:
            ModelError: if the question has more tokens without any of those values.
        """
        text = self.question(template, fields, list(ends))
        if len(self.encode(text)) <= limit:
            return text, False
        empty = {**fields, **dict.fromkeys(ends, f"> {CUT}")}
        room = limit - len(self.encode(self.question(template, empty, list(ends))))
        if room < 0:
            raise ModelError(
                f"{self.name!r} reads at most {limit} tokens here, and the question alone has "
                f"{limit - room}; shorten rubric and template, or raise max_tokens"
            )
        shorter = dict(fields)
        ids = {name: self._ids(fields[name]) for name in ends}
        for done, name in enumerate(sorted(ends, key=lambda name: len(ids[name]))):
            share = room // (len(ends) - done)
            if len(ids[name]) > share:
                shorter[name] = self._cut(ids[name], share, ends[name])
            room -= min(share, len(ids[name]))
        text = self.question(template, shorter, list(ends))
        return text, True

    def encode(self, text: str) -> list[int]:
        """Return the ids of a question; a chat template has written the special tokens."""
        special = not self.tokenizer.chat_template
        ids = self.tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]
        return list(ids)

    def logprobs(
        self, texts: Sequence[str], choices: Sequence[str], batching: Batching
    ) -> np.ndarray:
        """Return float64 [B, K], the log-probability of each choice as the next token.

        One forward pass without a cache; nothing is sampled.

        Args:
            texts: Questions.
            choices: K of them.
            batching: How questions are brought together; pads on the left.
        """
        from textenvs.decoding import positions

        common, chosen = self.choice_ids(choices)
        # Cut texts are decoded and encoded again, which may add a token or two.
        rows = [[*self.encode(text), *common][-batching.longest :] for text in texts]

        def forward(ids: "Tensor", mask: "Tensor") -> "Tensor":
            output = self.model(
                input_ids=ids,
                attention_mask=mask,
                position_ids=positions(mask),
                use_cache=False,
                logits_to_keep=1,
            )
            return output.logits[:, -1].float().log_softmax(-1)[:, chosen]

        return batching.outputs(rows, forward)

    def _ids(self, text: str) -> list[int]:
        options = {"add_special_tokens": False, "verbose": False}
        return list(self.tokenizer(text, **options)["input_ids"])

    def _cut(self, ids: Sequence[int], share: int, end: str) -> str:
        kept = ids[:share] if end == "head" else ids[len(ids) - share :]
        text = self.tokenizer.decode(kept, clean_up_tokenization_spaces=False)
        return f"{text}{CUT}" if end == "head" else f"> {CUT}{text}"


@lru_cache(maxsize=4)
def shared_choice_model(name: str, device: str, bfloat16: bool) -> ChoiceModel:
    """Return a frozen model that all users of the process share.

    Args:
        name: As in `textenvs.models.model_folder`.
        device: "cpu", "cuda", ...
        bfloat16: Hold and compute all but the head in bfloat16; see `shared_classifier`.

    Raises:
        UnknownNameError: if the name leads nowhere.
        ModelError: if the folder holds no causal language model, or one that cannot be
            given positions.
    """
    import torch
    from transformers import AutoTokenizer

    from textenvs.decoding import check_model
    from textenvs.models import load_causal_lm, model_folder, shared_causal_lm

    if bfloat16:
        model = load_causal_lm(name, dtype=torch.bfloat16).requires_grad_(False)
        model.set_output_embeddings(in_float32(model.get_output_embeddings()))
    elif device == "cpu":
        model = shared_causal_lm(name)
    else:
        model = load_causal_lm(name).requires_grad_(False)
    tokenizer = AutoTokenizer.from_pretrained(model_folder(name), trust_remote_code=False)
    check_model(model, len(tokenizer))
    longest = longest_text(model.config)
    return ChoiceModel(name, model.to(device), tokenizer, longest)
