r"""`ContextTrie`: an answer can only say what the prompt's context lists.

The language is the answers `title`, `title NEWLINE title`, ..., each ended by EOS. Which
ids write a title depends on what stands around it: byte-level vocabularies have tokens such
as "!\n", and metaspace vocabularies mark the first word of a text. So each title has four
ways to be written: as the first line or a later one, and with a newline behind it or at the
end; each is read off the tokenisation of a text in which it stands so. A way that begins a
line never depends on other lines, because it begins after a newline and ends with one; the
paths of ids through these ways therefore are, for usual tokenizers, exactly the tokenisations
of the answers, the oracle's among them.

That every path reads back as listed titles is not left to that argument. Each way is decoded
behind another line, and the whole list in order, before anything of it is allowed; a
tokenizer with which they do not come out letter for letter is refused.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from textenvs.errors import ConfigError, PromptError, TokenizerError
from textenvs.masks.base import Cursors, MaskSetting, Rows, TokenMask
from textenvs.rewards.grounding.context_match import title_of
from textenvs.types import Prompt

NEWLINE = "\n"
ANCHOR = "x" + NEWLINE
"""A line to stand before a later one while that is tokenised."""

TITLES_KEPT, MENUS_KEPT = 65_536, 1024


@dataclass(frozen=True)
class ContextTrie(TokenMask):
    """Allow answers made of the items of `prompt.context`, one a line, and nothing else.

    A token is allowed only if the line it begins can still be ended, by EOS, within the
    token budget; so an answer never stops in the middle of a title. Whether an item is a
    right answer plays no part. Items with the same title are one item; an empty title
    cannot be told from saying nothing and is left out.

    Attributes:
        max_items: The most items of an answer; None for as many as are listed.
        repeat: An item may be said again.
        allow_empty: EOS may come first.
    """

    max_items: int | None = None
    repeat: bool = False
    allow_empty: bool = True

    def __post_init__(self) -> None:
        """Check the options.

        Raises:
            ConfigError: if `max_items` is below 1.
        """
        if self.max_items is not None and self.max_items < 1:
            raise ConfigError(f"max_items must be at least 1 or None, got {self.max_items}")

    def bind(self, setting: MaskSetting) -> "BoundContextTrie":
        """Return the mask for one environment."""
        return BoundContextTrie(self, setting)


@dataclass(frozen=True, slots=True)
class Way:
    """One way to write one line.

    Attributes:
        item: Number of the title in the list.
        ids: Its tokens; with the newline where the answer goes on.
        goes_on: Whether another line follows.
    """

    item: int
    ids: tuple[int, ...]
    goes_on: bool


@dataclass(frozen=True, slots=True)
class Written:
    """The ids of one title where it may stand."""

    first_goes_on: tuple[int, ...]
    first_ends: tuple[int, ...]
    later_goes_on: tuple[int, ...]
    later_ends: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Menu:
    """What one prompt lists.

    Attributes:
        first: The ways of a first line.
        later: The ways of any later line.
        lengths: Tokens of each item as a last line that is not the first, shortest first,
            with the item.
    """

    first: tuple[Way, ...]
    later: tuple[Way, ...]
    lengths: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an answer stands: a node of the trie of one prompt.

    Attributes:
        menu: What is listed.
        live: The ways of the current line that begin with its tokens so far.
        position: Tokens of the current line so far.
        said: The items of the lines before.
        lines: How many lines there are before.
    """

    menu: Menu
    live: tuple[Way, ...]
    position: int = 0
    said: frozenset[int] = frozenset()
    lines: int = 0


