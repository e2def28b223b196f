"""Answers that no sound reward pays for: nothing, noise, constants, copies.

Each probe is an answer made without solving the task. The checker asks whether a reward
pays any of them; a search for worse exploits can begin with the same list.
"""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from textenvs.types import Prompt

EMPTY = {
    "the empty answer": "",
    "a space": " ",
    "a line break": "\n",
    "white space": "\t \n\n",
}
"""Answers that say nothing."""

CONSTANTS = ("a", "the", "0", "1", "yes", "no")
"""Answers that pay where a reward looks for a substring, or for one of few labels."""

LETTERS = 4
"""Answers of random letters a prompt."""

SURROGATE = "a lone surrogate"
ODD_TEXTS = {
    "20,000 letters": "a" * 20_000,
    "5,000 lines": "x\n" * 5_000,
    "NUL": "a\x00b",
    "control characters": "".join(map(chr, range(1, 32))) + "\x7f\x85",
    SURROGATE: "a\ud800b",
    "right-to-left": "\u202eשלום \u0645\u0631\u062d\u0628\u0627\u202c",
    "emoji": "👩‍👩‍👧‍👦 🏳️‍🌈 🇺🇳",
    "combining marks": "e" + "\u0301" * 500,
    "the replacement character": "\ufffd" * 8,
    "brackets and quotes": "[{(\"'`<%s%d{}\\",
    "numbers": "NaN inf -1e999 0x10 ١٢٣ ½ ² 1_000",
}
"""Answers a policy may stumble on, which no reward may break down over."""

Kind = Literal["empty", "letters", "constant", "copy", "task"]


@dataclass(frozen=True, slots=True)
class Probe:
    """One answer made without solving the task.

    Attributes:
        name: The same for every prompt, so that scores can be averaged by it.
        kind: "empty", "letters", "constant", "copy" (of the prompt or of its context), or
            "task" (the environment's own).
        text: The answer.
    """

    name: str
    kind: Kind
    text: str


def probe_answers(
    prompt: Prompt, generator: np.random.Generator, own: Mapping[str, str] | None = None
) -> list[Probe]:
    """Return the probes of a prompt.

    Args:
        prompt: The task.
        generator: For the random letters.
        own: The exploits the environment names itself (`env.unwrapped.probes(prompt)`).
    """
    probes = [Probe(name, "empty", text) for name, text in EMPTY.items()]
    probes += [
        Probe("random letters", "letters", random_letters(generator)) for _ in range(LETTERS)
    ]
    probes += [Probe(f"constant {text!r}", "constant", text) for text in CONSTANTS]
    probes.append(Probe("copy of the prompt", "copy", prompt.text))
    copies = context_copies(prompt.context)
    probes += [Probe(name, "copy", text) for name, text in copies.items()]
    probes += [Probe(f"own: {name}", "task", text) for name, text in (own or {}).items()]
    return probes


def random_letters(generator: np.random.Generator) -> str:
    """Return one to four words of one to eight random letters."""
    letters = np.array(list(string.ascii_lowercase))
    lengths = generator.integers(1, 9, size=int(generator.integers(1, 5)))
    return " ".join("".join(generator.choice(letters, size)) for size in lengths)


def context_copies(context: Any) -> dict[str, str]:
    """Return copies of what an answer may draw on, by name; {} where there is no context.

    Items that are records, such as `Item(title, category)`, are copied whole and by their
    first field.
    """
    if context is None:
        return {}
    if isinstance(context, Mapping):
        context = list(context.values())
    if not isinstance(context, Sequence) or isinstance(context, str):
        return {"copy of the context": str(context)}
    lines = [_line(item) for item in context]
    copies = {"copy of the context": "\n".join(lines)}
    first = [
        _line(item[0]) if isinstance(item, tuple) and item else _line(item) for item in context
    ]
    if first != lines:
        copies["copy of the context's first fields"] = "\n".join(first)
    return copies


def _line(item: Any) -> str:
    if isinstance(item, (tuple, list)):
        return " ".join(map(_line, item))
    return str(item)
