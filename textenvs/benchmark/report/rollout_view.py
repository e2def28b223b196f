"""A rollout as it is shown: runs of text, each with its reward and its KL.

Tokens that share a character are shown as one. Everything a screen would act on or hide
is spelled out; whoever writes a format escapes the rest.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from textenvs.rendering import EOS_MARK, visible

SHOWN_TOKENS = 600
"""Of a longer answer, the first tokens are shown."""

SHOWN_PROMPT = 6_000
"""Characters; of a longer prompt the end is left out."""

SHADES = 3


@dataclass(frozen=True)
class Rollout:
    """An answer and what it was paid, as a file holds it.

    Attributes:
        prompt_id: Of which prompt.
        prompt: Its text.
        completion: The answer.
        proxy: The trained reward; None where it could not be scored.
        gold: The gold metric; None without.
        tokens: What each token adds to the completion, [T]; empty if the file has none.
        token_rewards: float [T], or empty.
        token_kl: float [T], nats, or empty.
        spans: (start, end) of the completion that stand in the context.
        finish_reason: "eos", "stop", "length" or None.
        where: What it is of, such as a seed or a line of a file.
    """

    prompt_id: str
    prompt: str
    completion: str
    proxy: float | None
    gold: float | None
    tokens: Sequence[str] = ()
    token_rewards: Sequence[float] = ()
    token_kl: Sequence[float] = ()
    spans: Sequence[tuple[int, int]] = ()
    finish_reason: str | None = None
    where: str = ""


@dataclass(frozen=True)
class Piece:
    """Text of one look.

    Attributes:
        text: Safe for a screen, not escaped.
        reward: -3 to 3: sign and shade, as a share of the answer's largest.
        kl: 0 to 3, likewise.
        matched: Whether it stands in the context.
        note: Its figures, "" where there are none.
    """

    text: str
    reward: int = 0
    kl: int = 0
    matched: bool = False
    note: str = ""

    @property
    def classes(self) -> str:
        """The classes of the page's style sheet."""
        sign = "p" if self.reward > 0 else "n"
        names = [f"r{sign}{abs(self.reward)}" if self.reward else ""]
        names += [f"k{self.kl}" if self.kl else "", "m" if self.matched else ""]
        return " ".join(name for name in names if name)


@dataclass(frozen=True)
class RolloutView:
    """A rollout ready to be written.

    Attributes:
        title: Which prompt, and where from.
        figures: Name -> value, as text.
        prompt: Its text, cut.
        pieces: Of the answer.
        cut: A sentence on what is left out, "" for nothing.
    """

    title: str
    figures: Mapping[str, str]
    prompt: str
    pieces: Sequence[Piece]
    cut: str = ""

    @property
    def plain(self) -> str:
        """The answer without marks."""
        return "".join(piece.text for piece in self.pieces)


def view(rollout: Rollout, figures: Mapping[str, str]) -> RolloutView:
    """Return how a rollout is shown.

    Args:
        rollout: As read.
        figures: What stands over the answer.
    """
    cuts = []
    tokens, total = rollout.tokens, len(rollout.tokens)
    if not tokens:  # only the text is known
        tokens = [rollout.completion]
        if len(rollout.completion) > SHOWN_PROMPT:
            tokens = [rollout.completion[:SHOWN_PROMPT]]
            cuts.append(f"the first {SHOWN_PROMPT:,} characters of the answer are shown.")
    elif total > SHOWN_TOKENS:
        cuts.append(f"{SHOWN_TOKENS:,} of {total:,} tokens are shown.")
    spans = rollout.spans if _aligned(rollout) else ()
    if rollout.spans and not spans:
        cuts.append("the places of the matched spans are not known: tokens and text differ.")
    prompt = rollout.prompt
    if len(prompt) > SHOWN_PROMPT:
        prompt = prompt[:SHOWN_PROMPT] + " …"
        cuts.append(f"{SHOWN_PROMPT:,} of {len(rollout.prompt):,} characters of the prompt stand.")
    whole = replace(rollout, tokens=tokens, spans=spans)
    pieces = list(_pieces(whole))
    # A last token that adds no text is EOS, unless the episode is known to have ended otherwise.
    ended = rollout.finish_reason in ("eos", None) and total <= SHOWN_TOKENS
    if ended and pieces and pieces[-1].text == "":
        pieces[-1] = replace(pieces[-1], text=EOS_MARK)
    title = " · ".join(part for part in (visible(rollout.prompt_id), rollout.where) if part)
    pieces = [piece if piece.text else replace(piece, text="·") for piece in pieces]
    return RolloutView(title, figures, visible(prompt), pieces, " ".join(cuts).capitalize())


def _aligned(rollout: Rollout) -> bool:
    """Whether the tokens add up to the text that the spans are places of."""
    if not rollout.tokens:
        return True
    text = "".join(rollout.tokens)
    return text.startswith(rollout.completion)


def _pieces(rollout: Rollout) -> Iterator[Piece]:
    rewards, kls = rollout.token_rewards, rollout.token_kl
    most_reward, most_kl = _largest(rewards), _largest(kls)
    place = 0
    reward = kl = 0.0
    shown = rollout.tokens[:SHOWN_TOKENS]
    for i, token in enumerate(shown):
        reward, kl = reward + _at(rewards, i), kl + _at(kls, i)
        last = i == len(shown) - 1
        if token == "" and not (last and (reward or kl)):
            continue  # its character is completed by a later token
        note = _note(reward, kl, bool(rewards), bool(kls))
        look = Piece("", _shade(reward, most_reward), abs(_shade(kl, most_kl)), note=note)
        for text, matched in _parts(token, place, rollout.spans):
            yield replace(look, text=visible(text), matched=matched)
        place += len(token)
        reward = kl = 0.0


def _parts(token: str, place: int, spans: Sequence[tuple[int, int]]) -> Iterator[tuple[str, bool]]:
    """Yield a token's text cut where a span begins or ends."""
    end = place + len(token)
    edges = {edge for span in spans for edge in span if place < edge < end}
    corners = sorted({place, end, *edges})
    if len(corners) == 1:
        yield token, False
    for left, right in zip(corners, corners[1:], strict=False):
        inside = any(start <= left and right <= stop for start, stop in spans)
        yield token[left - place : right - place], inside


def _note(reward: float, kl: float, has_rewards: bool, has_kl: bool) -> str:
    words = [f"reward {reward:+.3g}"] if has_rewards else []
    words += [f"KL {kl:+.3g} nats"] if has_kl else []
    return ", ".join(words)


def _shade(value: float, most: float) -> int:
    """Return the sign and a third of the largest; what is below a sixth of it has none."""
    if not most:
        return 0
    share = min(1.0, abs(value) / most)
    return round(math.copysign(math.floor(share * SHADES + 0.5), value))


def _at(values: Sequence[float], i: int) -> float:
    value = values[i] if i < len(values) else 0.0
    return value if math.isfinite(value) else 0.0


def _largest(values: Sequence[float]) -> float:
    return max((abs(value) for value in values if math.isfinite(value)), default=0.0)
