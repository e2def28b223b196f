"""Facts of films in varied sentences, and questions about them.

A passage tells some facts of a few films, one a sentence; the wordings of the test split are
held out, so that a policy that learnt the sentences instead of reading them is found out.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, get_args

import numpy as np

from textenvs.corpora import film_table
from textenvs.prompts import normalise, split_of
from textenvs.types import Split

Kind = Literal["director", "year", "genre", "cast"]
KINDS: tuple[Kind, ...] = get_args(Kind)
LONGEST_TITLE = 40
TOLD_SHARE = 0.75
"""Chance that a passage tells a fact that is not at issue. Were every other fact told, a gap
would give a question without an answer away."""


class Film(NamedTuple):
    """What the table knows of one film."""

    title: str
    director: str
    year: str
    genre: str
    cast: tuple[str, ...]


class Fact(NamedTuple):
    """One thing a passage says: `value` is the `kind` of `film`."""

    film: str
    kind: Kind
    value: str


@dataclass(frozen=True, slots=True)
class Wording:
    """Ways to say and to ask a fact.

    Attributes:
        sentences: Per kind, with the fields {film} and {value}.
        questions: Per kind, with the field {film}.
        stand_ins: What the film just named may be called in its next sentences.
    """

    sentences: Mapping[Kind, tuple[str, ...]]
    questions: Mapping[Kind, tuple[str, ...]]
    stand_ins: tuple[str, ...]


TRAINING_WORDING = Wording(
    sentences={
        "director": (
            "{film} was directed by {value}.",
            "{value} directed {film}.",
            "the director of {film} is {value}.",
            "{film} is the work of director {value}.",
        ),
        "year": (
            "{film} came out in {value}.",
            "{film} was released in {value}.",
            "the release of {film} was in {value}.",
            "{film} dates from {value}.",
        ),
        "genre": (
            "{film} is listed under {value}.",
            "the genre of {film} is {value}.",
            "{film} belongs to the genre {value}.",
            "{film} is filed as {value}.",
        ),
        "cast": (
            "{film} stars {value}.",
            "{value} is in the cast of {film}.",
            "the cast of {film} includes {value}.",
            "{value} has a part in {film}.",
        ),
    },
    questions={
        "director": (
            "Who directed {film}?",
            "Who is the director of {film}?",
            "Name the director of {film}.",
        ),
        "year": (
            "When was {film} released?",
            "In which year did {film} come out?",
            "What is the release year of {film}?",
        ),
        "genre": (
            "What is the genre of {film}?",
            "Which genre does {film} belong to?",
            "What is {film} listed under?",
        ),
        "cast": (
            "Who stars in {film}?",
            "Who is in the cast of {film}?",
            "Name an actor of {film}.",
        ),
    },
    stand_ins=("the film", "that film"),
)
HELD_OUT_WORDING = Wording(
    sentences={
        "director": (
            "{value} was behind the camera for {film}.",
            "{film} had {value} as its director.",
            "{value} called the shots on {film}.",
        ),
        "year": (
            "{film} had its premiere in {value}.",
            "audiences first saw {film} in {value}.",
            "it was in {value} that {film} reached the cinemas.",
        ),
        "genre": (
            "{film} counts as {value}.",
            "critics class {film} as {value}.",
            "{value} is the label given to {film}.",
        ),
        "cast": (
            "{film} features {value}.",
            "{value} appears on screen in {film}.",
            "among the actors seen in {film} is {value}.",
        ),
    },
    questions={
        "director": ("By whom was {film} directed?", "Which director made {film}?"),
        "year": ("What year did {film} premiere?", "When did audiences first see {film}?"),
        "genre": ("What kind of film is {film}?", "How is {film} classed?"),
        "cast": ("Which actor appears in {film}?", "Who can be seen in {film}?"),
    },
    stand_ins=("this picture", "the picture"),
)
WORDINGS: Mapping[Split, Wording] = {
    "train": TRAINING_WORDING,
    "validation": TRAINING_WORDING,
    "test": HELD_OUT_WORDING,
}


@dataclass(frozen=True, slots=True)
class FilmQuestion:
    """A passage and a question about it.

    Attributes:
        facts: What the passage says, in its order.
        sentences: The same in words, one a fact.
        film: Title of the film asked about.
        kind: What is asked of it.
        question: The question in words.
        answer: The right answer; None where the passage does not say.
    """

    facts: tuple[Fact, ...]
    sentences: tuple[str, ...]
    film: str
    kind: Kind
    question: str
    answer: str | None


@lru_cache(maxsize=3)
def films_of(split: Split) -> tuple[Film, ...]:
    """Return the films of a split for which every kind of fact is known and clear.

    Left out are films of several directors, without cast, or with a title that is long or
    holds a quotation mark. An actor who also directs is dropped from the cast, so that one
    name never answers two questions about a film.
    """
    films = []
    for row in film_table():
        director = row["director"]
        cast = tuple(n for n in row["cast"].split(", ") if normalise(n) != normalise(director))
        clear = director and "," not in director and any(cast) and row["year"]
        if clear and len(row["title"]) <= LONGEST_TITLE and '"' not in row["title"]:
            if split_of(row["title"]) == split:
                films.append(Film(row["title"], director, row["year"], row["category"], cast))
    return tuple(films)


def draw_question(
    films: Sequence[Film],
    generator: np.random.Generator,
    *,
    n_films: int,
    answerable: bool,
    wording: Wording,
) -> FilmQuestion:
    """Draw a passage about some films and a question about one.

    At least one other film of the passage tells a fact of the kind asked for, with another
    value. Where there is no answer, either the film is mentioned without that fact or it
    is not mentioned.

    Args:
        films: Of at least n_films + 1 different values of every kind.
        generator: Source of chance.
        n_films: Films in the passage, at least 2.
        answerable: Whether the passage gives the answer.
        wording: Sentences and questions to choose from.
    """
    kind = KINDS[int(generator.integers(len(KINDS)))]
    is_mentioned = answerable or generator.random() < 0.5
    known = _draw_known(films, n_films + (not is_mentioned), kind, generator)
    asked, rival = (0, 1) if is_mentioned else (n_films, 0)
    facts: list[Fact] = []
    for i in generator.permutation(n_films):
        told = [k for k in KINDS if generator.random() < TOLD_SHARE or (i == rival and k == kind)]
        if i == asked:
            told = [k for k in KINDS if (answerable if k == kind else k in told)]
        if not told:
            others = [k for k in KINDS if k != kind]
            told = [others[int(generator.integers(len(others)))]]
        facts.extend(known[i][told[j]] for j in generator.permutation(len(told)))
    subject = known[asked][kind]
    return FilmQuestion(
        facts=tuple(facts),
        sentences=_in_words(facts, wording, generator),
        film=subject.film,
        kind=kind,
        question=_pick(wording.questions[kind], generator).format(film=f'"{subject.film}"'),
        answer=subject.value if answerable else None,
    )


def _draw_known(
    films: Sequence[Film], n: int, kind: Kind, generator: np.random.Generator
) -> list[dict[Kind, Fact]]:
    """Return all facts of n films that differ in the kind asked for, one actor a film."""
    known: dict[str, dict[Kind, Fact]] = {}
    told: set[str] = set()
    while len(known) < n:
        film = films[int(generator.integers(len(films)))]
        values: dict[Kind, str] = {
            "director": film.director,
            "year": film.year,
            "genre": film.genre,
            "cast": _pick(film.cast, generator),
        }
        value = normalise(values[kind])
        if film.title not in known and value not in told:
            told.add(value)
            known[film.title] = {k: Fact(film.title, k, v) for k, v in values.items()}
    return list(known.values())


def _in_words(
    facts: Sequence[Fact], wording: Wording, generator: np.random.Generator
) -> tuple[str, ...]:
    """Return one sentence a fact; a film is named at least in its first."""
    sentences, last = [], None
    for fact in facts:
        title = f'"{fact.film}"'
        stand_ins = wording.stand_ins if fact.film == last else ()
        film = _pick((title, *stand_ins), generator)
        template = _pick(wording.sentences[fact.kind], generator)
        sentence = template.format(film=film, value=fact.value)
        sentences.append(sentence[0].upper() + sentence[1:])
        last = fact.film
    return tuple(sentences)


def _pick(choices: Sequence[str], generator: np.random.Generator) -> str:
    return choices[int(generator.integers(len(choices)))]
