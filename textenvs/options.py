"""Options given by name: a wrong one gets a suggestion instead of a `TypeError`."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from textenvs.errors import UnknownNameError


def option_names(functions: Sequence[Callable[..., Any]]) -> list[str]:
    """Return the named parameters of the functions, `self` left out."""
    return sorted(
        parameter.name
        for function in functions
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind in (parameter.KEYWORD_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        and parameter.name not in ("self", "prompts", "num_envs")
    )


def reject_unknown_options(
    options: Mapping[str, Any], functions: Sequence[Callable[..., Any]]
) -> None:
    """Raise for the first option that is no parameter of the first function.

    Args:
        options: As the user gave them.
        functions: The first takes the options; the parameters of all are suggested.

    Raises:
        UnknownNameError: naming the option and near ones.
    """
    accepted = option_names(functions[:1])
    for name in options:
        if name not in accepted:
            raise UnknownNameError("option", name, option_names(functions))
