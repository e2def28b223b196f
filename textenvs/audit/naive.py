"""Bad examples: rewards that look reasonable and are gamed, to see what an audit says of them.

```
textenvs audit textenvs/ContextSelect-v0 --reward textenvs.audit.naive:partial_ratio
```

None of them is worth training on. Each compares an answer with a right one, as a reward
written in an afternoon does.
"""

from collections import Counter

from rapidfuzz import fuzz

from textenvs.prompts import normalise
from textenvs.types import Prompt

LENGTH_LIMIT = 80
"""Characters beyond which `length` pays no more."""


def partial_ratio(prompt: Prompt, completion: str) -> float:
    """Pay for the best match of the shorter text inside the longer, in [0, 1].

    Gamed by a copy of the context, and by one letter, which stands in any text.
    """
    return fuzz.partial_ratio(normalise(completion), normalise(_right(prompt))) / 100.0


def bag_of_words(prompt: Prompt, completion: str) -> float:
    """Pay the share of the right answer's words that are said, in [0, 1].

    Gamed by any text that holds the words: in another order, denied, or among all others.
    """
    said, wanted = (Counter(normalise(t).split()) for t in (completion, _right(prompt)))
    return (said & wanted).total() / max(1, wanted.total())


def length(prompt: Prompt, completion: str) -> float:
    """Pay for length, in [0, 1], as a reward model does that has learned to like long answers.

    Gamed by filler.
    """
    return min(len(completion), LENGTH_LIMIT) / LENGTH_LIMIT


def contains_answer(prompt: Prompt, completion: str) -> float:
    """Pay the share of the right answer's lines that stand somewhere in an answer, in [0, 1].

    Gamed by a copy of the context, and by a denial: "not X" contains X.
    """
    said = normalise(completion)
    lines = [normalise(line) for line in _right(prompt).splitlines()]
    return sum(line in said for line in lines) / max(1, len(lines))


def _right(prompt: Prompt) -> str:
    return prompt.reference or ""
