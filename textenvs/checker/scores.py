"""The reward: within its bounds, reached by the oracle, not paid for what is no answer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textenvs.checker.play import play_episode
from textenvs.checker.probes import EMPTY, ODD_TEXTS, SURROGATE, Probe, probe_answers
from textenvs.checker.report import Row, Rows, Skipped
from textenvs.checker.study import Study, fault, note, ok, skipped, verdict
from textenvs.checker.subject import (
    HasProbes,
    HasScore,
    bounds_of,
    oracle_of,
    scores_of,
    tokenizer_of,
)
from textenvs.env import TextEnv
from textenvs.types import Prompt

CEILING_TOLERANCE = 0.05
"""Share of the range by which the oracle may miss the upper bound: room for small penalties."""
MISFITS_ALLOWED = 0.05
"""Share of prompts whose right answer may be longer than the budget: a source that draws its
prompts may give up on fitting a rare one."""
LETTERS_CEILING = 0.5
"""Share of the range that noise may earn: beyond, most of the range is given away."""
EXPLOIT_SHARE = 1 / 3
"""Share of the way from noise to the oracle that an exploit may earn: a copy of the context
holds the answer, and may be worth something, but not what an answer is worth."""
CONFIDENCE = 1.645
"""Standard errors of the mean over prompts that an exploit has to be beyond its share, 95% on one
side: a fault is not the luck of the sample."""
ROUNDING = 1e-9
"""Slack of a bound, for sums of floats."""
SCORE_TOLERANCE = 1e-6
"""Between a stepped reward and `score`: a model may judge another batch size."""
ODD_PROMPTS = 4


@dataclass(frozen=True)
class Judged:
    """What the reward said to the probes of one prompt.

    Attributes:
        prompt: The task.
        low: Declared lower bound of the reward; -inf where none is.
        high: Declared upper bound; inf where none is.
        probes: The answers.
        scores: float64 [len(probes)], NaN where not scored.
        oracle: The right answer; None where none is known.
        oracle_score: What it scores; NaN where there is none.
    """

    prompt: Prompt
    low: float
    high: float
    probes: Sequence[Probe]
    scores: np.ndarray
    oracle: str | None
    oracle_score: float

    @property
    def bounded(self) -> bool:
        """Whether both bounds are finite."""
        return math.isfinite(self.low) and math.isfinite(self.high)


def judged_prompts(study: Study, env: Any) -> list[Judged]:
    """Return what the reward says to the probes and the oracle of a sample of prompts.

    Raises:
        Skipped: if the environment shows no prompts or judges no text.
    """
    if not isinstance(env, HasScore):
        raise Skipped("the environment has no method `score(prompt, texts)`")
    generator = study.generator("probes")
    judged = []
    for prompt in study.sample(env):
        own = env.probes(prompt) if isinstance(env, HasProbes) else {}
        probes = probe_answers(prompt, generator, own)
        try:
            oracle: str | None = oracle_of(env, prompt)
        except Skipped:
            oracle = None
        texts = [probe.text for probe in probes] + ([] if oracle is None else [oracle])
        scores = scores_of(env, prompt, texts)
        low, high = bounds_of(env, prompt)
        best = math.nan if oracle is None else float(scores[-1])
        judged.append(Judged(prompt, low, high, probes, scores[: len(probes)], oracle, best))
    return judged


def check_reward(study: Study) -> Rows:
    """The reward keeps its bounds, and survives any text."""
    env = study.subject.fresh()
    judged = judged_prompts(study, env)
    prompts = [j.prompt for j in judged]
    raised: str | None = None
    odd: list[tuple[Prompt, str, float]] = []
    for prompt in prompts[:ODD_PROMPTS]:
        for name, text in ODD_TEXTS.items():
            try:
                odd.append((prompt, name, float(scores_of(env, prompt, [text])[0])))
            except Exception as error:  # noqa: BLE001  whatever it raises is the finding
                if name == SURROGATE and isinstance(error, UnicodeEncodeError):
                    continue  # no tokenizer decodes to one
                raised = raised or f"raises on {name}: {type(error).__name__}: {error}"
    unscored = next((f"does not score {name}" for _, name, x in odd if math.isnan(x)), None)
    if isinstance(env, TextEnv) and env.batch.on_unscored != "raise":
        unscored = None
    yield verdict("reward/odd text", raised or unscored, f"{len(ODD_TEXTS)} odd texts are scored")
    if not all(j.bounded for j in judged):
        yield note(
            "reward/bounds",
            "the reward declares no finite bounds, so the floor and the ceiling are unknown; give "
            "it a method bounds(prompt)",
        )
        return
    wrong = next((w for j in judged if (w := _out_of_bounds(j))), None)
    for prompt, name, score in odd:
        low, high = bounds_of(env, prompt)
        if wrong is None and not (math.isnan(score) or _within(score, low, high)):
            wrong = f"{name} scores {score:g} on {prompt.id!r}, outside [{low:g}, {high:g}]"
    count = sum(len(j.probes) for j in judged) + len(odd)
    yield verdict("reward/bounds", wrong, f"{count} answers score within the declared bounds")


def _out_of_bounds(judged: Judged) -> str | None:
    if judged.low >= judged.high:
        return f"the bounds of {judged.prompt.id!r} are [{judged.low:g}, {judged.high:g}]: no range"
    answers = [(probe.name, probe.text) for probe in judged.probes]
    scored = list(zip(answers, judged.scores.tolist(), strict=True))
    if judged.oracle is not None:
        scored.append((("the oracle", judged.oracle), judged.oracle_score))
    for (name, text), score in scored:
        if not math.isnan(score) and not _within(score, judged.low, judged.high):
            return (
                f"{name} ({text!r:.40}) scores {score:g} on {judged.prompt.id!r}, outside "
                f"[{judged.low:g}, {judged.high:g}]"
            )
    return None


def _within(score: float, low: float, high: float) -> bool:
    slack = ROUNDING * max(1.0, abs(low), abs(high))
    return low - slack <= score <= high + slack


def _answered(study: Study, env: Any) -> list[Judged]:
    judged = [j for j in judged_prompts(study, env) if j.oracle is not None]
    if not judged:
        raise Skipped("the task has no oracle, and its prompts no reference")
    return judged


def check_ceiling(study: Study) -> Rows:
    """The right answer earns the most there is."""
    judged = _answered(study, study.subject.fresh())
    if all(j.bounded for j in judged):
        short = [j for j in judged if not _at_ceiling(j.oracle_score, j.low, j.high)]
        wrong = None
        if short:
            j = short[0]
            wrong = (
                f"short of the ceiling on {len(short)} of {len(judged)} prompts: {j.oracle!r:.60} "
                f"scores {j.oracle_score:g} on {j.prompt.id!r}, the upper bound is {j.high:g}"
            )
        yield verdict("oracle/ceiling", wrong, f"reaches the upper bound on {len(judged)} prompts")
    else:
        raise Skipped("the reward declares no finite bounds")


def check_budget(study: Study) -> Rows:
    """The right answer can be said within the token budget."""
    env = study.subject.fresh()
    judged = _answered(study, env)
    misfits = [w for j in judged if (w := _misfit(env, j))]
    wrong = None
    if len(misfits) > MISFITS_ALLOWED * len(judged):
        wrong = f"on {len(misfits)} of {len(judged)} prompts: {misfits[0]}"
    yield verdict("oracle/budget", wrong, "stepping its tokens and EOS pays what score() says")


def _at_ceiling(score: float, low: float, high: float) -> bool:
    return score >= high - CEILING_TOLERANCE * (high - low) - ROUNDING


def _misfit(env: Any, judged: Judged) -> str | None:
    tokenizer = tokenizer_of(env)
    ids = tokenizer.encode_completion(judged.oracle or "")
    answer = [*ids, tokenizer.eos_id]
    events = play_episode(env, answer, options={"prompt_id": judged.prompt.id})
    end = events[-1]
    told = f"the answer {judged.oracle!r:.60}"
    taken = len(events) - 1
    if end.over and taken < len(ids) and end.info.get("finish_reason") != "stop":
        return f"{told} takes {len(ids)} tokens, but the episode ends after {taken}"
    if not math.isclose(
        end.reward, judged.oracle_score, rel_tol=SCORE_TOLERANCE, abs_tol=SCORE_TOLERANCE
    ):
        said = end.info.get("completion")
        return (
            f"{told} scores {judged.oracle_score:g}, but its tokens and EOS pay {end.reward:g} "
            f"(they say {said!r:.60})"
        )
    return None


def check_floor(study: Study) -> Rows:
    """Nothing, noise, constants, copies and the task's own exploits earn little."""
    env = study.subject.fresh()
    judged = judged_prompts(study, env)
    bounded = all(j.bounded for j in judged)
    letters = mean_score(judged, "letters")
    top, top_is = _top(judged, bounded)
    if bounded:
        yield _empty_row(judged)
        yield _letters_row(judged, letters, top)
    if top is None:
        raise Skipped(
            "exploits have no measure: there is neither an oracle nor a finite upper bound"
        )
    if top <= letters:
        if not bounded:
            words = f"random letters score {letters:.3g} on average, {top_is} {top:.3g}: no better"
            yield fault("floor/random letters", words)
        return  # there is no way from one to the other to measure exploits on
    limit = letters + EXPLOIT_SHARE * (top - letters)
    kinds = ("constant", "copy", "task") if bounded else ("empty", "constant", "copy", "task")
    names = dict.fromkeys(p.name for j in judged for p in j.probes if p.kind in kinds)
    for name in names:
        yield _exploit_row(judged, name, letters=letters, top=top, top_is=top_is, limit=limit)


