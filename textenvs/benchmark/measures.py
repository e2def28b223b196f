"""What is measured of a set of answers: variety, copying, and who wins against whom.

Pure functions of texts and numbers. Words are those of `textenvs.rewards.classic.words`:
lower case, runs of letters and digits.
"""

from collections.abc import Sequence

import numpy as np

from textenvs.errors import ConfigError
from textenvs.rewards.classic.bleu import bleu
from textenvs.rewards.classic.diversity import WORDS_READ
from textenvs.rewards.classic.words import WORD, ngrams, words_of
from textenvs.types import Item, Prompt

SELF_BLEU_TEXTS = 32
"""Texts that self-BLEU compares by default; its cost grows with their square."""
LEAST_RUN = 2
"""Words; a shorter agreement with a source, unless it is a whole line, is no copy."""

Span = tuple[int, int]


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Return distinct n-grams over all n-grams of a set of texts (arXiv:1510.03055).

    Counted over all texts together, so that a policy that says the same everywhere is
    found out; `textenvs.rewards.classic.diversity.distinct_share` is that of one text. The
    share falls as more or longer texts are counted: compare sets of one size.

    Args:
        texts: Answers; words past 2,048 of each are not read.
        n: Words in a run, at least 1.

    Returns:
        In [0, 1]; 0 where no text has n words.

    Raises:
        ConfigError: if n is below 1.
    """
    if n < 1:
        raise ConfigError(f"n must be at least 1, got {n}; the usual ones are 1 and 2")
    runs = [run for text in texts for run in ngrams(words_of(text, WORDS_READ), n)]
    return len(set(runs)) / len(runs) if runs else 0.0


def self_bleu(
    texts: Sequence[str], *, seed: int = 0, n_texts: int = SELF_BLEU_TEXTS
) -> float | None:
    """Return the mean BLEU of each text against all the others (Zhu et al., arXiv:1802.01886).

    1 is a set of equal texts, near 0 one whose texts share no words. Each BLEU is
    sacreBLEU's of a sentence, as in `textenvs.rewards.classic.bleu`; of two empty texts it
    is 1. More than `n_texts` texts are drawn from, without replacement: the seed and the
    number of texts alone decide which, so that sets of one size are compared at the same
    places.

    Args:
        texts: Answers.
        seed: Of the draw.
        n_texts: The most texts to compare, at least 2.

    Returns:
        In [0, 1]; None for fewer than two texts.

    Raises:
        ConfigError: if `n_texts` is below 2.
        MissingDependencyError: if `sacrebleu` is absent.
    """
    if n_texts < 2:
        raise ConfigError(f"n_texts must be at least 2, got {n_texts}; nothing else is compared")
    if len(texts) < 2:
        return None
    generator = np.random.default_rng(seed)
    places = np.arange(len(texts))
    if len(texts) > n_texts:
        places = np.sort(generator.choice(len(texts), n_texts, replace=False))
    drawn = [texts[place].strip() for place in places.tolist()]
    return float(np.mean([_likeness(drawn, i) for i in range(len(drawn))]))


def _likeness(texts: Sequence[str], i: int) -> float:
    """Return the BLEU of text i against the others."""
    others = [*texts[:i], *texts[i + 1 :]]
    if texts[i] in others:  # sacreBLEU says 1 as well, in more time, and 0 of empty texts
        return 1.0
    return bleu(texts[i], others)


def context_texts(prompt: Prompt) -> tuple[str, ...]:
    """Return what an answer may draw on: the prompt's context, or else its text.

    Args:
        prompt: Its context is a text, or a sequence of texts or of `Item`s (whose titles
            are taken); anything else, such as the edges of a graph, is taken for none.
    """
    context = prompt.context
    parts = (context,) if isinstance(context, str) else context
    if isinstance(parts, (tuple, list)) and parts:
        if all(isinstance(part, (str, Item)) for part in parts):
            return tuple(part if isinstance(part, str) else part.title for part in parts)
    return (prompt.text,)


def matched_spans(completion: str, sources: Sequence[str], least: int = LEAST_RUN) -> list[Span]:
    """Return the stretches of a completion that stand, word for word, in one of its sources.

    From left to right the longest run of words that a single source has is taken, if it
    has `least` words or more, or is a whole line of the completion (titles may be one word).
    Case and punctuation between the words make no difference.

    Args:
        completion: Anything.
        sources: Texts it may have copied.
        least: Words of a run inside a line, at least 1.

    Returns:
        (start, end) in characters of the completion, in order, never overlapping.
    """
    found = list(WORD.finditer(completion))
    words = [match[0].lower() for match in found]
    # The gap before each word says whether a line ends there.
    breaks = {0, len(found)} | {
        i for i in range(1, len(found)) if "\n" in completion[found[i - 1].end() : found[i].start()]
    }
    known = [words_of(source) for source in sources]
    spans, i = [], 0
    while i < len(words):
        length = max((_run_at(words, i, source) for source in known), default=0)
        # A run that crosses a line break is still a run; a short one must fill its line.
        is_line = length > 0 and i in breaks and i + length in breaks
        if length >= max(1, least) or is_line:
            spans.append((found[i].start(), found[i + length - 1].end()))
            i += length
        else:
            i += 1
    return spans


def _run_at(words: Sequence[str], start: int, source: Sequence[str]) -> int:
    """Return the length of the longest run from `start` that stands in a source."""
    best = 0
    for place, word in enumerate(source):
        if word != words[start]:
            continue
        length, most = 1, min(len(words) - start, len(source) - place)
        while length < most and words[start + length] == source[place + length]:
            length += 1
        best = max(best, length)
    return best


def copied_fraction(completion: str, sources: Sequence[str], least: int = LEAST_RUN) -> float:
    """Return the share of a completion's words that lie in `matched_spans`.

    Args:
        completion: Anything.
        sources: Texts it may have copied.
        least: As in `matched_spans`.

    Returns:
        In [0, 1]; 0 for a completion without words.
    """
    words = [match.span() for match in WORD.finditer(completion)]
    spans = matched_spans(completion, sources, least)
    inside = sum(any(a <= start and end <= b for a, b in spans) for start, end in words)
    return inside / len(words) if words else 0.0


def wins(scores: Sequence[float | None], baseline: Sequence[float | None]) -> list[float | None]:
    """Return 1 where a score is above its baseline, 0.5 where they are equal, else 0.

    Args:
        scores: One a prompt; None where there is none.
        baseline: Of the same prompts.

    Returns:
        One a prompt; None where either is missing, since nothing was compared.

    Raises:
        ConfigError: if they are not of one length.
    """
    if len(scores) != len(baseline):
        raise ConfigError(
            f"got {len(scores)} scores and {len(baseline)} to compare with; give one each a prompt"
        )
    return [
        None if ours is None or theirs is None else 0.5 * ((ours > theirs) + (ours >= theirs))
        for ours, theirs in zip(scores, baseline, strict=True)
    ]


def mean_of(values: Sequence[float | None]) -> float | None:
    """Return the mean of the values that are there; None if none is."""
    there = [value for value in values if value is not None]
    return float(np.mean(there)) if there else None
