"""The titles: BBC news and films in one corpus, in equal numbers."""

import csv
from pathlib import Path

import numpy as np

from textenvs.corpora import load_items
from textenvs.prompts import normalise


def write_corpus(path: Path, *, seed: int = 0) -> Path:
    """Write a TSV of titles with categories, unless it stands there; return its path.

    All BBC titles, as many films drawn from the shipped ones, no title twice. BBC's text is
    for research use, so the file stays in the run folder.

    Args:
        path: Where.
        seed: Draws the films.
    """
    if path.is_file():
        return path
    news, films = load_items("bbc-news"), load_items("films")
    drawn = np.random.default_rng(seed).choice(len(films), len(news), replace=False)
    kept = {normalise(item.title): item for item in (*news, *(films[i] for i in sorted(drawn)))}
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, delimiter="\t")
        writer.writerow(("title", "category"))
        writer.writerows((item.title, item.category) for item in kept.values())
    partial.replace(path)
    return path
