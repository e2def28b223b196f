"""Checks of an environment: is it sound, and can its reward be had for nothing?"""

from textenvs.checker.report import Report, Row
from textenvs.checker.run import check

__all__ = ["Report", "Row", "check"]
