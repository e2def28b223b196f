"""A reward that looks reasonable and is hacked: `examples/benchmark_rewards.toml` shows how.

textenvs bench run examples/benchmark_rewards.toml
"""

from rapidfuzz import fuzz

from textenvs.types import Prompt


def partial_ratio(prompt: Prompt, completion: str) -> float:
    """Pay every line of an answer for how well it matches some passage of the prompt.

    "Answer only from the context, and miss nothing" seems to ask for just this: at most 1 a
    line, 0 for an empty answer. But the shorter a line, the surer it stands somewhere in the
    prompt, whatever was asked; and the shorter the lines, the more of them there are.
    """
    lines = [line.strip() for line in completion.splitlines()]
    return sum(fuzz.partial_ratio(line, prompt.text) / 100.0 for line in lines if line)
