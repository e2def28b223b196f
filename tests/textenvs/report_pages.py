"""Made-up studies with their summaries, and an HTML page taken apart."""

import json
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from benchmark_data import DESIGNS, write_study

from textenvs.benchmark.results import load_study
from textenvs.benchmark.summary import summarise
from textenvs.benchmark.timings import timings

FEW = {name: DESIGNS[name] for name in ("sound", "hacked")}


def study_with_summary(folder: Path, **options: Any) -> Path:
    """A study of two designs and six seeds (the hacked one has a failed cell), summarised."""
    write_study(folder, **{"designs": FEW, "seeds": range(6), "prompts": 12, **options})
    return summarised(folder)


def summarised(folder: Path) -> Path:
    results = load_study(folder)
    summary = summarise(results, resamples=100)
    (folder / "summary.json").write_text(json.dumps(summary), encoding="utf-8")
    (folder / "timings.json").write_text(json.dumps(timings(results)), encoding="utf-8")
    return folder


def rewrite_lines(path: Path, change: Any) -> None:
    """Put every object of a JSON-lines file through a function."""
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps(change(row)) + "\n" for row in rows), encoding="utf-8")


class ParsedPage(HTMLParser):
    """Elements, ids, links, and the text of a page as a browser shows it."""

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.style = ""
        self._in_style = False
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._in_style = tag == "style"

    def handle_endtag(self, tag: str) -> None:
        self._in_style = False

    def handle_data(self, data: str) -> None:
        if self._in_style:
            self.style += data
        else:
            self.text += data

    def attributes(self, name: str) -> list[str]:
        """Values of an attribute, wherever it stands."""
        return [
            value or "" for _, found in self.elements for n, value in found.items() if n == name
        ]

    def tags(self) -> set[str]:
        return {tag for tag, _ in self.elements}
