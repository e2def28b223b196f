"""Scoring in a process that can be killed."""
