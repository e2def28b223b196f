"""Which rollouts a report shows: the best, the worst, and those that were paid without reason."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from textenvs.benchmark.report.blocks import Gallery, Words
from textenvs.benchmark.report.figures import figure
from textenvs.benchmark.report.json_lines import number, numbers, read_lines
from textenvs.benchmark.report.rollout_view import Piece, Rollout, view

MOST_SHOWN = 300
"""Rollouts on a page, at most."""

PER_PICK = 4
"""Best, worst and unearned rollouts of one design, at most so many of each."""

PICKS = 3
LEGEND = Words(
    "Background: the reward paid with a token, blue above 0 and orange below, in three shades by "
    "its share of the answer's largest. Line below: the KL of a token to the reference, dotted, "
    "solid or double likewise. Line above: words that stand in the context. A pointer over a "
    "token shows its figures.",
    "soft",
    (
        Piece("reward", reward=3),
        Piece("charge", reward=-3),
        Piece("high KL", kl=3),
        Piece("from the context", matched=True),
    ),
)


def read_rollouts(path: Path, gold: str | None, where: str) -> Iterator[Rollout]:
    """Yield the rollouts of a cell's `rollouts.jsonl`; a damaged line is passed over.

    Args:
        path: The file; may be missing.
        gold: Name of the gold metric, or None.
        where: What they are of, such as a seed.
    """
    for row in read_lines(path):
        golds = row.get("gold")
        spans = row.get("spans")
        yield Rollout(
            prompt_id=str(row.get("prompt_id", "")),
            prompt=str(row.get("prompt", "")),
            completion=str(row.get("completion", "")),
            proxy=number(row.get("proxy")),
            gold=number(golds.get(gold)) if isinstance(golds, dict) and gold else None,
            tokens=_texts(row.get("tokens")),
            token_rewards=numbers(row.get("token_rewards")),
            token_kl=numbers(row.get("token_kl")),
            spans=tuple(_spans(spans)) if isinstance(spans, list) else (),
            finish_reason=row.get("finish_reason"),
            where=where,
        )


def read_recording(path: Path, gold: str | None) -> Iterator[Rollout]:
    """Yield the episodes of a recording; see `textenvs.recording`. Damage is passed over.

    The held-out answers of a demo, which have `values` and no tokens, are read as well. A
    token's KL is log pi - log pi_ref where both were recorded, else what KL shaping charged
    for it, by its coefficient.

    Args:
        path: The file; may be missing.
        gold: Name of the metric to go by, or None.
    """
    for row in read_lines(path):
        if "completion" not in row:
            continue  # the header
        metrics = _metrics(row)
        spread = numbers(row.get("reward_per_token"))
        yield Rollout(
            prompt_id=str(row.get("prompt_id", "")),
            prompt=str(row.get("prompt", "")),
            completion=str(row.get("completion", "")),
            proxy=number(row.get("task_reward", metrics.get("reward"))),
            gold=number(metrics.get(gold)) if gold else None,
            tokens=_texts(row.get("tokens")),
            token_rewards=spread or numbers(row.get("token_rewards")),
            token_kl=_recorded_kl(row),
            finish_reason=row.get("finish_reason"),
            where=str(row.get("stage", "")),
        )


def gold_of_recording(path: Path) -> str | None:
    """Return the metric a recording is judged by: `correct` if it is there, else its first."""
    for row in read_lines(path):
        metrics = _metrics(row)
        if metrics:
            return "correct" if "correct" in metrics else str(next(iter(metrics)))
    return None


def _metrics(row: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the gold metrics of a line; `values` of an episode are a critic's, and a list."""
    for name in ("metrics", "values"):
        found = row.get(name)
        if isinstance(found, dict):
            return found
    return {}


