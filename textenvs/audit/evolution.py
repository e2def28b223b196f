"""Evolution of token sequences: a search for what a score pays, with no model and no training.

A population of answers is varied and selected by score alone, the (mu + lambda) scheme of
evolution strategies (Beyer and Schwefel, Natural Computing 1, 2002, section 2) with
tournament selection. It knows nothing of the scorer but the scores: `ask` gives answers to
be scored, `tell` takes the scores.
"""

import string
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np

from textenvs.errors import TokenizerError
from textenvs.tokenization import TextTokenizer

T = TypeVar("T")
Ids = tuple[int, ...]
LETTERS = string.ascii_lowercase + " "


class Answer(NamedTuple):
    """One answer.

    Attributes:
        ids: The tokens a policy would act, without EOS.
        text: What they say.
    """

    ids: Ids
    text: str


class Speech:
    """What a policy can say in one environment: tokens of its vocabulary, within the budget."""

    def __init__(
        self, tokenizer: TextTokenizer, max_new_tokens: int, stop: Sequence[str] = ()
    ) -> None:
        """Leave one token of the budget for EOS, where there is more than one.

        Args:
            tokenizer: Of the environment.
            max_new_tokens: Its token budget.
            stop: Its stop strings; what stands behind one cannot be said.
        """
        self.tokenizer, self.stop = tokenizer, tuple(stop)
        self.limit = max(1, max_new_tokens - 1)

    def encode(self, text: str) -> Ids:
        """Return the tokens of a text, as many as the budget allows.

        Characters the tokenizer has no token for are left out.
        """
        # A lone surrogate, which a prompt may hold, is no text to a tokenizer.
        clean = text.encode("utf-8", "replace").decode("utf-8")
        try:
            ids = self.tokenizer.encode_completion(clean)
        except TokenizerError:  # of a small alphabet
            if len(clean) == 1:
                return ()
            ids = [i for character in clean for i in self.encode(character)]
        return tuple(i for i in ids if i != self.tokenizer.eos_id)[: self.limit]

    def answer(self, ids: Sequence[int]) -> Answer:
        """Return the answer that some tokens are."""
        kept = tuple(ids[: self.limit])
        return Answer(kept, self.text(kept))

    def text(self, ids: Sequence[int]) -> str:
        """Return what tokens say, up to the first stop string."""
        text = self.tokenizer.decode(ids)
        cuts = [text.find(stop) for stop in self.stop if stop in text]
        return text[: min(cuts)] if cuts else text

    def random(self, size: int, generator: np.random.Generator) -> Ids:
        """Return tokens drawn uniformly, none of them EOS."""
        drawn = generator.integers(self.tokenizer.vocab_size - 1, size=size)
        # One position for EOS is left out of the draw, and skipped here.
        return tuple((drawn + (drawn >= self.tokenizer.eos_id)).tolist())


@dataclass(frozen=True, slots=True)
class Habits:
    """How a population lives.

    Attributes:
        size: Answers that survive a generation.
        offspring: New answers of a generation.
        tournament: Survivors that compete for being a parent.
        crossover: Share of the new answers that have two parents.
        newcomers: Share that have none.
        newcomers_on_plateau: The same while all survivors score alike, so that selection has
            nothing to go by.
        set_aside: The greatest share of survivors that may be answers set aside by `tell`.
    """

    size: int = 32
    offspring: int = 32
    tournament: int = 3
    crossover: float = 0.25
    newcomers: float = 0.15
    newcomers_on_plateau: float = 0.6
    set_aside: float = 0.25


