"""Pairs of answers as tokens, read exactly as an environment shows its prompts."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from agents.policy import CausalLMPolicy
from agents.preferences import Ranking
from agents.supervision.examples import Example, context_window
from textenvs.chat import ChatPrompts
from textenvs.errors import ConfigError, UnknownNameError
from textenvs.teacher_forcing.micro_batches import micro_batches
from textenvs.tokenization import TextTokenizer, load_tokenizer

LONG_PROMPTS, LONG_PAIRS, ALIKE = "prompts too long", "pairs too long", "pairs alike once cut"
OTHER_PROMPTS = "prompts the environment does not have"


@dataclass
class PairSet:
    """Answers as tokens, and which of them is preferred to which.

    Attributes:
        answers: Each answer once, those to one prompt next to each other.
        prompts: The number of the prompt of each answer.
        pairs: Indices of the preferred answer and of the other.
        counts: What was left out, or is worth knowing -> how often.
    """

    answers: list[Example] = field(default_factory=list)
    prompts: list[int] = field(default_factory=list)
    pairs: list[tuple[int, int]] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.pairs)

    def note(self, what: str) -> None:
        """Count one more of something."""
        self.counts[what] = self.counts.get(what, 0) + 1


class Reader:
    """Turns prompts and answers into the tokens that a policy reads and acts."""

    def __init__(self, env_or_tokenizer: Any) -> None:
        """Take the window of an environment, or none.

        Args:
            env_or_tokenizer: A text environment, single or vector; or a tokenizer, or its name.
        """
        self.batch: Any = None
        if isinstance(env_or_tokenizer, (str, TextTokenizer)):
            self.tokenizer: TextTokenizer = load_tokenizer(env_or_tokenizer)
        else:
            self.batch = env_or_tokenizer.unwrapped.batch
            self.tokenizer = self.batch.tokenizer

    def prompt_ids(self, ranking: Ranking, pairs: PairSet) -> tuple[int, ...] | None:
        """Return the tokens of a prompt; None if the environment would refuse it.

        A prompt that the environment has is taken from there, by its id; any other text is
        read as the environment reads texts: those of a chat are rendered already.
        """
        if self.batch is None:
            return tuple(self.tokenizer.encode(ranking.prompt))
        known = self._known_prompt(ranking)
        if known is not None:
            return known
        pairs.note(OTHER_PROMPTS)
        is_chat = isinstance(self.batch.prompts, ChatPrompts)
        encode = self.tokenizer.encode_completion if is_chat else self.tokenizer.encode
        ids = encode(ranking.prompt)
        surplus = len(ids) - self.batch.num_prompt_columns
        if surplus > 0 and self.batch.overlong == "error":
            pairs.note(LONG_PROMPTS)
            return None
        return tuple(ids[max(0, surplus) :])

    def _known_prompt(self, ranking: Ranking) -> tuple[int, ...] | None:
        if not ranking.prompt_id:
            return None
        try:
            prompt, ids, _ = self.batch.encoded(self.batch.prompts.index_of(ranking.prompt_id))
        except UnknownNameError:
            return None
        return tuple(ids.tolist()) if prompt.text == ranking.prompt else None

    def answer_ids(self, text: str) -> tuple[int, ...]:
        """Return the tokens of an answer, EOS behind; one over the budget is cut and has none."""
        limit = None if self.batch is None else self.batch.max_new_tokens
        return (*self.tokenizer.encode_completion(text), self.tokenizer.eos_id)[:limit]


def encode_pairs(
    policy: CausalLMPolicy, rankings: Sequence[Ranking], env_or_tokenizer: Any = None
) -> PairSet:
    """Return all pairs of rankings as tokens; what does not fit is left out and counted.

    Args:
        policy: Reads them; its vocabulary is bound to the tokenizer's.
        rankings: Of K answers each; tied answers make no pair.
        env_or_tokenizer: As in `Reader`; None takes the policy's own tokenizer.

    Raises:
        ConfigError: if there is no tokenizer, or no pair is left.
        ModelError: if the policy knows fewer tokens than the tokenizer.
    """
    source = policy.tokenizer if env_or_tokenizer is None else env_or_tokenizer
    if source is None:
        raise ConfigError(
            "the policy has no tokenizer; pass env_or_tokenizer=, or load the policy from a "
            "folder that holds one"
        )
    reader = Reader(source)
    policy.check_vocabulary(reader.tokenizer.vocab_size)
    window, found = context_window(policy.model), PairSet()
    for number, ranking in enumerate(rankings):
        prompt = reader.prompt_ids(ranking, found)
        if prompt:
            _add(found, number, ranking, prompt, reader, window)
    if not found.pairs:
        raise ConfigError(
            f"{len(rankings)} rankings give no pair to learn from (left out: "
            f"{found.counts or 'nothing'}); give rankings with answers that differ, of prompts "
            "that fit the environment (max_prompt_tokens) and the model"
        )
    return found


def _add(
    found: PairSet,
    number: int,
    ranking: Ranking,
    prompt: tuple[int, ...],
    reader: Reader,
    window: int | None,
) -> None:
    """Take up the pairs of a ranking whose prompt is read."""
    examples = [Example(prompt, reader.answer_ids(text)) for text in ranking.answers]
    places: dict[Example, int] = {}
    for i, better in enumerate(examples):
        for j, worse in enumerate(examples):
            if ranking.ranks[i] >= ranking.ranks[j]:
                continue
            if better == worse:
                found.note(ALIKE)
                continue
            if window is not None and max(len(better), len(worse)) > window:
                found.note(LONG_PAIRS)
                continue
            pair = []
            for example in (better, worse):
                if example not in places:
                    places[example] = len(found.answers)
                    found.answers.append(example)
                    found.prompts.append(number)
                pair.append(places[example])
            found.pairs.append((pair[0], pair[1]))


def token_logprobs(
    policy: CausalLMPolicy,
    answers: Sequence[Example],
    groups: Sequence[int],
    *,
    micro_batch_tokens: int,
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield log pi of the tokens of answers, one forward pass after another.

    A prompt is computed once for its neighbours in a group. The caller takes the gradient of
    each pass before it asks for the next.

    Args:
        policy: The model.
        answers: At least one.
        groups: The group of each; a group stays in one pass, its members in their order.
        micro_batch_tokens: Tokens of a forward pass.

    Yields:
        The indices of n answers, int64 [n], and float32 [n, T], 0 behind their ends.
    """
    ids, mask, start = _left_padded(answers)
    ids, mask = ids.to(policy.device), mask.to(policy.device)
    every = torch.arange(len(answers), device=policy.device)
    of_group = torch.tensor(groups, device=policy.device)
    for rows in micro_batches(mask, start, every, of_group, micro_batch_tokens):
        evaluation = policy.evaluate(
            ids[rows], mask[rows], start, with_values=False, with_entropy=False
        )
        yield rows, evaluation.logprobs