def pick(rollouts: Sequence[Rollout], count: int) -> list[tuple[str, list[Rollout]]]:
    """Return (why, rollouts) for the best, the worst and the most reward at least gold.

    Best and worst are by gold, ties by proxy; without gold by proxy. The last are those whose
    rank by proxy is furthest above their rank by gold. None is shown twice.

    Args:
        rollouts: Of one design.
        count: Of each kind, at most.
    """
    scored = [r for r in rollouts if _known(r.proxy)]
    judged = [r for r in scored if _known(r.gold)]
    pool = judged or scored or list(rollouts)
    order = sorted(range(len(pool)), key=lambda i: _merit(pool[i]), reverse=True)
    chosen: list[int] = []
    picks = []
    if judged:
        gap = _ranks([_merit(r)[1] for r in pool]) - _ranks([_merit(r)[0] for r in pool])
        unearned = [i for i in np.argsort(-gap, kind="stable").tolist() if gap[i] > 0][:count]
        chosen += unearned
        picks.append(("Most reward at least gold", [pool[i] for i in unearned]))
    for why, ranked in (("Best", order), ("Worst", order[::-1])):
        kept = [i for i in ranked if i not in chosen][:count]
        chosen += kept
        picks.insert(0 if why == "Best" else 1, (why, [pool[i] for i in kept]))
    return [(why, kept) for why, kept in picks if kept]


def gallery(
    name: str, anchor: str, rollouts: Iterable[Rollout], count: int, *, opened: bool = False
) -> tuple[Gallery, int, int]:
    """Return the picked rollouts of a design, how many are shown, and of how many.

    Args:
        name: Of the design, or the run.
        anchor: Of the page.
        rollouts: All there are.
        count: Of each kind, at most.
        opened: Whether they are shown at once.
    """
    found = list(rollouts)
    picks = pick(found, count)
    shown = [(why, [view(r, _figures(r)) for r in kept]) for why, kept in picks]
    number_shown = sum(len(kept) for _, kept in picks)
    words = f"{name}: {number_shown} of {len(found):,} rollouts"
    return Gallery(words, anchor, shown, opened), number_shown, len(found)


def per_pick(designs: int) -> int:
    """Return how many rollouts of each kind a design may show, so that a page stays small."""
    return max(1, min(PER_PICK, MOST_SHOWN // (PICKS * max(1, designs))))


def _figures(rollout: Rollout) -> Mapping[str, str]:
    known = {"proxy": rollout.proxy, "gold": rollout.gold}
    values = {name: figure(value) for name, value in known.items() if value is not None}
    if any(math.isfinite(value) for value in rollout.token_kl):
        values["KL"] = figure(float(np.nansum(rollout.token_kl)))
    if rollout.tokens:
        values["tokens"] = f"{len(rollout.tokens):,}"
    if isinstance(rollout.finish_reason, str):
        values["ended by"] = rollout.finish_reason
    return values


def _merit(rollout: Rollout) -> tuple[float, float]:
    """Return (gold, proxy), what is unknown at the bottom."""
    proxy = rollout.proxy if rollout.proxy is not None and _known(rollout.proxy) else -math.inf
    return (rollout.gold if rollout.gold is not None else proxy, proxy)


def _known(value: float | None) -> bool:
    return value is not None and not math.isnan(value)


def _ranks(values: Sequence[float]) -> np.ndarray:
    """Return the rank of each value as a share of them all, equal values sharing theirs."""
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - (counts - 1) / 2) / len(values))[inverse]


def _recorded_kl(row: Mapping[str, Any]) -> tuple[float, ...]:
    charged = row.get("kl")
    if not isinstance(charged, dict):
        return ()
    logprobs, reference = numbers(row.get("logprobs")), numbers(charged.get("reference_logprob"))
    if logprobs and len(logprobs) == len(reference):
        return tuple(own - other for own, other in zip(logprobs, reference, strict=True))
    coef = number(charged.get("coef"))
    return tuple(-term / coef for term in numbers(charged.get("terms"))) if coef else ()


def _spans(value: Sequence[Any]) -> Iterator[tuple[int, int]]:
    for span in value:
        if isinstance(span, list) and len(span) == 2 and all(type(n) is int for n in span):
            yield span[0], span[1]


def _texts(value: Any) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()
