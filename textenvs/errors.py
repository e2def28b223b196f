"""Every error the project raises on purpose, in one place.

Each names the value, the rule it broke and the remedy. They inherit from the
built-in a caller would expect (`ValueError`, `KeyError`, ...), so code that
knows nothing of textenvs still catches them.
"""

import difflib
from collections.abc import Iterable


class TextEnvsError(Exception):
    """Base of every deliberate error: a user's mistake or a missing part, not a bug."""


class ConfigError(TextEnvsError, ValueError):
    """An option has a value that cannot work."""


class NothingToRankError(ConfigError):
    """Of all the answers given none is better than another."""


class UnknownNameError(TextEnvsError, ValueError):
    """A name is not among the known ones; the message suggests near ones."""

    def __init__(self, kind: str, name: object, known: Iterable[str], remedy: str = "") -> None:
        """Compose the message.

        Args:
            kind: What the name should have been, e.g. `"corpus"`.
            name: The name as given.
            known: The names that would have worked.
            remedy: A sentence to add, e.g. how to add a name.
        """
        choices = sorted(map(str, known))
        super().__init__(f"unknown {kind} {name!r}. {suggest(name, choices)} {remedy}".strip())
        self.kind, self.name, self.known = kind, name, choices


class RegistrationError(TextEnvsError, ValueError):
    """An id is taken, reserved, or no id."""


class PluginError(TextEnvsError, ImportError):
    """A plug-in cannot be loaded; the rest works without it."""


class CorpusError(TextEnvsError, ValueError):
    """A corpus cannot serve the task: empty, one category, duplicate titles, missing column."""


class PromptError(TextEnvsError, ValueError):
    """A prompt cannot be used, for instance because it is longer than the window."""


class TokenizerError(TextEnvsError, ValueError):
    """A tokenizer lacks something the environment needs, for instance an EOS token."""


class ActionError(TextEnvsError, ValueError):
    """An action is outside the action space."""


class EpisodeOverError(TextEnvsError, RuntimeError):
    """`step` was called before `reset`, or after the end of an episode."""


class RewardError(TextEnvsError, ValueError):
    """A reward returned something that is not a reward, or did not score an episode."""


class DoubleCountingError(TextEnvsError, ValueError):
    """The reference KL would be charged twice: by the environment and by the trainer."""


class ModelError(TextEnvsError, ValueError):
    """A model cannot be found, read or used."""


class CheckpointError(TextEnvsError, ValueError):
    """A saved folder is missing, incomplete or of another kind."""


class MissingDependencyError(TextEnvsError, ImportError):
    """An optional package is needed and absent."""

    def __init__(self, package: str, purpose: str, install: str) -> None:
        """Compose the message.

        Args:
            package: The package as it is imported.
            purpose: What needs it.
            install: The command that brings it.
        """
        super().__init__(
            f"{purpose} needs the package {package!r}, which is not installed. Run: {install}"
        )
        self.package = package


def suggest(name: object, known: Iterable[str], limit: int = 12) -> str:
    """Return "Did you mean ...?", or the known names when nothing is near.

    Args:
        name: What was given.
        known: What would have worked.
        limit: The most names to list.
    """
    choices = sorted(map(str, known))
    folded = {choice.casefold(): choice for choice in choices}
    near = difflib.get_close_matches(str(name).casefold(), folded, n=3, cutoff=0.5)
    if near:
        return f"Did you mean {' or '.join(repr(folded[n]) for n in near)}?"
    listed = ", ".join(choices[:limit]) + (", ..." if len(choices) > limit else "")
    return f"Known: {listed or 'none'}."
