"""The registered environments, one file a family."""

from dataclasses import dataclass

NAMESPACE = "textenvs"


@dataclass(frozen=True)
class Family:
    """One registered environment, as strings: nothing is imported until it is made.

    Attributes:
        entry_point: `module:Class`; the module's `make_vec` makes the vector environment.
        summary: What it asks, in one line.
        text: What its prompts are made of, with the size.
        licence: Of that text.
        needs: The command that installs what the default options need; "" if nothing.
    """

    entry_point: str
    summary: str
    text: str
    licence: str
    needs: str = ""


SUITE = {
    "textenvs/ContextSelect-v0": Family(
        "textenvs.suite.context_select:ContextSelectEnv",
        "Select the titles of one category from a list of titles with categories.",
        "16,433 film titles with genres",
        "CC0",
    ),
}
"""Every environment of the suite by id."""