def mean_score(judged: Sequence[Judged], kind_or_name: str) -> float:
    """Return the mean over prompts of what probes of a kind, or of a name, score; NaN for none."""
    means = _means(judged, kind_or_name)
    return sum(means) / len(means) if means else math.nan


def _means(judged: Sequence[Judged], kind_or_name: str) -> list[float]:
    """Return, for each prompt where there are any, the mean score of such probes."""
    means = []
    for j in judged:
        found = [
            score
            for probe, score in zip(j.probes, j.scores.tolist(), strict=True)
            if kind_or_name in (probe.kind, probe.name) and not math.isnan(score)
        ]
        if found:
            means.append(sum(found) / len(found))
    return means


def _chance(values: Sequence[float]) -> float:
    """Return how far below its mean over a sample of prompts the true mean may well lie."""
    if len(values) < 2:
        return 0.0
    return CONFIDENCE * float(np.std(values, ddof=1)) / math.sqrt(len(values))


def _top(judged: Sequence[Judged], bounded: bool) -> tuple[float | None, str]:
    """Return what a right answer earns on average: the oracle's score, else the upper bound.

    An oracle short of the ceiling is a fault of its own and no measure for others.
    """
    high = sum(j.high for j in judged) / len(judged)
    best = [j.oracle_score for j in judged if not math.isnan(j.oracle_score)]
    reaches = not bounded or all(
        _at_ceiling(j.oracle_score, j.low, j.high) for j in judged if j.oracle is not None
    )
    if best and len(best) == len(judged) and reaches:
        return sum(best) / len(best), "the oracle"
    return (high, "the upper bound") if bounded else (None, "")


