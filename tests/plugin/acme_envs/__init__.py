"""Environments of Acme for textenvs."""
