"""From a folder to its report: `report.html`, `report.md` and the charts of the latter."""

from pathlib import Path

from textenvs.benchmark.report.blocks import Page
from textenvs.benchmark.report.markdown import markdown, write_charts
from textenvs.benchmark.report.run_page import CONFIG, EPISODES, MANIFEST, METRICS, run_page
from textenvs.benchmark.report.study_page import study_page
from textenvs.benchmark.report.web_page import web_page
from textenvs.errors import ConfigError
from textenvs.files import write_text

NAME = "report.html"
SUFFIXES = (".html", ".htm", ".md")


def write_report(folder: str | Path, out: str | Path | None = None) -> Path:
    """Write the report of a study or of a run, finished or not.

    Three things are written side by side: the page (`NAME.html`, one file that needs no
    other and no network), the same as Markdown (`NAME.md`), and the charts of the
    Markdown (`NAME_charts/*.svg`). The same folder gives the same bytes.

    Args:
        folder: Of a study (`study.toml` or `summary.json`, and `cells/`), or of a run
            (`metrics.jsonl`, `manifest.json`, `episodes.jsonl` or `config.toml`).
        out: The page; by default `report.html` in the folder.

    Returns:
        The path of the page.

    Raises:
        ConfigError: if the folder is neither, or the report cannot be written there.
        CheckpointError: if a study has no summary and a cell cannot be read.
    """
    folder = Path(folder)
    path = folder / NAME if out is None else Path(out)
    if path.suffix.lower() not in SUFFIXES:
        raise ConfigError(f"a report is a file named *.html, got {str(path)!r}")
    page = report_page(folder)
    charts = path.with_name(f"{path.stem}_charts")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_charts(page, charts)
        write_text(path.with_suffix(".md"), markdown(page, charts.name))
        html = path if path.suffix.lower() != ".md" else path.with_suffix(".html")
        write_text(html, web_page(page))
    except OSError as error:
        raise ConfigError(
            f"the report cannot be written to {str(path)!r}: {error.strerror}; choose another file"
        ) from error
    return html


def report_page(folder: Path) -> Page:
    """Return what the report of a folder says.

    Raises:
        ConfigError: if it is neither a study nor a run.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"{str(folder)!r} is no folder; give that of a run (textenvs train --out) or of a "
            "study (textenvs bench run)"
        )
    if (folder / "cell.json").is_file():
        raise ConfigError(
            f"{str(folder)!r} is one cell of a study; give the folder of the study, which is two "
            "levels up"
        )
    if (folder / "summary.json").is_file() or (folder / "cells").is_dir():
        return study_page(folder)
    if any((folder / name).is_file() for name in (METRICS, MANIFEST, EPISODES, CONFIG)):
        return run_page(folder)
    raise ConfigError(
        f"{str(folder)!r} is neither a study nor a run: a study holds cells/ and study.toml "
        f"(textenvs bench run), a run holds {METRICS}, {CONFIG} and, once finished, {MANIFEST} "
        "(textenvs train, sft, rm, ...)"
    )
