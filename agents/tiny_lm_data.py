"""Text the tiny language model is trained on: its tokenizer and its list documents.

Half the titles are invented. A model that only sees real ones memorises them and copies
nothing it has not seen, so the invented half makes copying the cheaper thing to learn.
"""

import csv
import gzip
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from agents.tokenizer_training import SPECIAL_TOKENS, train_bpe
from textenvs.prompts import split_of

ASSETS = Path(__file__).resolve().parents[1] / "textenvs" / "assets"
WORDS = ASSETS / "words.txt"
PAD, EOS = 0, 1

# Sentences that ask, for the tokenizer's merges.
PHRASES = (
    "Titles of category {c}:",
    "Which titles are {c}?",
    "List every {c} title:",
    "Only {c}:",
    "Select the titles marked {c}:",
    "Show the articles under {c}:",
    "Category {c}, line by line:",
    "Name the entries of type {c}.",
    "From the list, everything in {c}:",
    "{c} titles, in order:",
    "Copy the items labelled {c}:",
    "Give each article in section {c}, nothing else:",
    "First title:",
    "Which title comes first?",
    "Copy the title on the first line:",
    "Last title:",
    "Which title comes last?",
    "Copy the title on the last line:",
    "All titles:",
    "Every title of the list:",
    "Copy each title, one a line:",
)


@dataclass(frozen=True)
class Film:
    """One row of films.tsv.gz; cast holds at most three names."""

    title: str
    category: str
    year: str
    director: str
    cast: str


def read_films(split: str, path: Path = ASSETS / "films.tsv.gz") -> list[Film]:
    """Read the films of one split; ``train`` is all that training may see."""
    with gzip.open(path, "rt", encoding="utf-8", newline="\n") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [Film(**row) for row in rows if split_of(row["title"]) == split]


def read_words(path: Path = WORDS) -> list[str]:
    """Read the project's own list of common English words."""
    return path.read_text(encoding="utf-8").split()


