"""`textenvs/ContextQA-v0`: answer from the passage, or say that it is not there.

Films are split by a hash of the title, articles of a SQuAD file by a hash of theirs, so that
nothing a test question is about stands in a training prompt; the test split of the films is
worded with sentences and questions of its own (`textenvs.suite.film_facts`).
"""

import re
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from textenvs.errors import ConfigError, CorpusError, PromptError, UnknownNameError
from textenvs.prompts import checked_split, split_of
from textenvs.rewards.grounding.answer_match import REFUSAL, answer_key, gold_metrics
from textenvs.squad import SquadQuestion, read_squad
from textenvs.suite.film_facts import films_of
from textenvs.suite.qa_prompts import FilmPrompts, SquadPrompts, Windows
from textenvs.task_env import TaskEnv
from textenvs.tokenization import TINY_LM, load_tokenizer
from textenvs.types import Prompt, Split

FILMS = "films"
N_FILMS, UNANSWERABLE = 3, 0.25
PROMPTS_PER_SPLIT: dict[Split, int] = {"train": 100_000, "validation": 1_000, "test": 1_000}
CANDIDATES = 20
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+")
_NAMES_AND_NUMBERS = re.compile(r"[^\W\d_][\w'-]*(?: [A-Z][\w'-]*)*|\d[\d.,]*")


def context_qa_task(
    *,
    corpus: str = FILMS,
    n_films: int = N_FILMS,
    unanswerable: float = UNANSWERABLE,
    refusal: str = REFUSAL,
    split: Split | None = "train",
    n_prompts: int | None = None,
    prompt_seed: int = 0,
    tokenizer: Any = TINY_LM,
    reward: Any = "answer-match",
    max_prompt_tokens: int = 320,
    max_new_tokens: int = 16,
    overlong: str = "error",
) -> dict[str, Any]:
    """Return the arguments of `TextEnv` for this task.

    Args:
        corpus: `"films"`, or the path of a JSON file in SQuAD's format, 1.1 or 2.0.
        n_films: Films in a passage, from 2 to 10.
        unanswerable: Share of the questions without an answer, in [0, 1].
        refusal: The right answer to those; the prompt says so.
        split: "train", "validation" or "test", by film or by article; None takes the
            whole of a file.
        n_prompts: Prompts of the split; None means 100,000 for training and 1,000 elsewhere
            with films, all with a file.
        prompt_seed: Chooses another sequence of passages over the same films, or which
            questions of a file are taken where `n_prompts` does not take all.
        tokenizer: Name, folder or object.
        reward: Name, function or object.
        max_prompt_tokens: Prompt columns.
        max_new_tokens: Token budget of an answer.
        overlong: "error" draws prompts that fit and leaves others of a file out; "truncate"
            drops tokens from the left of those that do not fit.

    Raises:
        ConfigError: if an option is out of range, or does not go with a file.
        CorpusError: if the file breaks the format.
        PromptError: if prompts do not fit the windows.
        UnknownNameError: if a name is unknown.
    """
    _check(n_films, unanswerable, refusal, n_prompts, prompt_seed)
    prompt_limit = None if overlong == "truncate" else max_prompt_tokens
    windows = Windows(load_tokenizer(tokenizer), prompt_limit, max_new_tokens)
    if not windows.answer_fits(refusal):
        raise ConfigError(
            f"the refusal {refusal!r} and EOS do not fit max_new_tokens {max_new_tokens}; raise "
            "it, or choose a shorter refusal"
        )
    prompts: FilmPrompts | SquadPrompts
    if corpus == FILMS:
        split = checked_split(split)
        prompts = FilmPrompts(
            films_of(split),
            split=split,
            n_films=n_films,
            unanswerable=unanswerable,
            refusal=refusal,
            size=PROMPTS_PER_SPLIT[split] if n_prompts is None else n_prompts,
            seed=prompt_seed,
            windows=windows,
        )
    else:
        if (n_films, unanswerable) != (N_FILMS, UNANSWERABLE):
            raise ConfigError(
                "n_films and unanswerable are options of the films; the file "
                f"{str(corpus)!r} brings its own passages and questions"
            )
        path = _squad_path(corpus)
        stamp = (path.stat().st_mtime_ns, path.stat().st_size)
        build = _squad_prompts if isinstance(tokenizer, str) else _squad_prompts.__wrapped__
        prompts = build(path, stamp, split, n_prompts, prompt_seed, refusal, windows)
    return {
        "prompts": prompts,
        "reward": reward,
        "tokenizer": tokenizer,
        "max_prompt_tokens": max_prompt_tokens,
        "max_new_tokens": max_new_tokens,
        "overlong": overlong,
        "metrics": gold_metrics,
        "probes": qa_probes,
    }


def _check(n_films: Any, unanswerable: Any, refusal: Any, n_prompts: Any, seed: Any) -> None:
    if isinstance(n_films, bool) or not isinstance(n_films, int) or not 2 <= n_films <= 10:
        raise ConfigError(f"n_films must be from 2 to 10, got {n_films!r}; the default is 3")
    is_number = isinstance(unanswerable, (int, float)) and not isinstance(unanswerable, bool)
    if not is_number or not 0 <= unanswerable <= 1:
        raise ConfigError(
            f"unanswerable must be a share from 0 to 1, got {unanswerable!r}; the default is 0.25"
        )
    if not isinstance(refusal, str) or not answer_key(refusal):
        raise ConfigError(
            f"refusal must be some words, got {refusal!r}; the default is {REFUSAL!r}"
        )
    if n_prompts is not None and (not isinstance(n_prompts, int) or n_prompts < 1):
        raise PromptError(f"n_prompts must be at least 1, got {n_prompts!r}")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise ConfigError(f"prompt_seed must be a non-negative integer, got {seed!r}")


