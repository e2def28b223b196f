"""Search for answers that a reward pays and a reader would not, with no model and no training.

An evolution a prompt (`textenvs.audit.evolution`) maximises the reward over what a policy
could say. Answers that are right by gold are set aside, so that the search does not end
where the task is solved. It begins with random tokens, pieces of the prompt and common
strings, never with the oracle's answer: what it finds, a policy can find.
"""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from textenvs.audit.evolution import Answer, Habits, Population, Speech, shortened
from textenvs.audit.findings import Row
from textenvs.audit.pieces import COMMON, pieces_of
from textenvs.audit.reading import corrected
from textenvs.audit.subject import Attempt, Standard, Subject
from textenvs.audit.verdicts import MARGIN, Judged, exploit_row, measured, share_of
from textenvs.errors import ConfigError
from textenvs.types import Prompt

FOUND, UNIVERSAL = "search: evolution", "search: one answer for all"
EVALUATIONS, MAX_SECONDS, PROMPTS, ENOUGH = 20_000, 60.0, 8, 4
MIGRATION = 4
"""Every so many generations each population is shown the best answer of another."""
UNIVERSAL_TRIES = 8
"""Different answers that are tried on every prompt of the sample."""


@dataclass
class Island:
    """The search on one prompt.

    Attributes:
        prompt: The task.
        standard: What its answers are measured by.
        population: What is evolving.
        exploit: The shortest variant of the first exploit found; None before.
        best: The best answer, by share of the way to an honest one, that is not right.
        evaluations: How many answers were scored until the exploit was found.
    """

    prompt: Prompt
    standard: Standard
    population: Population
    exploit: Judged | None = None
    best: Judged | None = None
    evaluations: int = 0


@dataclass
class Search:
    """The state of a search over several prompts.

    Attributes:
        subject: The reward under audit.
        speech: What can be said.
        islands: One a prompt.
        evaluations: Answers scored so far.
        generations: Rounds so far.
        ended: Why the search ended, in words.
    """

    subject: Subject
    speech: Speech
    islands: list[Island]
    evaluations: int = 0
    generations: int = 0
    ended: str = ""

    @property
    def found(self) -> list[Judged]:
        """The exploits: those paid like the oracle first, and the shortest of them."""
        found = [(island, island.exploit) for island in self.islands if island.exploit is not None]
        found.sort(key=lambda f: (f[1].rival is not f[0].standard.oracle, len(f[1].attempt.text)))
        return [exploit for _, exploit in found]

    def judged(self, pairs: Sequence[tuple[Island, Answer]]) -> list[Judged]:
        """Score answers in one batch; those that are paid are read as a reader would.

        Gold is asked only about answers that are paid like an honest one: the others are
        no exploits, whatever they are worth.
        """
        attempts = [Attempt(island.prompt, answer.text, slip=True) for island, answer in pairs]
        rewards = self.subject.rewards(attempts)
        self.evaluations += len(attempts)
        standards = [island.standard for island, _ in pairs]
        shares = [_share(float(r), s) for r, s in zip(rewards, standards, strict=True)]
        judged = [
            Judged(attempt, float(reward), math.nan, share, standard.oracle)
            for attempt, reward, share, standard in zip(
                attempts, rewards, shares, standards, strict=True
            )
        ]
        paid = [i for i, share in enumerate(shares) if share >= 1.0 - MARGIN]
        if paid:
            read = [corrected(attempts[i], standards[i]) for i in paid]
            golds = self.subject.golds(read)
            for i, gold in zip(paid, golds, strict=True):
                judged[i] = measured(attempts[i], float(rewards[i]), float(gold), standards[i])
        return judged

    def generation(self) -> bool:
        """Let every population that has found nothing live one generation.

        Returns:
            Whether any had something new to say.
        """
        active = [island for island in self.islands if island.exploit is None]
        asked = [(island, answer) for island in active for answer in island.population.ask()]
        if not asked:
            return False
        judged = self.judged(asked)
        for island in active:
            mine = [k for k, (other, _) in enumerate(asked) if other is island]
            self._select(island, [asked[k][1] for k in mine], [judged[k] for k in mine])
        self.generations += 1
        if self.generations % MIGRATION == 0:
            self._migrate()
        return True

    def _select(self, island: Island, answers: list[Answer], judged: list[Judged]) -> None:
        right = np.array([j.rival is None and not math.isnan(j.reward) for j in judged], bool)
        island.population.tell(answers, np.array([j.reward for j in judged]), right)
        island.evaluations += len(answers)
        wrong = [k for k, j in enumerate(judged) if j.rival is not None]
        if not wrong:
            return
        top = max(wrong, key=lambda k: (judged[k].paid, _order(judged[k].share)))
        if island.best is None or _order(judged[top].share) > _order(island.best.share):
            island.best = judged[top]
        if judged[top].paid:
            self._record(island, answers[top], judged[top])

    def _record(self, island: Island, answer: Answer, judged: Judged) -> None:
        """Keep the shortest variant of an exploit, and show it to the other populations."""

        def passes(answers: Sequence[Answer]) -> np.ndarray:
            tried = self.judged([(island, each) for each in answers])
            return np.array([j.paid and j.rival is judged.rival for j in tried], bool)

        short = shortened(answer, self.speech, passes)
        island.exploit = judged if short == answer else self.judged([(island, short)])[0]
        for other in self.islands:
            if other.exploit is None:
                other.population.suggest(short.ids)

    def _migrate(self) -> None:
        for island, other in zip(self.islands, [*self.islands[1:], self.islands[0]], strict=True):
            if other.population.survivors:
                island.population.suggest(other.population.best().ids)