@torch.no_grad()
def fixed_logprobs(policy: CausalLMPolicy, pairs: PairSet, *, micro_batch_tokens: int) -> Tensor:
    """Return float32 [A, T]: log pi of the tokens of every answer, as the policy is now.

    Args:
        policy: The model.
        pairs: With A answers, the longest of T tokens.
        micro_batch_tokens: Tokens of a forward pass.
    """
    longest = max(len(example.answer) for example in pairs.answers)
    result = torch.zeros(len(pairs.answers), longest, device=policy.device)
    for rows, logprobs in token_logprobs(
        policy, pairs.answers, pairs.prompts, micro_batch_tokens=micro_batch_tokens
    ):
        result[rows] = logprobs
    return result


def _left_padded(answers: Sequence[Example]) -> tuple[Tensor, Tensor, int]:
    """Return int64 [B, P + T] tokens, their mask, and P; the padding is any valid token."""
    start = max(len(example.prompt) for example in answers)
    width = start + max(len(example.answer) for example in answers)
    ids = torch.zeros(len(answers), width, dtype=torch.int64)
    mask = torch.zeros(len(answers), width, dtype=torch.bool)
    for row, example in enumerate(answers):
        first = start - len(example.prompt)
        end = start + len(example.answer)
        ids[row, first:end] = torch.tensor(example.prompt + example.answer)
        mask[row, first:end] = True
    return ids, mask, start
