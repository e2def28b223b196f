"""Prompts of `textenvs/ContextQA-v0`: drawn from the films, or read from a SQuAD file."""

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textenvs.errors import ConfigError, PromptError
from textenvs.prompts import SPLITS, GeneratedPrompts, PromptList, too_long
from textenvs.squad import SquadQuestion
from textenvs.suite.film_facts import WORDINGS, Film, draw_question
from textenvs.tokenization import TextTokenizer
from textenvs.types import Prompt, Split

TEMPLATE = (
    "{passage}\n\n{question} Answer in the words of the text; if it does not say, answer "
    '"{refusal}".\nAnswer:'
)
DRAWS = 16
PROBED, MISFITS_ALLOWED = 128, 0.05
GOLDEN = (5**0.5 - 1) / 2
CHUNK = 4096


@dataclass(frozen=True, slots=True)
class Windows:
    """The token windows prompts and answers must fit.

    Attributes:
        tokenizer: Counts the tokens.
        prompt: The most tokens of a prompt; None where longer ones are cut.
        answer: The most tokens of an answer, EOS included.
    """

    tokenizer: TextTokenizer
    prompt: int | None
    answer: int

    def __post_init__(self) -> None:
        """Refuse windows that hold nothing."""
        for name, value in (("max_prompt_tokens", self.prompt), ("max_new_tokens", self.answer)):
            is_count = isinstance(value, int) and not isinstance(value, bool) and value >= 1
            if value is not None and not is_count:
                raise ConfigError(f"{name} must be at least 1, got {value!r}")

    def prompt_fits(self, length: int) -> bool:
        """Return whether a prompt of so many tokens fits."""
        return self.prompt is None or length <= self.prompt

    def answer_fits(self, answer: str) -> bool:
        """Return whether an answer leaves one token for EOS."""
        return len(self.tokenizer.encode_completion(answer)) < self.answer

    def fits(self, prompts: Sequence[Prompt]) -> list[bool]:
        """Return of each prompt whether it and its reference fit."""
        lengths = map(len, self.tokenizer.encode_batch([prompt.text for prompt in prompts]))
        return [
            self.prompt_fits(length) and self.answer_fits(prompt.reference or "")
            for length, prompt in zip(lengths, prompts, strict=True)
        ]

    def cover(self, tokenizer: TextTokenizer, limit: int) -> bool:
        """Return whether what fits here fits `limit` columns of this tokenizer too."""
        return tokenizer is self.tokenizer and self.prompt is not None and limit >= self.prompt


class FilmPrompts(GeneratedPrompts):
    """Passages about films, each with a question; same seed, split and index, same prompt.

    A draw that does not fit the windows is drawn again. Which indices have no answer
    follows the fractional parts of multiples of the golden ratio (Knuth, The Art of Computer
    Programming, vol. 3, section 6.4), so that any run of indices holds nearly the stated
    share of them, however few prompts a split has.
    """

    def __init__(
        self,
        films: Sequence[Film],
        *,
        split: Split,
        n_films: int,
        unanswerable: float,
        refusal: str,
        size: int,
        seed: int,
        windows: Windows,
    ) -> None:
        """Check that draws fit; see `context_qa_task` for the options.

        Raises:
            PromptError: if more than 5% of the first draws do not fit.
        """
        super().__init__(self._fitting, size, seed=(seed, SPLITS.index(split)))
        self.films, self.split, self.seed = tuple(films), split, seed
        self.n_films, self.unanswerable, self.refusal = n_films, unanswerable, refusal
        self._windows = windows
        self._check_first_draws()

    def _check_first_draws(self) -> None:
        indices = range(min(PROBED, len(self)))
        drawn = [self._draw(i, np.random.default_rng((*self._seed, i))) for i in indices]
        fits = self._windows.fits(drawn)
        if fits.count(False) > MISFITS_ALLOWED * len(drawn):
            raise self._misfit([p for p, is_fit in zip(drawn, fits, strict=True) if not is_fit])

    def _misfit(self, misfits: Sequence[Prompt]) -> PromptError:
        """Return the error for prompts that do not fit: the longest one, or its answer."""
        lengths = list(map(len, self._windows.tokenizer.encode_batch([p.text for p in misfits])))
        limit, longest = self._windows.prompt, max(lengths)
        if limit is not None and longest > limit:
            return too_long(misfits[lengths.index(longest)], longest, limit)
        return PromptError(
            f"the answer {misfits[0].reference!r} of the prompt {misfits[0].id!r} and EOS do not "
            f"fit max_new_tokens {self._windows.answer}; raise it, the default is 16"
        )

    def _fitting(self, index: int, generator: np.random.Generator) -> Prompt:
        """Return the first draw that fits.

        Raises:
            PromptError: if none of 16 fits.
        """
        drawn = []
        for _ in range(DRAWS):
            drawn.append(self._draw(index, generator))
            if self._windows.fits(drawn[-1:])[0]:
                return drawn[-1]
        raise self._misfit(drawn)

    def _draw(self, index: int, generator: np.random.Generator) -> Prompt:
        drawn = draw_question(
            self.films,
            generator,
            n_films=self.n_films,
            answerable=(index + 1) * GOLDEN % 1.0 >= self.unanswerable,
            wording=WORDINGS[self.split],
        )
        prompt_id = f"{self.split}-{self.seed}-{index}"
        metadata = {
            "kind": drawn.kind,
            "film": drawn.film,
            "facts": [list(fact) for fact in drawn.facts],
            "split": self.split,
        }
        answers = [] if drawn.answer is None else [drawn.answer]
        return qa_prompt(
            prompt_id, drawn.sentences, drawn.question, answers, self.refusal, prompt_id, metadata
        )

    def check_lengths(self, tokenizer: TextTokenizer, limit: int) -> None:
        """Pass at once for the windows the prompts are drawn for."""
        if not self._windows.cover(tokenizer, limit):
            super().check_lengths(tokenizer, limit)


