"""Make films.tsv.gz, the films corpus, from the CC0 table of ``bokeh-sampledata``.

Run ``python textenvs/assets/make_films.py`` in an environment that holds
``bokeh-sampledata==2026.1``. The same package gives the same bytes.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import importlib.util
import io
import sqlite3
import unicodedata
from pathlib import Path

PACKAGE = "bokeh_sampledata"
DATABASE = "_data/movies.db"
COLUMNS = ("title", "category", "year", "director", "cast")
CAST_NAMES = 3  # the longest casts run to fifty names; three keep the file near half a megabyte
QUERY = 'SELECT Title, Genre, Year, Director, "Cast" FROM omdb ORDER BY imdbID'


def normalise_title(title: str) -> str:
    """Return the form under which two titles count as the same.

    >>> normalise_title("  The  STRANGER ")
    'the stranger'
    """
    return " ".join(unicodedata.normalize("NFKC", title).casefold().split())


def database_path() -> Path:
    """Find the database without importing its package.

    Raises:
        FileNotFoundError: if the package or its database is missing.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            f"package {PACKAGE!r} is not installed; `pip install bokeh-sampledata==2026.1`"
        )
    path = Path(spec.submodule_search_locations[0]) / DATABASE
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing; the films were taken from version 2026.1")
    return path


def read_films(database: Path) -> list[tuple[str, str, str, str, str]]:
    """Read one record of COLUMNS a film, first genre as category, sorted by title.

    Films without title or genre are left out. Of films that share a normalised title the one
    with the lowest imdbID stays, so that no title can fall on both sides of a split.
    """
    # Read-only and immutable: installed packages may lie on a file system that refuses a journal.
    connection = sqlite3.connect(f"{database.as_uri()}?mode=ro&immutable=1", uri=True)
    try:
        rows = connection.execute(QUERY).fetchall()
    finally:
        connection.close()
    films: dict[str, tuple[str, str, str, str, str]] = {}
    for title, genre, year, director, cast in rows:
        category = _names(genre, 1)
        key = normalise_title(title or "")
        if category and key and key not in films:
            title = " ".join(title.split())  # a tab or newline would break the table
            films[key] = (
                title,
                category,
                str(year or ""),
                _names(director),
                _names(cast, CAST_NAMES),
            )
    return [films[key] for key in sorted(films)]


def _names(field: str | None, limit: int | None = None) -> str:
    """Keep the first names of a comma-separated field, white space made single spaces."""
    names = [" ".join(name.split()) for name in (field or "").split(",")]
    return ", ".join([name for name in names if name][:limit])


def write_table(films: list[tuple[str, str, str, str, str]], path: Path) -> None:
    """Write a gzipped tab-separated table whose bytes depend on its content alone."""
    text = io.StringIO()
    writer = csv.writer(
        text, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None
    )
    writer.writerow(COLUMNS)
    writer.writerows(films)
    # mtime=0: the default header carries the time of day.
    path.write_bytes(gzip.compress(text.getvalue().encode(), compresslevel=9, mtime=0))


def main() -> None:
    """Write the table beside this script, or where --out says."""
    parser = argparse.ArgumentParser(description=__doc__)
    default = Path(__file__).resolve().with_name("films.tsv.gz")
    parser.add_argument("--out", type=Path, default=default)
    out: Path = parser.parse_args().out
    films = read_films(database_path())
    write_table(films, out)
    print(f"{len(films)} films, {out.stat().st_size} bytes: {out}")


if __name__ == "__main__":
    main()