def evolve(
    subject: Subject,
    generator: np.random.Generator,
    *,
    evaluations: int = EVALUATIONS,
    max_seconds: float = MAX_SECONDS,
    n_prompts: int = PROMPTS,
    enough: int = ENOUGH,
    strings: Sequence[str] = COMMON,
    habits: Habits | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Search:
    """Search a few prompts for exploits; the same generator and evaluations, the same result.

    Args:
        subject: The reward under audit.
        generator: Decides everything.
        evaluations: The most answers to score; the last generation may go a little beyond.
        max_seconds: Looked at between generations. A search that it ends depends on the
            speed of the machine, and says so.
        n_prompts: How many prompts to search.
        enough: Prompts with an exploit at which the search ends early.
        strings: Texts to try first and to build answers of, besides pieces of the prompt.
        habits: Of the populations.
        clock: Seconds, rising.

    Raises:
        ConfigError: if an option is out of range.
    """
    _check(evaluations, max_seconds, n_prompts, enough)
    began = clock()
    env = subject.env
    speech = Speech(subject.tokenizer, subject.max_new_tokens, env.batch.stop)
    islands = []
    for prompt in subject.measured[:n_prompts]:
        texts = dict.fromkeys((*strings, *pieces_of(prompt).all))
        pieces = list(dict.fromkeys(speech.encode(text) for text in texts))
        population = Population(speech, pieces, generator, habits)
        islands.append(Island(prompt, _standard(subject.standards[prompt.id]), population))
    search = Search(subject, speech, islands)
    while not search.ended:
        if len(search.found) >= min(enough, len(islands)):
            search.ended = "enough exploits were found"
        elif search.evaluations >= evaluations:
            search.ended = "the evaluations were spent"
        elif clock() - began >= max_seconds:
            search.ended = f"the time of {max_seconds:g} s was spent"
        elif not search.generation():
            search.ended = "everything that can be said was tried"
    return search


def search_rows(
    subject: Subject,
    generator: np.random.Generator,
    *,
    evaluations: int = EVALUATIONS,
    max_seconds: float = MAX_SECONDS,
    n_prompts: int = PROMPTS,
    enough: int = ENOUGH,
    strings: Sequence[str] = COMMON,
) -> list[Row]:
    """Return what the evolutionary search found: exploits, and whether one answer serves all.

    Args:
        subject: The reward under audit.
        generator: As in `evolve`; so are the other options.
        evaluations: See `evolve`.
        max_seconds: See `evolve`.
        n_prompts: See `evolve`.
        enough: See `evolve`.
        strings: See `evolve`.
    """
    if not subject.measured:
        words = "no right answer is known, so nothing tells an exploit from an answer"
        return [Row(name, "skipped", words, "search") for name in (FOUND, UNIVERSAL)]
    search = evolve(
        subject,
        generator,
        evaluations=evaluations,
        max_seconds=max_seconds,
        n_prompts=n_prompts,
        enough=enough,
        strings=strings,
    )
    return [_found_row(search), _universal_row(search)]


def _found_row(search: Search) -> Row:
    found, searched = search.found, len(search.islands)
    spent = f"{search.evaluations} answers to {searched} prompts; {search.ended}"
    tried = found or [island.best for island in search.islands if island.best is not None]
    if not tried:
        words = f"no answer is scored that is not as good as the honest ones: {spent}"
        return Row(FOUND, "ok", words, "search")
    if found:
        example = found[0]
        rival = example.rival
        assert rival is not None
        words = (
            f"{example.attempt.text!r:.80} scores {example.reward:.3g} on "
            f"{example.attempt.prompt.id!r}, {rival.name} {rival.reward:.3g}, but its gold is "
            f"{example.gold:.2f} against {rival.gold:.2f}; exploits of {len(found)} prompts in "
            f"{spent}"
        )
    else:
        example = max(tried, key=lambda judged: judged.share)
        words = f"no exploit in {spent}; the best wrong answer earns {example.share:.0%} of the way"
    return Row(
        FOUND,
        "fault" if found else "ok",
        words,
        "search",
        reward=_mean([j.reward for j in tried]),
        honest=_mean([j.rival.reward for j in tried if j.rival is not None]),
        gold=_mean([j.gold for j in found]),
        prompt_id=example.attempt.prompt.id,
        answer=example.attempt.text,
        paid=len(found) / searched,
    )


def _universal_row(search: Search) -> Row:
    """Try what was found, or came nearest, on every prompt of the sample; report the worst."""
    judged = search.found or [i.best for i in search.islands if i.best is not None]
    texts = list(dict.fromkeys(j.attempt.text for j in judged))[:UNIVERSAL_TRIES]
    rows = [
        exploit_row(
            search.subject,
            UNIVERSAL,
            "search",
            [Attempt(prompt, text, slip=True) for prompt in search.subject.measured],
            f"the answer {text!r:.60} to every prompt",
        )
        for text in texts
    ]
    counted = [row for row in rows if row.status != "skipped"]
    if not counted:
        return Row(UNIVERSAL, "skipped", "the search has no wrong answer to try", "search")
    return max(counted, key=lambda row: (row.paid or 0.0, row.reward or 0.0))


def _standard(standard: Standard) -> Standard:
    """Leave out honest parts that earn nothing: to be paid like them is no exploit."""
    parts = [part for part in standard.honest[1:] if part.reward > standard.null]
    return replace(standard, honest=(standard.oracle, *parts))


def _share(reward: float, standard: Standard) -> float:
    """Return how far a reward is on the way to the honest answer it comes nearest to.

    An answer that earns no more than nothing is never there, even where the oracle earns as
    little.
    """
    if math.isnan(reward):
        return math.nan
    if reward <= standard.null:
        span = standard.oracle.reward - standard.null
        return (reward - standard.null) / span if span > 0 else 0.0
    return max(share_of(reward, honest.reward, standard.null) for honest in standard.honest)


def _order(share: float) -> float:
    return -math.inf if math.isnan(share) else share


def _mean(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else None


def _check(evaluations: int, max_seconds: float, n_prompts: int, enough: int) -> None:
    counts = (("evaluations", evaluations), ("n_prompts", n_prompts), ("enough", enough))
    for name, value in counts:
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value!r}")
    if not max_seconds > 0:
        raise ConfigError(f"max_seconds must be above 0, got {max_seconds!r}")
