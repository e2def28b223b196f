"""Reports: one page of a study or of a run, readable offline, and the same in Markdown."""

from textenvs.benchmark.report.writing import write_report

__all__ = ["write_report"]
