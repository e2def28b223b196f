"""Audits of a reward: how will it be gamed, before anyone trains on it?"""

from textenvs.audit.findings import Report, Row
from textenvs.audit.run import audit

__all__ = ["Report", "Row", "audit"]