class Population:
    """Answers to one prompt that evolve towards higher scores."""

    def __init__(
        self,
        speech: Speech,
        pieces: Sequence[Ids],
        generator: np.random.Generator,
        habits: Habits | None = None,
    ) -> None:
        """Begin with no answer.

        Args:
            speech: What can be said.
            pieces: Tokens of texts to build answers of; all are tried once on their own, as
                far as the first generations have room.
            generator: Decides everything.
            habits: None takes the defaults.
        """
        self.speech, self.generator = speech, generator
        self.habits = habits or Habits()
        self.pieces = [piece for piece in pieces if piece] or [speech.random(1, generator)]
        self.survivors: list[tuple[float, bool, Answer]] = []
        self._untried = list(self.pieces)
        self._seen: set[str] = set()

    def suggest(self, ids: Ids) -> None:
        """Put an answer among those to be tried next."""
        self._untried.append(ids)

    def best(self) -> Answer:
        """Return the survivor with the highest score, one that is not set aside if there is any.

        Raises:
            IndexError: if nothing was told yet.
        """
        ranked = sorted(self.survivors, key=lambda member: (member[1], -member[0]))
        return ranked[0][2]

    def ask(self) -> list[Answer]:
        """Return answers nobody has scored yet; fewer than `offspring` where few are left."""
        wanted, found = self.habits.offspring, []
        for _ in range(4 * wanted):
            answer = self.speech.answer(self._proposal())
            if answer.text not in self._seen:
                self._seen.add(answer.text)
                found.append(answer)
                if len(found) == wanted:
                    break
        return found

    def tell(
        self, answers: Sequence[Answer], scores: np.ndarray, set_aside: np.ndarray | None = None
    ) -> None:
        """Select the survivors among the old ones and these.

        Args:
            answers: As `ask` gave them.
            scores: float64 [N]; NaN is the worst.
            set_aside: bool [N], answers that are not what is looked for, such as right ones.
                They may be parents, but never fill the population.
        """
        aside = np.zeros(len(answers), bool) if set_aside is None else set_aside
        worth = np.where(np.isnan(scores), -np.inf, scores).tolist()
        pool = [*self.survivors, *zip(worth, aside.tolist(), answers, strict=True)]
        # Equals in random order: a population on a plateau drifts instead of standing still.
        shuffled = [pool[i] for i in self.generator.permutation(len(pool))]
        shuffled.sort(key=lambda member: -member[0])
        room = int(self.habits.set_aside * self.habits.size)
        wanted = [member for member in shuffled if not member[1]]
        others = [member for member in shuffled if member[1]][:room]
        self.survivors = [*others, *wanted[: self.habits.size - len(others)]]

    def _proposal(self) -> Ids:
        """Return the tokens of a new answer."""
        generator, habits = self.generator, self.habits
        if self._untried and generator.random() < 0.5:
            return self._untried.pop(int(generator.integers(len(self._untried))))
        if not self.survivors or generator.random() < self._newcomers():
            return newcomer(self.speech, self.pieces, generator)
        child = self._parent()
        if generator.random() < habits.crossover:
            child = crossed(child, self._parent(), generator)
        for _ in range(int(generator.geometric(0.6))):
            change = CHANGES[int(generator.integers(len(CHANGES)))]
            child = change(child, self.pieces, self.speech, generator)
        return child

    def _newcomers(self) -> float:
        scores = {score for score, _, _ in self.survivors}
        return self.habits.newcomers if len(scores) > 1 else self.habits.newcomers_on_plateau

    def _parent(self) -> Ids:
        """Return the best of a few survivors drawn at random."""
        drawn = self.generator.integers(len(self.survivors), size=self.habits.tournament)
        return max((self.survivors[i] for i in drawn), key=lambda member: member[0])[2].ids


def newcomer(speech: Speech, pieces: Sequence[Ids], generator: np.random.Generator) -> Ids:
    """Return an answer without parents: random tokens, random letters, or joined pieces.

    Random letters fill the budget: a long answer holds many short strings, so that a reward
    which looks for one of them gives itself away.
    """
    kind = int(generator.integers(3))
    if kind == 0:
        return speech.random(int(generator.integers(1, speech.limit + 1)), generator)
    if kind == 1:
        letters = generator.integers(len(LETTERS), size=4 * speech.limit)
        return speech.encode("".join(LETTERS[i] for i in letters))
    joined: list[int] = []
    for _ in range(int(generator.integers(1, 5))):
        joined += pieces[int(generator.integers(len(pieces)))]
    return tuple(joined)


def crossed(first: Ids, second: Ids, generator: np.random.Generator) -> Ids:
    """Return the beginning of one answer and the end of another, each cut at random."""
    cut = int(generator.integers(len(first) + 1))
    other = int(generator.integers(len(second) + 1))
    return first[:cut] + second[other:]


Change = Callable[[Ids, Sequence[Ids], Speech, np.random.Generator], Ids]


