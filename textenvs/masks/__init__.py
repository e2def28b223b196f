"""Action masks: which tokens may come next.

A mask is a recipe, free of state and shared at will; `bind` makes of it what one
environment asks at every step. `textenvs.wrappers.action_mask` puts it around an
environment. None of the modules here imports torch or llguidance until a mask needs it.
"""

from typing import Any

from textenvs.errors import ConfigError, UnknownNameError
from textenvs.masks.allowed_tokens import AllowedTokens
from textenvs.masks.base import BoundMask, Intersection, MaskSetting, Rows, TokenMask
from textenvs.masks.context_trie import ContextTrie
from textenvs.masks.reference_top_p import ReferenceTopP
from textenvs.masks.regex import RegexMask

__all__ = [
    "AllowedTokens",
    "BoundMask",
    "ContextTrie",
    "Intersection",
    "MaskSetting",
    "ReferenceTopP",
    "RegexMask",
    "Rows",
    "TokenMask",
    "resolve_mask",
]

MASKS = {"context-trie": ContextTrie}
"""Masks that need no argument, by name."""


def resolve_mask(mask: Any) -> TokenMask:
    """Return a mask for a `TokenMask` or the name of one.

    Raises:
        UnknownNameError: if the name is unknown.
        ConfigError: if it is neither.
    """
    if isinstance(mask, TokenMask):
        return mask
    if not isinstance(mask, str):
        raise ConfigError(
            f"a mask is a TokenMask of textenvs.masks or one of the names {sorted(MASKS)}, got "
            f"{mask!r:.80}"
        )
    if mask not in MASKS:
        raise UnknownNameError(
            "mask", mask, MASKS, "Masks with arguments are given as objects of textenvs.masks."
        )
    return MASKS[mask]()
