"""Words: how the rewards that count words cut a text into them."""

import re
from functools import lru_cache

WORD = re.compile(
    # Chinese and Japanese are written without spaces: each character stands for itself.
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]"
    r"|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+"
)


def words_of(text: str, limit: int | None = None) -> list[str]:
    """Return the words of a text in lower case: runs of letters and digits.

    On ASCII text these are the tokens of the `rouge-score` package without stemming; letters
    of other scripts, which that package drops, are kept.

    Args:
        text: Anything.
        limit: The most words to return; None returns all.
    """
    words = WORD.findall(text.lower())
    return words if limit is None else words[:limit]


def ngrams(words: list[str], n: int) -> list[tuple[str, ...]]:
    """Return the runs of n words, in order; [] if there are fewer than n."""
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def copied_share(answer: str, source: str, n: int = 2) -> float:
    """Return the share of an answer's different runs of n words that stand in a source text.

    In [0, 1]; 0 for an answer of fewer than n words.
    """
    runs = set(ngrams(words_of(answer), n))
    return len(runs & _runs(source, n)) / len(runs) if runs else 0.0


@lru_cache(maxsize=2048)
def _runs(source: str, n: int) -> frozenset[tuple[str, ...]]:
    return frozenset(ngrams(words_of(source), n))
