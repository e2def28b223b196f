"""Wrappers around text environments."""
