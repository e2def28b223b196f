"""Files of preferences: rankings of K answers, or pairs in columns."""

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agents.preferences.collection import RankingCollector, ranking_set
from agents.preferences.columns import Columns
from agents.preferences.merging import merged
from agents.preferences.rankings import Ranking, RankingSet
from agents.runs import write_text
from textenvs.errors import ConfigError
from textenvs.prompts import read_table

TORN = "torn last lines"
LONE_SURROGATE = re.compile("[\ud800-\udfff]")
Row = tuple[str, dict[str, Any]]
"""Where a row stands, as a message names it, and its cells."""


def read_rankings(
    path: str | Path,
    *,
    prompt_column: str = "prompt",
    chosen_column: str = "chosen",
    rejected_column: str = "rejected",
    group_column: str = "group",
    merge: bool = True,
) -> RankingSet:
    """Return the rankings of a file.

    A JSON-lines, JSON or Parquet file whose rows have the columns `answers` and `ranks` (the
    least is best) holds rankings. Any other file, CSV and TSV among them, holds pairs: a
    prompt, a chosen and a rejected answer a row. Rows without the group column, or with an
    empty one, are grouped by their prompt. A column `prompt_id` is kept.

    Rows that prefer nothing (an empty answer, one answer, ties alone) are left out and
    counted, and so is the last line of JSON lines if it was cut off in the middle.

    Args:
        path: The file.
        prompt_column: What was answered.
        chosen_column: The better answer of a pair.
        rejected_column: The worse one.
        group_column: The unit of splitting.
        merge: Make one ranking of the rows of a prompt where they agree; see
            `agents.preferences.merging`. Contradictions are dropped and counted. False
            keeps every row by itself.

    Raises:
        ConfigError: if the file cannot be read, a cell is of the wrong kind (with its line),
            the columns look swapped, or nothing is left.
        UnknownNameError: if a column is missing, with near names.
        MissingDependencyError: if a Parquet file is given and `datasets` is absent.
    """
    path = Path(path)
    collector = RankingCollector()
    rows = _rows(path, collector)
    columns = Columns(path.name, prompt_column, chosen_column, rejected_column, group_column)
    columns.check(rows)
    for where, cells in rows:
        row = columns.ranked(where, cells)
        collector.add(row.prompt, row.answers, row.ranks, group=row.group, prompt_id=row.prompt_id)
    remedy = f"{path.name!r} needs prompts with at least two answers of different worth"
    found = collector.finish(remedy, notes=columns.notes())
    if not merge:
        return found
    rankings, dropped = merged(found)
    return ranking_set(rankings, {**found.counts, **dropped}, remedy, notes=found.notes)


def write_rankings(path: str | Path, rankings: Iterable[Ranking]) -> None:
    """Write JSON lines, one a ranking, whole or not at all; `read_rankings` reads them.

    The fields of a line are those of `Ranking`: `prompt`, `answers`, `ranks`, `group`,
    `prompt_id`.

    Raises:
        ConfigError: if the file cannot be written there.
    """
    lines = []
    for ranking in rankings:
        record = {
            "prompt": ranking.prompt,
            "answers": list(ranking.answers),
            "ranks": list(ranking.ranks),
            "group": ranking.group,
            "prompt_id": ranking.prompt_id,
        }
        lines.append(_json_line(record))
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(lines))
    except OSError as error:
        raise ConfigError(
            f"{str(path)!r} cannot be written: {error.strerror}; choose another file"
        ) from error


def _json_line(record: Mapping[str, Any]) -> str:
    """Return a line in UTF-8, escaped only where it holds half of a surrogate pair."""
    line = json.dumps(record, ensure_ascii=False)
    return (json.dumps(record) if LONE_SURROGATE.search(line) else line) + "\n"


def _rows(path: Path, collector: RankingCollector) -> list[Row]:
    if path.suffix.casefold() in (".jsonl", ".ndjson"):
        return _json_lines(path, collector)
    return [(f"row {number}", row) for number, row in enumerate(read_table(path), start=1)]


def _json_lines(path: Path, collector: RankingCollector) -> list[Row]:
    """Return the objects of JSON lines; a last line without its end is left out and counted.

    Lines end at line feeds alone: U+2028 may stand inside a JSON text.
    """
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise ConfigError(f"{str(path)!r} cannot be read: {error.strerror}") from error
    rows: list[Row] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            cells = json.loads(line.decode("utf-8"))
        except (ValueError, RecursionError) as error:
            if number == len(lines):  # nothing stands behind it, not even a line feed
                collector.count(TORN)
                continue
            raise ConfigError(
                f"{path.name!r}, line {number}: this is no JSON ({error}); every line must be "
                'an object such as {"prompt": "...", "chosen": "...", "rejected": "..."}'
            ) from error
        if not isinstance(cells, dict):
            raise ConfigError(
                f"{path.name!r}, line {number}: a line must be an object, got {cells!r:.60}; "
                'write {"prompt": "...", "chosen": "...", "rejected": "..."}'
            )
        rows.append((f"line {number}", cells))
    return rows