def train_tokenizer(films: Sequence[Film], words: Sequence[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE on films, words and requests."""
    return train_bpe(_tokenizer_text(films, words), vocab_size)


def _tokenizer_text(films: Sequence[Film], words: Sequence[str]) -> Iterator[str]:
    """Yield text in the proportions that decide which words become tokens."""
    for film in films:
        # Names of people would take most of the vocabulary if titles did not count twice.
        yield from [f"[{film.category}] {film.title}\n"] * 2
        yield film.director
    for word in words:
        # Inside a line, at the start of a line, and at the start of a sentence.
        yield from [f" {word}"] * 80 + [word] * 30 + [word.capitalize()] * 30
    for request in PHRASES:
        yield from [request] * 20


ITEM_STYLES = ("[{c}] {t}", "{c}: {t}")
REQUESTS = ("Titles of category {c}:", "Only {c}:", "List every title of {c}:", "Articles of {c}:")
MAX_ANSWERS = 3

# Weights of the loss. Which title comes is decided by one token in twenty; were all tokens
# equal, a model would learn to copy and never to choose.
CONTEXT, CHOICE, COPY, END = 0.03, 4.0, 0.5, 2.0


@dataclass
class Document:
    """Token ids with the weight of each in the loss."""

    ids: list[int]
    weights: list[float]

    def add(self, ids: Sequence[int], weight: float) -> None:
        """Append tokens of one weight."""
        self.ids += ids
        self.weights += [weight] * len(ids)


class ListDocuments:
    """Draws documents; the caller passes the generator, so a seed fixes them.

    A *request* shows a list and asks for the titles of one category, as a user would. A
    *recall* shows a list in which every category stands once and then asks for each of them:
    many choices a document, which is what makes looking things up emerge in minutes.
    """

    def __init__(self, tokenizer: Tokenizer, films: Sequence[Film], words: Sequence[str]) -> None:
        """Keep what documents are made of."""
        self.encode = lru_cache(maxsize=65_536)(lambda text: tokenizer.encode(text).ids)
        self._films, self._words = films, words
        self._genres = np.array(sorted({film.category for film in films}))
        self._newline = self.encode("\n")
        # Tokens without a newline: one inside a title would end it.
        ids = range(len(SPECIAL_TOKENS), tokenizer.get_vocab_size())
        self._free_ids = np.array([i for i in ids if [i] != self._newline])

    def request(self, rng: np.random.Generator, n_items: int) -> Document:
        """Draw a list and a request for one of its categories, with the answer."""
        titles = self._titles(rng, n_items, words_share=0.1)
        n_categories = max(2, min(len(self._genres), int(n_items * 0.4) + 1))
        pool = self._genres[rng.choice(len(self._genres), n_categories, replace=False)]
        labels = [self.encode(str(pool[i])) for i in rng.integers(n_categories, size=n_items)]
        few = [label for label in labels if labels.count(label) <= MAX_ANSWERS]
        if not few:
            return self.request(rng, n_items)
        asked = few[rng.integers(len(few))]
        document = self._list(rng, titles, labels)[0]
        question = _pick(rng, REQUESTS)
        document.add(self._fill(question, asked, []) + self._newline, CONTEXT)
        answer = [t for t, label in zip(titles, labels, strict=True) if label == asked]
        for place, title in enumerate(answer):
            document.add(title[:1], CHOICE)
            document.add(title[1:], COPY)
            document.add(self._newline if place + 1 < len(answer) else [EOS], END)
        return document

    def recall(self, rng: np.random.Generator, n_items: int) -> Document:
        """Draw a list of distinct categories, and ask for each in another order."""
        n = max(2, min(n_items, len(self._genres)))
        titles = self._titles(rng, n, words_share=0.0)
        if rng.random() < 0.6:
            chosen = self._genres[rng.choice(len(self._genres), n, replace=False)]
            labels = [self.encode(str(name)) for name in chosen]
        else:
            labels = [self._random_ids(rng, 1, 2) for _ in range(n)]
        document, style = self._list(rng, titles, labels)
        on_a_line = rng.random() < 0.5
        for i in rng.permutation(n):
            question = self._fill(style, labels[i], [])
            if on_a_line:
                question = self._fill("{c}:", labels[i], []) + self._newline
            document.add(question, CONTEXT)
            document.add(titles[i][:1], CHOICE)
            document.add(titles[i][1:] + self._newline, COPY)
        document.add([EOS], CONTEXT)
        return document

    def _list(
        self, rng: np.random.Generator, titles: list[list[int]], labels: list[list[int]]
    ) -> tuple[Document, str]:
        document, style = Document([], []), _pick(rng, ITEM_STYLES)
        for title, label in zip(titles, labels, strict=True):
            document.add(self._fill(style, label, title) + self._newline, CONTEXT)
        return document, style

    def _titles(self, rng: np.random.Generator, n: int, words_share: float) -> list[list[int]]:
        """Draw titles of one kind: random tokens, random words, or films."""
        kind = rng.random()
        if kind < 0.5 - words_share:
            return [self._random_ids(rng, 2, 8) for _ in range(n)]
        if kind < 0.5:
            return [self._random_words(rng) for _ in range(n)]
        return [self.encode(self._films[i].title) for i in rng.integers(len(self._films), size=n)]

    def _random_ids(self, rng: np.random.Generator, low: int, high: int) -> list[int]:
        return rng.choice(self._free_ids, size=rng.integers(low, high)).tolist()

    def _random_words(self, rng: np.random.Generator) -> list[int]:
        words = [self._words[i] for i in rng.integers(len(self._words), size=rng.integers(1, 7))]
        return self.encode(" ".join(words))

    def _fill(self, style: str, category: list[int], title: list[int]) -> list[int]:
        """Put token ids in the places of {c} and {t}."""
        ids: list[int] = []
        for part in style.replace("{", "\0{").replace("}", "}\0").split("\0"):
            ids += {"{c}": category, "{t}": title}.get(part) or self.encode(part)
        return ids


def _pick(rng: np.random.Generator, options: Sequence[str]) -> str:
    return options[int(rng.integers(len(options)))]
