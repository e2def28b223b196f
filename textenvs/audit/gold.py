"""What an answer is worth, apart from the reward: the environment's gold metrics.

A reward is gamed by an answer it pays and a reader would not. No audit has a reader, so the
metrics of the environment stand in for one; where it has none, a match with the right answer.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from textenvs.checker.probes import context_copies, random_letters
from textenvs.errors import UnknownNameError
from textenvs.prompts import normalise
from textenvs.types import Episode, Prompt

QUALIFIED_SHARE = 0.9
"""Share of the prompts on which a metric must rank the oracle first and nothing last."""
NOISE_CEILING = 0.5
"""What random letters may reach between nothing (0) and the oracle (1): a metric that they
pass, such as the length, does not tell sense from noise."""

Metrics = Callable[[Sequence[Episode]], Mapping[str, Any]]


@dataclass(frozen=True)
class Gold:
    """The gold measure of an audit: 1 is as good as the oracle, 0 as bad as no answer.

    Every chosen metric is scaled so, prompt by prompt, and the least of them counts: a
    metric that is blind to an exploit is outvoted by one that sees it.

    Attributes:
        words: What it is, for the report.
        names: The metrics; empty where answers are matched with the oracle's instead.
        metrics: Of the environment.
        floors: Name -> id of a prompt -> the metric of the empty answer.
        ceilings: Name -> id of a prompt -> the metric of the oracle's.
        oracles: Id of a prompt -> the oracle's answer.
    """

    words: str
    names: tuple[str, ...]
    metrics: Metrics | None
    floors: Mapping[str, Mapping[str, float]]
    ceilings: Mapping[str, Mapping[str, float]]
    oracles: Mapping[str, str]

    def __call__(self, episodes: Sequence[Episode]) -> np.ndarray:
        """Return the gold measure, float64 [B].

        NaN for a prompt with no right answer, and where no metric tells it from nothing.
        """
        known = np.array([e.prompt.id in self.oracles for e in episodes], bool)
        if self.metrics is None or not self.names:
            matched = [_matches(e, self.oracles.get(e.prompt.id)) for e in episodes]
            return np.where(known, np.array(matched, np.float64), np.nan)
        found = self.metrics(episodes)
        scaled = [self._scaled(name, found[name], episodes) for name in self.names]
        # fmin passes over NaN: a metric without a range on one prompt leaves it to the others.
        return np.where(known, np.fmin.reduce(scaled), np.nan)

    def _scaled(self, name: str, values: Any, episodes: Sequence[Episode]) -> np.ndarray:
        ids = [episode.prompt.id for episode in episodes]
        floor = np.array([self.floors[name].get(i, np.nan) for i in ids])
        span = np.array([self.ceilings[name].get(i, np.nan) for i in ids]) - floor
        return np.divide(
            np.asarray(values, float) - floor, span, out=np.full(len(ids), np.nan), where=span != 0
        )


def _matches(episode: Episode, oracle: str | None) -> bool:
    return oracle is not None and normalise(episode.completion) == normalise(oracle)


def choose_gold(
    metrics: Metrics | None,
    oracles: Mapping[str, str],
    prompts: Sequence[Prompt],
    generator: np.random.Generator,
    name: str | None = None,
) -> Gold:
    """Choose the metrics that can stand in for a reader.

    Those in which, on 9 prompts of 10, the oracle's answer is better than none, copies of
    the prompt and of its context are no better than the oracle's, and random letters, few
    or many, come at most half way from none to the oracle's. Where there is no such
    metric, an answer is good if it matches the oracle's in normal form.

    Args:
        metrics: Of the environment; None where it has none.
        oracles: Id of a prompt -> a right answer.
        prompts: The sample.
        generator: For the random letters.
        name: Take this metric, whatever the rule says.

    Raises:
        UnknownNameError: if the environment has no metric of that name.
    """
    answered = [prompt for prompt in prompts if prompt.id in oracles]
    found = metrics([Episode(prompt, "") for prompt in answered]) if metrics and answered else {}
    if name is not None and name not in found:
        raise UnknownNameError("gold metric of the environment", name, found)
    if metrics is None or not found:
        return Gold(_matching_words("the environment has no metrics"), (), None, {}, {}, oracles)
    empty = _table(metrics, [Episode(p, "") for p in answered])
    best = _table(metrics, [Episode(p, oracles[p.id]) for p in answered])
    if name is not None:
        names = [name]
    else:
        names = _qualified(metrics, empty, best, answered, oracles, generator)
    if not names:
        why = "no metric has its best at the oracle and its worst at no answer"
        return Gold(_matching_words(why), (), None, {}, {}, oracles)
    ids = [prompt.id for prompt in answered]
    floors = {each: dict(zip(ids, empty[each].tolist(), strict=True)) for each in names}
    ceilings = {each: dict(zip(ids, best[each].tolist(), strict=True)) for each in names}
    listed = ", ".join(names)
    words = f"the metric {listed}" if len(names) == 1 else f"the least of the metrics {listed}"
    words = f"{words}; 1 is the oracle's answer, 0 none"
    return Gold(words, tuple(names), metrics, floors, ceilings, oracles)


def _qualified(
    metrics: Metrics,
    empty: Mapping[str, np.ndarray],
    best: Mapping[str, np.ndarray],
    prompts: Sequence[Prompt],
    oracles: Mapping[str, str],
    generator: np.random.Generator,
) -> list[str]:
    """Return the metrics that keep the rule of `choose_gold`.

    Args:
        metrics: Of the environment.
        empty: Name -> float64 [B], of the empty answer to each prompt.
        best: Name -> float64 [B], of the oracle's.
        prompts: The B prompts.
        oracles: Id of a prompt -> a right answer.
        generator: For the random letters.
    """
    few = _table(metrics, [Episode(p, random_letters(generator)) for p in prompts])
    many = _table(metrics, [Episode(p, _much_noise(oracles[p.id], generator)) for p in prompts])
    copies = [(i, Episode(p, text)) for i, p in enumerate(prompts) for text in _copies(p)]
    copied = _table(metrics, [episode for _, episode in copies])
    owner = np.array([i for i, _ in copies])
    names = []
    for name in best:
        span = best[name] - empty[name]
        noise = np.maximum(few[name], many[name])
        fit = (span > 0) & (noise <= empty[name] + NOISE_CEILING * span)
        fit[owner[copied[name] > best[name][owner]]] = False
        if fit.mean() >= QUALIFIED_SHARE:
            names.append(name)
    return names


def _copies(prompt: Prompt) -> list[str]:
    return [prompt.text, *context_copies(prompt.context).values()]


def _much_noise(oracle: str, generator: np.random.Generator) -> str:
    """Return random letters of more words, lines and characters than a right answer has."""
    noise = ""
    while len(noise) < 2 * len(oracle) or len(noise.split()) < 2 * len(oracle.split()):
        noise += f"{random_letters(generator)}\n"
    return noise


def _table(metrics: Metrics, episodes: Sequence[Episode]) -> dict[str, np.ndarray]:
    return {name: np.asarray(values, np.float64) for name, values in metrics(episodes).items()}


def _matching_words(why: str) -> str:
    return f"a match with the oracle's answer in normal form, since {why}"
