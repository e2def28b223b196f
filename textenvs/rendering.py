"""How an episode looks: text for a terminal, a fragment for a web page.

Pure functions of an `EpisodeView`. Tokens are shaded by reward, green above zero and red
below, and underlined where KL shaping charged or paid much; there is no colour before
there are numbers. The completion is a model's text and is never trusted: control
characters, direction overrides and invisible characters are spelled out, so that neither
a terminal nor a browser acts on them.
"""

import html
import os
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from textenvs.tokenization import TextTokenizer

EOS_MARK = "<eos>"
"""Stands for an end-of-sequence token, whose own text is empty."""

UNDERLINE_FROM = 0.5
"""A KL term is underlined from this share of the episode's largest."""

SHADES = 3
GREEN, RED = (22, 28, 34), (52, 88, 124)
"""Backgrounds of the 256-colour palette, faint to strong, all legible under white."""

WHITE, RESET = "97", "\x1b[0m"
REPLACEMENT = "\ufffd"
JOINERS = "\u200c\u200d"
"""Invisible, but letters of Persian, Indic scripts and emoji are spelled with them."""


@dataclass(frozen=True, slots=True)
class EpisodeView:
    """What is shown of an episode; T tokens.

    Attributes:
        prompt: Its text.
        tokens: What each token adds to the text, [T]; see `token_pieces`.
        rewards: The task's reward of each token, [T]; empty before the episode is scored.
        kl_terms: What KL shaping added for each token, [T] or fewer; empty without shaping.
        finish_reason: Why it ended; None while it goes on, or where it was truncated.
        total: The task's reward; None before the episode is scored, or where it was not.
    """

    prompt: str
    tokens: Sequence[str]
    rewards: Sequence[float] = ()
    kl_terms: Sequence[float] = ()
    finish_reason: str | None = None
    total: float | None = None


class Cell(NamedTuple):
    """Tokens that are shown as one: those that share a character.

    Attributes:
        text: Safe to show.
        reward: Sum over the tokens; 0 where there is none.
        kl: Sum over the tokens; 0 where there is none.
    """

    text: str
    reward: float
    kl: float


class Scale(NamedTuple):
    """The largest magnitudes of an episode's cells.

    Attributes:
        reward: Gives the strongest shade.
        kl: Of the KL terms.
    """

    reward: float
    kl: float

    def shade(self, cell: Cell) -> int:
        """Return 0 for no reward, then 1 to `SHADES`."""
        if not self.reward or not cell.reward:
            return 0
        return max(1, round(SHADES * min(1.0, abs(cell.reward) / self.reward)))

    def underlined(self, cell: Cell) -> bool:
        """Return whether KL shaping weighs on this cell."""
        return bool(self.kl) and abs(cell.kl) >= UNDERLINE_FROM * self.kl


def token_pieces(tokenizer: TextTokenizer, ids: Sequence[int]) -> list[str]:
    """Return what each token adds to the text of a completion.

    Decoded alone, a token that holds part of a character reads as a replacement mark.
    Here the character goes to the token that completes it and those before it get "", so
    that the pieces add up to the decoded text.

    Args:
        tokenizer: Decodes.
        ids: int [T]; special tokens add "".
    """
    pieces: list[str] = []
    # A window begins at a whole character one piece back, because some decoders treat the
    # first token of a text specially.
    window = known = 0
    for position in range(len(ids)):
        before = tokenizer.decode(ids[window:known])
        text = tokenizer.decode(ids[window : position + 1])
        is_last = position == len(ids) - 1
        if text.endswith(REPLACEMENT) and not is_last:
            pieces.append("")
            continue
        pieces.append(text[len(before) :])
        window, known = known, position + 1
    return pieces


def visible(text: str) -> str:
    """Return a text with everything spelled out that a screen would act on or hide.

    Control characters get their Unicode picture (ESC becomes "␛"), other controls,
    format characters such as direction overrides, and lone surrogates become
    "<U+202E>". Line feeds, tabs and the joiners that letters need stay.
    """
    return "".join(map(_visible_character, text))


def _visible_character(character: str) -> str:
    if character in "\n\t" or character in JOINERS:
        return character
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "\u2421"
    # Cc control, Cf format, Cs surrogate, Zl and Zp line and paragraph separators
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp"):
        return f"<U+{code:04X}>"
    return character


def render(view: EpisodeView | None, mode: str | None) -> str | None:
    """Render in a mode of `TextEnv`; None where there is no mode or nothing to show.

    In "ansi" mode a non-empty `NO_COLOR` in the environment leaves out all styling
    (https://no-color.org).
    """
    if view is None or mode is None:
        return None
    if mode == "html":
        return render_html(view)
    return render_ansi(view, color=not os.environ.get("NO_COLOR"))