def replaced(
    ids: Ids, pieces: Sequence[Ids], speech: Speech, generator: np.random.Generator
) -> Ids:
    """Return the answer with one token drawn anew."""
    at = _position(ids, generator)
    return (*ids[:at], *speech.random(1, generator), *ids[at + 1 :])


def inserted(
    ids: Ids, pieces: Sequence[Ids], speech: Speech, generator: np.random.Generator
) -> Ids:
    """Return the answer with a random token put in."""
    at = int(generator.integers(len(ids) + 1))
    return (*ids[:at], *speech.random(1, generator), *ids[at:])


def spliced(ids: Ids, pieces: Sequence[Ids], speech: Speech, generator: np.random.Generator) -> Ids:
    """Return the answer with a piece, or a run of one, put in."""
    piece = pieces[int(generator.integers(len(pieces)))]
    if generator.random() < 0.5:
        piece = piece[_run(piece, generator)]
    at = int(generator.integers(len(ids) + 1))
    return (*ids[:at], *piece, *ids[at:])


def deleted(ids: Ids, pieces: Sequence[Ids], speech: Speech, generator: np.random.Generator) -> Ids:
    """Return the answer without a run of its tokens."""
    run = _run(ids, generator)
    return ids[: run.start] + ids[run.stop :]


def kept(ids: Ids, pieces: Sequence[Ids], speech: Speech, generator: np.random.Generator) -> Ids:
    """Return a run of the answer alone."""
    return ids[_run(ids, generator)]


def duplicated(
    ids: Ids, pieces: Sequence[Ids], speech: Speech, generator: np.random.Generator
) -> Ids:
    """Return the answer with a run of its tokens said again behind it."""
    run = _run(ids, generator)
    return ids[: run.stop] + ids[run] + ids[run.stop :]


def swapped(ids: Ids, pieces: Sequence[Ids], speech: Speech, generator: np.random.Generator) -> Ids:
    """Return the answer with two tokens exchanged."""
    changed = list(ids)
    if ids:
        i, j = generator.integers(len(ids), size=2)
        changed[i], changed[j] = changed[j], changed[i]
    return tuple(changed)


CHANGES: tuple[Change, ...] = (replaced, inserted, spliced, deleted, kept, duplicated, swapped)
"""The mutations, each as likely as another."""


Passes = Callable[[Sequence[Answer]], np.ndarray]
"""From N answers to bool [N]."""


def shortened(answer: Answer, speech: Speech, passes: Passes) -> Answer:
    """Return a short variant of an answer that still passes: tokens, then characters left out.

    No run of one token, and no single character, can be left out of the result.

    Args:
        answer: One that passes.
        speech: Makes answers of tokens.
        passes: Whether answers pass.
    """
    answer = _reduced(answer, answer.ids, speech.answer, passes)

    def said(characters: Sequence[str]) -> Answer:
        return speech.answer(speech.encode("".join(characters)))

    return _reduced(answer, tuple(answer.text), said, passes)


def _reduced(
    answer: Answer, parts: Sequence[T], make: Callable[[Sequence[T]], Answer], passes: Passes
) -> Answer:
    """Leave out runs of parts as long as the rest passes, long runs first.

    Delta debugging (Zeller and Hildebrandt, IEEE TSE 28, 2002): runs of half the parts, then a
    quarter, down to one.
    """
    size = max(1, len(parts) // 2)
    while parts:
        rests = [tuple(parts[:i]) + tuple(parts[i + size :]) for i in range(0, len(parts), size)]
        tries = [make(rest) for rest in rests if rest]
        good = passes(tries) if tries else np.zeros(0, bool)
        if good.any():
            first = int(np.flatnonzero(good)[0])
            answer, parts = tries[first], rests[first]
            size = min(size, max(1, len(parts) // 2))
        elif size > 1:
            size //= 2
        else:
            break
    return answer


def _position(ids: Ids, generator: np.random.Generator) -> int:
    return int(generator.integers(max(1, len(ids))))


def _run(ids: Ids, generator: np.random.Generator) -> slice:
    """Return where a run of at least one token stands; of none in an empty answer."""
    start = _position(ids, generator)
    stop = start + 1 + int(generator.integers(max(1, len(ids) - start)))
    return slice(start, min(stop, len(ids)))