def _empty_row(judged: Sequence[Judged]) -> Row:
    for name in EMPTY:
        paid = [
            (j, score)
            for j in judged
            for probe, score in zip(j.probes, j.scores.tolist(), strict=True)
            if probe.name == name and not score <= j.low + ROUNDING * max(1.0, abs(j.low))
        ]
        if paid:
            j, score = paid[0]
            return fault(
                "floor/empty",
                f"{name} ({EMPTY[name]!r}) scores {score:g} on {j.prompt.id!r} and above the lower "
                f"bound on {len(paid)} of {len(judged)} prompts; the bound there is {j.low:g}",
            )
    return ok("floor/empty", "the empty and the white-space answer score the lower bound")


def _letters_row(judged: Sequence[Judged], letters: float, top: float | None) -> Row:
    low = sum(j.low for j in judged) / len(judged)
    high = sum(j.high for j in judged) / len(judged)
    limit = low + LETTERS_CEILING * (high - low)
    words = f"random letters score {letters:.3g} on average, between {low:.3g} and {high:.3g}"
    wrong = f"{words}; at most {limit:.3g}" if letters > limit + ROUNDING else None
    if top is not None and top <= letters:
        wrong = f"{words}; a right answer scores {top:.3g}, no better"
    return verdict("floor/random letters", wrong, words)


def _exploit_row(
    judged: Sequence[Judged], name: str, *, letters: float, top: float, top_is: str, limit: float
) -> Row:
    row = f"floor/{name}"
    texts = [probe.text for j in judged for probe in j.probes if probe.name == name]
    if [j.oracle for j in judged] == texts:
        return note(row, "is the right answer of every prompt, so it is no exploit here")
    mean = mean_score(judged, name)
    if math.isnan(mean):
        return skipped(row, "the reward does not score it")
    share = (mean - letters) / (top - letters)
    words = f"scores {mean:.3g} on average, {share:.0%} of the way from noise to {top_is}"
    if mean - _chance(_means(judged, name)) > limit + ROUNDING:
        return fault(row, f"{words}; at most {EXPLOIT_SHARE:.0%} ({limit:.3g})")
    return ok(row, words)