def render_ansi(view: EpisodeView, *, color: bool = True) -> str:
    """Return text for a terminal: prompt, completion, legend, score.

    Args:
        view: The episode.
        color: Whether to write escape sequences.
    """
    cells, scale = _cells(view)
    plain = visible(view.prompt) + "".join(cell.text for cell in cells)
    if not _has_numbers(view):
        return plain
    if not color:
        return f"{plain}\n{_score_line(view)}"
    body = "".join(_ansi_cell(cell, scale) for cell in cells)
    legend = _legend(cells, scale)
    lines = [visible(view.prompt) + body, *([legend] if legend else []), _score_line(view)]
    return "\n".join(lines)


def render_html(view: EpisodeView) -> str:
    """Return `<div class="textenvs-episode">`: the same as `render_ansi`, for a page.

    Styles are inline and the shades are translucent, so the fragment reads on a light and
    on a dark page; each shaded token's title holds its figures.
    """
    cells, scale = _cells(view)
    prompt = f'<span style="opacity:0.7">{html.escape(visible(view.prompt))}</span>'
    parts = [f'<div style="white-space:pre-wrap;font-family:monospace">{prompt}']
    parts += [_html_cell(cell, scale, bool(view.kl_terms)) for cell in cells]
    parts.append("</div>")
    if _has_numbers(view):
        legend = _legend(cells, scale)
        lines = [*([legend] if legend else []), _score_line(view)]
        small = "font-size:smaller;margin-top:0.5em"
        parts += [f'<div style="{small}">{html.escape(line)}</div>' for line in lines]
    return f'<div class="textenvs-episode" dir="ltr">{"".join(parts)}</div>'


def _has_numbers(view: EpisodeView) -> bool:
    return view.finish_reason is not None or view.total is not None or bool(view.kl_terms)


def _cells(view: EpisodeView) -> tuple[list[Cell], Scale]:
    """Return the cells, and the scale of their numbers."""
    cells: list[Cell] = []
    reward = kl = 0.0
    last = len(view.tokens) - 1
    for position, token in enumerate(view.tokens):
        reward += _at(view.rewards, position)
        kl += _at(view.kl_terms, position)
        text = visible(token)
        if position == last and not text and view.finish_reason == "eos":
            text = EOS_MARK
        if text or (position == last and (reward or kl)):
            cells.append(Cell(text or "\u00b7", reward, kl))
            reward = kl = 0.0
    largest = Scale(_largest(cell.reward for cell in cells), _largest(cell.kl for cell in cells))
    return cells, largest


def _at(values: Sequence[float], position: int) -> float:
    """Return a figure, 0 where there is none: a sum with NaN would shade nothing."""
    value = float(values[position]) if position < len(values) else 0.0
    return 0.0 if value != value else value


def _largest(values: Iterable[float]) -> float:
    return max((abs(value) for value in values if abs(value) < float("inf")), default=0.0)


def _ansi_cell(cell: Cell, scale: Scale) -> str:
    shade = scale.shade(cell)
    codes = []
    if shade:
        codes += [WHITE, f"48;5;{(GREEN if cell.reward > 0 else RED)[shade - 1]}"]
    if scale.underlined(cell):
        codes.append("4")
    if not codes:
        return cell.text
    begin = f"\x1b[{';'.join(codes)}m"
    # A background left on over a line feed would fill the rest of the line.
    return "\n".join(f"{begin}{part}{RESET}" if part else "" for part in cell.text.split("\n"))


def _html_cell(cell: Cell, scale: Scale, with_kl: bool) -> str:
    text = html.escape(cell.text)
    shade = scale.shade(cell)
    styles = []
    if shade:
        rgb = "0,150,60" if cell.reward > 0 else "220,30,30"
        styles.append(f"background:rgba({rgb},{0.15 + 0.1 * shade:.2f})")
    if scale.underlined(cell):
        styles.append("text-decoration:underline")
    if not styles and not with_kl:
        return text
    title = f"reward {cell.reward:+.4g}" + (f", KL term {cell.kl:+.4g}" if with_kl else "")
    style = f' style="{";".join(styles)}"' if styles else ""
    return f'<span{style} title="{title}">{text}</span>'


def _legend(cells: Sequence[Cell], scale: Scale) -> str:
    return "; ".join(_legend_parts(cells, scale))


def _legend_parts(cells: Sequence[Cell], scale: Scale) -> Iterator[str]:
    rewards = [cell.reward for cell in cells]
    if any(reward > 0 for reward in rewards):
        yield f"green: reward, at most {max(rewards):+.4g} a token"
    if any(reward < 0 for reward in rewards):
        yield f"red: reward, at least {min(rewards):+.4g} a token"
    if scale.kl:
        yield f"underlined: KL term of {UNDERLINE_FROM * scale.kl:.4g} or more, either way"


def _score_line(view: EpisodeView) -> str:
    words = "no score" if view.total is None else f"score {view.total:.6g}"
    if view.finish_reason is not None:
        words += f", ended by {view.finish_reason}"
    if view.kl_terms:
        words += f", KL terms {sum(view.kl_terms):+.4g} in all"
    return words