class SquadPrompts(PromptList):
    """The questions of a SQuAD file that fit the windows.

    Attributes:
        left_out: How many do not.
    """

    def __init__(
        self,
        questions: Iterable[SquadQuestion],
        *,
        split: Split | None,
        refusal: str,
        windows: Windows,
        file: str,
    ) -> None:
        """Leave out what does not fit, with a warning.

        Raises:
            PromptError: if more than half does not fit.
        """
        given = [_squad_prompt(question, split, refusal, windows) for question in questions]
        kept: list[Prompt] = []
        for start in range(0, len(given), CHUNK):
            chunk = given[start : start + CHUNK]
            kept += [p for p, is_fit in zip(chunk, windows.fits(chunk), strict=True) if is_fit]
        self.left_out = len(given) - len(kept)
        self._windows = windows
        reason = (
            f"{self.left_out} of {len(given)} questions of {file!r} do not fit "
            f"max_prompt_tokens {windows.prompt} and max_new_tokens {windows.answer}"
        )
        if 2 * self.left_out > len(given):
            raise PromptError(f"{reason}; raise them, or use a tokenizer with a larger vocabulary")
        if self.left_out:
            warnings.warn(f"{reason}; they are left out", stacklevel=2)
        super().__init__(kept)

    def check_lengths(self, tokenizer: TextTokenizer, limit: int) -> None:
        """Pass at once for the windows the prompts were chosen for."""
        if not self._windows.cover(tokenizer, limit):
            super().check_lengths(tokenizer, limit)


def _squad_prompt(
    question: SquadQuestion, split: Split | None, refusal: str, windows: Windows
) -> Prompt:
    """Return the prompt, with an answer that fits as the reference where there is one."""
    answers = sorted(question.answers, key=lambda text: not windows.answer_fits(text))
    metadata = {
        "kind": "squad",
        "article": question.article,
        "plausible": list(question.plausible),
        "split": split,
    }
    return qa_prompt(
        question.id,
        (question.passage,),
        question.question,
        answers,
        refusal,
        question.article,
        metadata,
    )


def qa_prompt(
    prompt_id: str,
    passage: Sequence[str],
    question: str,
    answers: list[str],
    refusal: str,
    group: str,
    metadata: dict[str, Any],
) -> Prompt:
    """Return the prompt for a passage and a question.

    Args:
        prompt_id: Its id.
        passage: Its sentences, or one paragraph; `Prompt.context`.
        question: In words.
        answers: The accepted answers, the first is the reference; empty where there is none.
        refusal: What is right where there is none.
        group: The unit of splitting.
        metadata: To which come `question`, `answerable`, `answers` and `refusal`.
    """
    text = TEMPLATE.format(passage=" ".join(passage), question=question, refusal=refusal)
    known = {
        "question": question,
        "answerable": bool(answers),
        "answers": answers,
        "refusal": refusal,
    }
    reference = answers[0] if answers else refusal
    return Prompt(prompt_id, text, tuple(passage), reference, group, {**metadata, **known})