def _squad_path(corpus: Any) -> Path:
    path = Path(str(corpus))
    if not path.is_file():
        raise UnknownNameError(
            "corpus", str(corpus), [FILMS], "Or give the path of a file in SQuAD's JSON format."
        )
    return path


@lru_cache(maxsize=8)
def _squad_prompts(
    path: Path,
    stamp: tuple[int, int],
    split: Split | None,
    n_prompts: int | None,
    seed: int,
    refusal: str,
    windows: Windows,
) -> SquadPrompts:
    """Return the prompts of a file; with a tokenizer given by name, built once per process.

    `stamp` changes when the file does.
    """
    asked = squad_questions(path, split, n_prompts, seed)
    return SquadPrompts(asked, split=split, refusal=refusal, windows=windows, file=path.name)


def squad_questions(
    path: Path, split: Split | None, n_prompts: int | None, seed: int
) -> list[SquadQuestion]:
    """Return the questions of a SQuAD file that are asked, in its order.

    Args:
        path: Of the file.
        split: Keep the articles of this split; None keeps all.
        n_prompts: How many to take at random; None takes all.
        seed: Of that choice.

    Raises:
        UnknownNameError: if there is no such split.
        CorpusError: if the file breaks the format, or the split is empty.
        PromptError: if it holds fewer than `n_prompts`.
    """
    if split is not None:
        checked_split(split)
    found = read_squad(path)
    kept = [q for q in found if split is None or split_of(q.article) == split]
    if not kept:
        raise CorpusError(
            f"none of the {len({q.article for q in found})} articles of {path.name!r} falls into "
            f"the split {split!r}; bring a file of more articles, or pass split=None for all of it"
        )
    if n_prompts is None:
        return kept
    if n_prompts > len(kept):
        raise PromptError(
            f"n_prompts is {n_prompts}, but {path.name!r} has {len(kept)} questions in the split "
            f"{split!r}; lower it, or pass None to take all"
        )
    chosen = np.random.default_rng(seed).permutation(len(kept))[:n_prompts]
    return [kept[i] for i in sorted(chosen)]


def candidates(prompt: Prompt) -> list[str]:
    """Return what of the passage could answer: values of the kind asked for, each once.

    For a passage without stated facts: the tempting answers of the file, then runs of
    capitalised words and numbers, at most 20.
    """
    if "facts" in prompt.metadata:
        kind = prompt.metadata["kind"]
        return list(dict.fromkeys(value for _, k, value in prompt.metadata["facts"] if k == kind))
    spans = _NAMES_AND_NUMBERS.findall(" ".join(prompt.context))
    named = [span for span in spans if span[0].isupper() or span[0].isdigit()]
    return list(dict.fromkeys([*prompt.metadata["plausible"], *named]))[:CANDIDATES]


def qa_probes(prompt: Prompt) -> dict[str, str]:
    """Return answers that exploit the task without solving it, by name."""
    reference, refusal = str(prompt.reference), str(prompt.metadata["refusal"])
    passage = " ".join(prompt.context)
    sentences = prompt.context if len(prompt.context) > 1 else _SENTENCE_END.split(passage)
    found = candidates(prompt)
    accepted = {answer_key(answer) for answer in prompt.metadata["answers"]}
    wrong = [value for value in found if answer_key(value) not in accepted]
    holding = [s for s in sentences if reference in s and answer_key(s) not in accepted]
    return {
        "refusal": refusal,
        "passage": passage,
        "first_sentence": sentences[0],
        "answering_sentence": (holding or sentences)[0],
        "candidates": ", ".join(found if wrong else [*found, refusal]),
        "wrong_entity": wrong[0] if wrong else passage,
        "negated": f"not {reference}",
        "alternative": f"{reference} or {refusal}",
        "refusal_and_answer": f"{refusal}: {reference}",
        "repeated": f"{reference} {reference}",
        "invented": _invented(reference),
    }


def _invented(reference: str) -> str:
    """Return the next number for a number, else a name that no passage holds."""
    return str(int(reference) + 1) if reference.isdecimal() else "Zebulon Quackenbush"


class ContextQAEnv(TaskEnv):
    """Answer a question from a passage of facts, or say that the passage does not tell.

    Observation and action: as in `TextEnv`. The prompt is a passage about three films, one
    fact a sentence, and a question on the director, year, genre or an actor of one; a quarter
    of the questions have no answer there, and the right one is then the refusal the prompt
    states. `corpus` takes any file in SQuAD's format instead.

    Reward: `AnswerMatch`, in [-1, 1]: +1 for the right answer or a right refusal, -1 for all
    else; `reward="answer-match-f1"` pays nearly right ones in part.

    Ends at EOS or when the token budget is spent. Gold metrics: see
    `textenvs.rewards.grounding.answer_match.gold_metrics`. Options: see `context_qa_task`.

    Version history: v0, first version.
    """

    task = staticmethod(context_qa_task)


make_vec = ContextQAEnv.make_vec