class BoundContextTrie:
    """A `ContextTrie` at work.

    The trie is not built: a node is the list of lines that begin alike, narrowed token by
    token, which costs at most twice the number of items a step and no memory a prompt.
    """

    def __init__(self, options: ContextTrie, setting: MaskSetting) -> None:
        """Keep the options and the tokenizer."""
        self._options = options
        self._tokenizer, self._budget = setting.tokenizer, setting.max_new_tokens
        self._anchor = self._tokenizer.encode_completion(ANCHOR)
        self._written = lru_cache(TITLES_KEPT)(self._write)
        self._menu = lru_cache(MENUS_KEPT)(self._list)
        self._cursors = Cursors(self._start, self._advance)

    def fill(self, rows: Rows, allowed: np.ndarray) -> None:
        """Mark the tokens on the way to a listed title; only EOS once an answer has left it."""
        eos_id = self._tokenizer.eos_id
        for row in np.flatnonzero(rows.active).tolist():
            place = self._cursors.at(row, rows)
            if place is None:
                allowed[row, eos_id] = True
                continue
            left = self._budget - len(rows.completions[row])
            allowed[row, list(self._next_tokens(place, left))] = True

    def _next_tokens(self, place: Place, left: int) -> Iterator[int]:
        """Yield the tokens allowed with `left` tokens to spend."""
        at = place.position
        if at == 0 and place.lines == 0 and self._options.allow_empty:
            yield self._tokenizer.eos_id
        for way in place.live:
            if len(way.ids) == at:
                yield self._tokenizer.eos_id  # a way that goes on would have begun a line
            elif len(way.ids) - at + self._tokens_after(way, place) <= left:
                yield way.ids[at]

    def _tokens_after(self, way: Way, place: Place) -> float:
        """Return the least number of tokens after this line; infinity if it cannot go on."""
        if not way.goes_on:
            return 1  # EOS
        most = self._options.max_items
        if most is None or place.lines + 2 <= most:
            for length, item in place.menu.lengths:
                if self._options.repeat or (item != way.item and item not in place.said):
                    return length + 1
        return float("inf")

    def _start(self, prompt: Prompt) -> Place:
        menu = self._menu(titles_of(prompt))
        return Place(menu, menu.first)

    def _advance(self, place: Place, token: int) -> Place | None:
        """Return the place after one more token, or None if no line goes so."""
        at = place.position
        live = tuple(way for way in place.live if len(way.ids) > at and way.ids[at] == token)
        if not live:
            return None
        ended = next((way for way in live if way.goes_on and len(way.ids) == at + 1), None)
        if ended is None:
            return replace(place, live=live, position=at + 1)
        said, menu = place.said | {ended.item}, place.menu
        later = menu.later
        if not self._options.repeat:
            later = tuple(way for way in later if way.item not in said)
        return Place(menu, later, 0, said, place.lines + 1)

    def _list(self, titles: tuple[str, ...]) -> Menu:
        """Return the menu of some titles, once the whole list reads back."""
        written = [self._written(title) for title in titles]
        ids = [*written[0].first_goes_on] if len(titles) > 1 else [*written[0].first_ends]
        for one in written[1:-1]:
            ids += one.later_goes_on
        if len(titles) > 1:
            ids += written[-1].later_ends
        answer = NEWLINE.join(titles)
        if self._tokenizer.decode(ids) != answer:
            raise self._unreadable(answer, self._tokenizer.decode(ids))
        return Menu(
            tuple(_ways((one.first_goes_on, one.first_ends) for one in written)),
            tuple(_ways((one.later_goes_on, one.later_ends) for one in written)),
            tuple(sorted((len(one.later_ends), item) for item, one in enumerate(written))),
        )

    def _write(self, title: str) -> Written:
        first = [tuple(self._read_back((), text)) for text in (title + NEWLINE, title)]
        later = [tuple(self._read_back(self._anchor, text)) for text in (title + NEWLINE, title)]
        return Written(first[0], first[1], later[0], later[1])

    def _read_back(self, before: Sequence[int], text: str) -> list[int]:
        """Return ids that write `text` behind a line and read back as it.

        They are what the tokenizer makes of both in one text or, where it joins the line
        with what follows, as some do before two spaces, of `text` on its own.

        Raises:
            TokenizerError: if they do not read back.
        """
        encode = self._tokenizer.encode_completion
        line = ANCHOR if before else ""
        whole = encode(line + text)
        in_place = whole[: len(before)] == list(before)
        ids = whole[len(before) :] if in_place else encode(text)
        heard = self._tokenizer.decode([*before, *ids])
        if heard != line + text or self._tokenizer.eos_id in ids:
            raise self._unreadable(line + text, heard)
        return ids

    def _unreadable(self, text: str, heard: str) -> TokenizerError:
        return TokenizerError(
            f"the tokenizer {self._tokenizer.name!r} cannot write {text!r:.80} so that it reads "
            f"back: it comes out as {heard!r:.80}, or holds EOS. ContextTrie needs a tokenizer "
            "that keeps text as it is, byte-level ones do; or change the title, where it is a "
            "special token or in another Unicode form than the tokenizer's"
        )


def titles_of(prompt: Prompt) -> tuple[str, ...]:
    """Return the titles an answer may say, each once, the empty one left out.

    Raises:
        PromptError: if the context is no list, holds no title, or one with a newline.
    """
    context: Any = prompt.context
    items = context if isinstance(context, (tuple, list)) else ()
    titles = tuple(dict.fromkeys(title for item in items if (title := title_of(item))))
    if not titles:
        raise PromptError(
            f"the prompt {prompt.id!r} lists nothing to say: its context is {context!r:.80}; "
            "ContextTrie needs a tuple of Item(title, category) or of texts"
        )
    for title in titles:
        if NEWLINE in title:
            raise PromptError(
                f"the prompt {prompt.id!r} lists {title!r:.80}, which has a newline; an answer "
                "holds one title a line, so no title may have one"
            )
    return titles


def _ways(pairs: Any) -> Iterator[Way]:
    for item, (goes_on, ends) in enumerate(pairs):
        yield Way(item, goes_on, goes_on=True)
        yield Way(item, ends, goes_on=False)
